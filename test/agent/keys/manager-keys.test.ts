import { chmod, copyFile, readFile, writeFile } from "node:fs/promises";
import { existsSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import Database from "better-sqlite3";
import t from "tap";
import { enroll } from "../../../atplatform/client/enroll.js";
import { readAtKeysFile, writeAtKeysFile } from "../../../atplatform/crypto/at-keys-file.js";
import { parseAtSign } from "../../../atplatform/protocol/at-sign.js";
import { Scope } from "../../../core/scope.js";
import { Secret } from "../../../core/secret.js";
import { TestPlatform } from "../../fixtures/at-platform.js";
import { AtedgeProcess } from "../../fixtures/atedge-process.js";
import { bundleCli } from "../../fixtures/bundled-cli.js";

const forever = new AbortController().signal;

t.test("the agent and its keys", async (t) => {
  const scope = new Scope();
  t.teardown(() => scope[Symbol.asyncDispose]());
  const cli = scope.use(await bundleCli());
  const folder = t.testdir({ platform: {} });
  const file = (name: string): string => join(folder, name);
  const platform = scope.use(await TestPlatform.open(file("platform")));
  await platform.onboard("@greenhouse");
  await platform.onboard("@grower");
  const { caFile = "" } = platform.platform;
  const reach = ["--directory", `localhost:${platform.directory.port}`, "--ca", caFile];
  const start = (...args: string[]): AtedgeProcess => scope.use(new AtedgeProcess(cli.path, args));

  const owner = scope.use(await platform.client("@greenhouse"));
  await enroll(
    {
      ...{ atSign: parseAtSign("@greenhouse"), directory: platform.directory, ca: platform.platform.caPem },
      ...{ appName: "atedge", deviceName: "north", namespaces: { "north.atedge": "rw" } },
      ...{ keyFile: file("north.atKeys"), pollMs: 100 },
      passcode: await owner.enrollments.newPasscode({}, forever),
      onPending: ({ enrollmentId: id, fingerprint }) =>
        void owner.enrollments.approve({ id }, { fingerprint }, forever),
    },
    forever,
  );

  const SIMULATED = `[[driver]]\nid = "sim"\ntype = "simulated"\nintervalMs = 50\nname = "level"\n`;
  /** The configuration of a device in a folder of its own, with a copy of these keys. */
  async function configured(device: string, keyFile: string, text = SIMULATED): Promise<string> {
    const home = file(`agent-${device}`);
    mkdirSync(home, { recursive: true });
    await copyFile(keyFile, join(home, "device.atKeys"));
    const directory = `localhost:${platform.directory.port}`;
    const base = { atsign: "@greenhouse", device, directory, ca: caFile, keys: "device.atKeys", stateDir: "state" };
    const lines = Object.entries(base).map(([key, value]) => `${key} = ${JSON.stringify(value)}`);
    await writeFile(join(home, "atedge.toml"), `${lines.join("\n")}\nmaxDelayMs = 100\n${text}`);
    return join(home, "atedge.toml");
  }
  const run = (config: string): AtedgeProcess => start("run", "--config", config);
  const REFUSED =
    /^atedge: the keys in .*: whoever gets hold of this board.*`atedge enroll @greenhouse`.*allowManagerKeys/mu;

  t.test("refuses keys that were never enrolled, before anything else", async (t) => {
    const config = await configured("legacy", platform.keyFile("@greenhouse"));
    const keyFile = file("agent-legacy/device.atKeys");
    const members = Object.entries(JSON.parse(await readFile(keyFile, "utf8")) as Record<string, string>);
    const legacy = members.filter(([name]) => name !== "enrollmentId");
    await writeFile(keyFile, JSON.stringify(Object.fromEntries(legacy)));
    t.match(await run(config).ended, { code: 1, err: REFUSED });
    t.notOk(existsSync(file("agent-legacy/state/outbox.db")));
  });

  t.test("accepts readings with an owner's keys until the atServer tells what they hold, and remembers", async (t) => {
    const reader = `[[reader]]\natsign = "@grower"\n${SIMULATED}`;
    const config = await configured("owners", platform.keyFile("@greenhouse"), reader);
    await platform.stop();
    const first = run(config);
    await first.until(({ err }) => err.includes("driver running") || undefined, "a driver that runs");
    await platform.start();
    t.match(await first.ended, { code: 1, err: REFUSED });
    const db = new Database(file("agent-owners/state/outbox.db"));
    t.ok(Number(db.prepare("SELECT count(*) FROM reading").pluck().get()) > 0, "readings were accepted");
    db.close();
    await platform.stop();
    const second = await run(config).ended;
    t.match(second, { code: 1, err: REFUSED }, "without the atServer");
    t.notMatch(second.err, "driver running");
    await platform.start();
  });

  t.test("runs with an owner's keys when the configuration says so", async (t) => {
    const config = await configured(
      "allowed",
      platform.keyFile("@greenhouse"),
      `allowManagerKeys = true\n${SIMULATED}`,
    );
    const agent = run(config);
    await agent.until(({ err }) => err.includes("monitor connection is live") || undefined, "a connection");
    t.equal((await agent.stop()).code, 0);
  });

  t.test("does all it has to do with the keys of an enrolment", async (t) => {
    const allow = `[[allow]]\natsign = "@grower"\ncommands = ["sim/set"]\n`;
    const text = `[[reader]]\natsign = "@grower"\n${allow}${SIMULATED}`;
    const agent = run(await configured("north", file("north.atKeys"), text));
    const asReader = ["--as", "@grower", "--keys", platform.keyFile("@grower"), ...reach, "--state", file("known")];
    const watch = start("watch", "@greenhouse/north", ...asReader, "--keep", file("kept.db"), "--json");
    await watch.until(({ out }) => out.includes('"name":"level"') || undefined, "a reading");
    const called = await start("call", "@greenhouse/north", "sim", "set", '{"value":42}', ...asReader).ended;
    t.match(called, { code: 0, out: /\{"value":42\}\n/u });
    for (const record of ["proof", "info", "state"]) {
      const name = `@grower:${record}.north.atedge@greenhouse`;
      t.ok(await appears(() => owner.scan({ regex: `${record}\\.north` }, forever), name), `${name} is there`);
    }
    t.equal((await watch.stop()).code, 0);
    const ended = await agent.stop();
    t.equal(ended.code, 0);
    t.notMatch(ended.err, "AT0009");
    t.match(JSON.parse(await readFile(file("agent-north/state/enrollment.json"), "utf8")), {
      namespaces: { "north.atedge": "rw" },
    });
  });

  t.test("reads keys that are sealed with a passphrase, from a file of the agent's user alone", async (t) => {
    const passphrase = new Secret("correct horse battery");
    const home = file("agent-sealed");
    const config = await configured("sealed", file("north.atKeys"), SIMULATED);
    const north = (await readFile(config, "utf8")).replace('device = "sealed"', 'device = "north"');
    const keys = await readAtKeysFile(file("north.atKeys"));
    await writeAtKeysFile(join(home, "device.atKeys"), "@greenhouse", keys, { passphrase, overwrite: true });
    await writeFile(config, north);
    t.match(await run(config).ended, {
      code: 1,
      err: /device.atKeys is sealed with a passphrase: .*keysPassphraseFile/u,
    });
    await writeFile(config, `keysPassphraseFile = "passphrase"\n${north}`);
    t.match(await run(config).ended, { code: 1, err: /there is no passphrase file .*medium/u });
    await writeFile(join(home, "passphrase"), "correct horse battery\n", { mode: 0o644 });
    t.match(await run(config).ended, { code: 1, err: /passphrase has mode 0644.*chmod 600/u });
    await chmod(join(home, "passphrase"), 0o600);
    const agent = run(config);
    await agent.until(({ err }) => err.includes("monitor connection is live") || undefined, "a connection");
    t.equal((await agent.stop()).code, 0);
  });

  t.test("reads keys and passphrase from systemd's credentials, whose mode shows as 0440", async (t) => {
    const config = await configured("north", file("north.atKeys"), SIMULATED);
    const credentials = file("credentials");
    mkdirSync(credentials, { mode: 0o700, recursive: true });
    const passphrase = new Secret("correct horse battery");
    const keys = await readAtKeysFile(file("north.atKeys"));
    await writeAtKeysFile(join(credentials, "atedge.atkeys"), "@greenhouse", keys, { passphrase });
    await chmod(join(credentials, "atedge.atkeys"), 0o440);
    await writeFile(join(credentials, "atedge.passphrase"), "correct horse battery", { mode: 0o440 });
    const text = (await readFile(config, "utf8")).replace(
      '"device.atKeys"',
      JSON.stringify(join(credentials, "atedge.atkeys")),
    );
    await writeFile(config, `keysPassphraseFile = ${JSON.stringify(join(credentials, "atedge.passphrase"))}\n${text}`);
    t.match(await run(config).ended, { code: 1, err: /mode 0440/u }, "elsewhere that is too much");
    const env = { CREDENTIALS_DIRECTORY: credentials };
    const agent = scope.use(new AtedgeProcess(cli.path, ["run", "--config", config], { env }));
    await agent.until(({ err }) => err.includes("monitor connection is live") || undefined, "a connection");
    t.equal((await agent.stop()).code, 0);
  });

  t.test("says when the enrolment is for another device", async (t) => {
    const agent = run(await configured("south", file("north.atKeys")));
    await agent.until(({ err }) => err.includes("the enrolment is not for this device") || undefined, "a complaint");
    t.equal((await agent.stop()).code, 0);
  });
});

/** Whether a name is among what `list` gives, now or within ten seconds. */
async function appears(list: () => Promise<readonly string[]>, name: string): Promise<boolean> {
  for (const endMs = performance.now() + 10_000; performance.now() < endMs; await sleep(100))
    if ((await list()).includes(name)) return true;
  return false;
}
