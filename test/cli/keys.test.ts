import { chmod, link, mkdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { existsSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { enroll } from "../../atplatform/client/enroll.js";
import { readAtKeysFile } from "../../atplatform/crypto/at-keys-file.js";
import { parseAtSign } from "../../atplatform/protocol/at-sign.js";
import { Scope } from "../../core/scope.js";
import { Secret } from "../../core/secret.js";
import { TestPlatform } from "../fixtures/at-platform.js";
import { AtedgeProcess, type Ended } from "../fixtures/atedge-process.js";
import { bundleCli } from "../fixtures/bundled-cli.js";

const forever = new AbortController().signal;
const greenhouse = parseAtSign("@greenhouse");

t.test("key files on the command line", { timeout: 240_000 }, async (t) => {
  const scope = new Scope();
  t.teardown(() => scope[Symbol.asyncDispose]());
  const cli = scope.use(await bundleCli());
  const folder = t.testdir({ platform: {} });
  const file = (name: string): string => join(folder, name);
  const platform = scope.use(await TestPlatform.open(file("platform")));
  await platform.onboard("@greenhouse");
  await platform.onboard("@grower");
  const { caFile = "", caPem } = platform.platform;
  const reach = ["--directory", `localhost:${platform.directory.port}`, "--ca", caFile];
  const start = (...args: string[]): AtedgeProcess => scope.use(new AtedgeProcess(cli.path, args));
  const asOwner = ["--as", "@greenhouse", "--keys", platform.keyFile("@greenhouse"), ...reach];
  const owner = scope.use(await platform.client("@greenhouse"));
  await writeFile(file("passphrase"), "correct horse battery\n", { mode: 0o600 });

  /** A board in a folder of its own, enrolled, with the configuration of its agent. */
  async function board(device: string, more = ""): Promise<{ readonly config: string; readonly keys: string }> {
    await mkdir(file(device));
    const keys = file(`${device}/board.atKeys`);
    await enroll(
      {
        ...{ atSign: greenhouse, directory: platform.directory, ca: caPem, pollMs: 50 },
        ...{ appName: "atedge", deviceName: device, namespaces: { [`${device}.atedge`]: "rw" }, keyFile: keys },
        passcode: await owner.enrollments.newPasscode({}, forever),
        onPending: ({ enrollmentId: id, fingerprint }) =>
          void owner.enrollments.approve({ id }, { fingerprint }, forever),
      },
      forever,
    );
    const directory = `localhost:${platform.directory.port}`;
    const base = { atsign: "@greenhouse", device, directory, ca: caFile, keys: "board.atKeys", stateDir: "state" };
    const lines = Object.entries(base).map(([key, value]) => `${key} = ${JSON.stringify(value)}`);
    await writeFile(file(`${device}/atedge.toml`), `${lines.join("\n")}\nmaxDelayMs = 50\n${more}`);
    return { config: file(`${device}/atedge.toml`), keys };
  }
  const idIn = async (keys: string): Promise<string> => (await readAtKeysFile(keys)).enrollmentId ?? "";
  const rotate = (config: string, ...more: string[]): AtedgeProcess =>
    start("keys", "rotate", "--config", config, "--poll", "100ms", "--wait", "60s", "--json", ...more);
  const facts = ({ out }: { readonly out: string }): { readonly type: string; readonly [name: string]: unknown }[] =>
    out
      .split("\n")
      .filter((line) => line !== "")
      .map((line) => JSON.parse(line) as { readonly type: string });
  const seen = (process: AtedgeProcess, type: string) =>
    process.until((each) => facts(each).find((fact) => fact.type === type), `the step ${type}`);
  const approve = (fingerprint: unknown): Promise<Ended> =>
    start("approve", "--fingerprint", String(fingerprint), "--wait", "30s", ...asOwner).ended;
  const statesOf = async (device: string): Promise<Record<string, string>> => {
    const all = (await owner.enrollments.list({}, forever)).filter(({ deviceName }) => deviceName === device);
    return Object.fromEntries(all.map(({ appName, status }) => [appName, status]));
  };

  await t.test("rotate replaces the keys of a running agent, which loses nothing by it", async (t) => {
    const driver = `[[reader]]\natsign = "@grower"\n[[driver]]\nid = "sim"\ntype = "simulated"\nintervalMs = 20\nname = "level"\n`;
    const { config, keys } = await board("north", driver);
    const before = await idIn(keys);
    const agent = start("run", "--config", config);
    const reader = ["--as", "@grower", "--keys", platform.keyFile("@grower"), "--state", file("known"), ...reach];
    const watch = start("watch", "@greenhouse/north", ...reader, "--keep", file("kept.db"), "--json");
    await watch.until(({ out }) => out.includes('"name":"level"') || undefined, "a reading");
    const rotating = rotate(config);
    const { fingerprint, appName } = await seen(rotating, "pending");
    t.equal(appName, "atedge-r2");
    const approved = await approve(fingerprint);
    t.match(approved, {
      code: 0,
      out: /approved: atedge-r2 on north.*\n.*revoked, as its board has new keys: atedge on north/u,
    });
    t.match(await rotating.ended, { code: 0 });
    const after = await idIn(keys);
    t.match(facts(rotating), [
      { type: "pending" },
      { type: "switched", enrollmentId: after },
      { type: "agent", isRunning: true },
      { type: "replaced", enrollmentId: before },
      { type: "done", enrollmentId: after, replaced: before },
    ]);
    t.same(await statesOf("north"), { atedge: "revoked", "atedge-r2": "approved" });
    t.notOk(existsSync(`${keys}.old`), "the old keys are not kept");
    t.equal((await stat(keys)).mode & 0o777, 0o600);
    t.match(JSON.parse(await readFile(file("north/state/enrollment.json"), "utf8")), { enrollmentId: after });
    const count = (process: AtedgeProcess): number => process.out.split('"name":"level"').length;
    const soFar = count(watch);
    await watch.until((each) => count(each) > soFar + 50 || undefined, "readings after the change");
    t.equal((await watch.stop()).code, 0);
    const ended = await agent.stop();
    t.equal(ended.code, 0);
    t.notMatch(ended.err, /AT0027|AT0401|refuses these keys/u, "it never was refused");
    const readings = facts(watch).map(({ inc, seq }) => ({ inc, seq: Number(seq) }));
    t.equal(new Set(readings.map(({ inc }) => inc)).size, 1, "no gap is told, and no new life of the stream");
    const seqs = [...new Set(readings.map(({ seq }) => seq))];
    t.same(
      seqs,
      seqs.map((_, index) => (seqs[0] ?? 0) + index),
      "no message is missing",
    );
    t.match(await approve(fingerprint), { code: 0, out: /was approved already/u }, "the owner may say it again");
    t.match(await start("revoke", "--device", "north", ...asOwner).ended, { out: /revoked: atedge-r2 on north/u });
  });

  await t.test("rotate goes on after a kill at any point, and the board works meanwhile", async (t) => {
    const { config, keys } = await board("south");
    const works = async (): Promise<void> => {
      const doctor = await start("doctor", "--config", config, "--json").ended;
      t.match(doctor.out, /"check":"login","state":"ok"/u);
    };
    const first = await idIn(keys);
    const asking = rotate(config);
    const { fingerprint, enrollmentId } = await seen(asking, "pending");
    await asking.stop("SIGKILL");
    await works();
    const again = rotate(config);
    t.match(await seen(again, "pending"), { fingerprint, enrollmentId }, "the same request");
    await again.stop("SIGKILL");

    // Approved while nobody waits; then each state that a kill can leave behind.
    const approving = start("approve", "--fingerprint", String(fingerprint), "--wait", "60s", ...asOwner);
    await approving.until(({ out }) => out.includes("approved: atedge-r2") || undefined, "an approval");
    await approving.stop("SIGKILL");
    const fetching = rotate(config, "--poll", "100ms");
    await seen(fetching, "switched");
    await fetching.stop("SIGKILL");
    const second = await idIn(keys);
    t.equal(second, enrollmentId);
    t.equal(await idIn(`${keys}.old`), first);
    await works();

    // Between the link of the old file and the rename of the new one.
    await rename(keys, `${keys}.next`);
    await link(`${keys}.old`, keys);
    await works();
    const switching = rotate(config);
    await seen(switching, "replaced");
    await switching.stop("SIGKILL");
    t.equal(await idIn(keys), second);
    t.match(await start("doctor", "--config", config, "--offline").ended, {
      out: /warn {2}keys .*a change of keys is not finished.*\n.*atedge keys rotate/u,
    });

    t.match(await approve(fingerprint), { code: 0, out: /was approved already.*\n.*revoked, as its board/su });
    await works();
    t.match(await rotate(config).ended, { code: 0, out: /"type":"done"/u });
    t.notOk(existsSync(`${keys}.old`));
    t.same(await statesOf("south"), { atedge: "revoked", "atedge-r2": "approved" });

    const third = rotate(config);
    t.match(await seen(third, "pending"), { appName: "atedge-r3" });
    t.match(await start("deny", "--device", "south", ...asOwner).ended, { code: 0 });
    t.match(await third.ended, { code: 1, err: /denied/u });
    await works();
    t.equal(await idIn(keys), second, "what was denied changes nothing");
  });

  await t.test("rotate waits no longer than it is told, and says what it cannot do", async (t) => {
    const { config, keys } = await board("west");
    t.match(await rotate(config, "--wait", "1500ms").ended, { code: 1, err: /not done within.*goes on where it was/u });
    const owners = (await readFile(config, "utf8")).replace('"board.atKeys"', JSON.stringify(file("legacy.atKeys")));
    const members = Object.entries(JSON.parse(await readFile(keys, "utf8")) as Record<string, string>);
    const legacy = Object.fromEntries(members.filter(([name]) => name !== "enrollmentId"));
    await writeFile(file("legacy.atKeys"), JSON.stringify(legacy), { mode: 0o600 });
    await writeFile(config, owners);
    t.match(await rotate(config).ended, { code: 1, err: /never enrolled/u });
  });

  await t.test("backup and restore: a lost key file comes back, and nothing else opens the copy", async (t) => {
    const original = platform.keyFile("@greenhouse");
    const before = await readAtKeysFile(original);
    const options = ["--keys", original, "--as", "@greenhouse", "--passphrase-file", file("passphrase")];
    const made = await start("keys", "backup", ...options, "--out", file("backup")).ended;
    t.match(made, { code: 0, out: /copy was read back/u });
    const text = await readFile(file("backup"), "utf8");
    t.equal((await stat(file("backup"))).mode & 0o777, 0o600);
    for (const secret of [Buffer.from(before.selfKey.reveal()).toString("base64"), "correct horse", "aesPkam"])
      t.notMatch(text, secret);
    t.match(JSON.parse(text), { v: 1, hashingAlgoType: "argon2id", salt: /./u });
    t.match(await start("keys", "backup", ...options, "--out", file("backup")).ended, {
      code: 1,
      err: /not overwritten/u,
    });
    await writeFile(file("short"), "horse", { mode: 0o600 });
    const short = start("keys", "backup", "--keys", original, "--passphrase-file", file("short"), "--out", file("b2"));
    t.match(await short.ended, { code: 2, err: /at least 10 characters/u });

    t.match(await start("keys", "restore", file("backup"), ...options).ended, { code: 1, err: /not overwritten/u });
    await rm(original);
    await writeFile(file("wrong"), "incorrect horse", { mode: 0o600 });
    const wrong = start("keys", "restore", file("backup"), "--keys", original, "--passphrase-file", file("wrong"));
    t.match(await wrong.ended, { code: 1, err: /wrong passphrase or damaged file/u });
    t.notOk(existsSync(original));
    t.match(await start("keys", "restore", file("backup"), ...options, "--json").ended, {
      code: 0,
      out: /"fingerprint":"sha256:/u,
    });
    t.equal((await stat(original)).mode & 0o777, 0o600);
    t.match(await start("enrollments", ...asOwner).ended, { code: 0, out: /approved/u }, "the atServer takes them");
    t.equal((await readAtKeysFile(original)).enrollmentId, before.enrollmentId);
  });

  await t.test("seal and unseal: where the file is, and the keys stay the same", async (t) => {
    const { config, keys } = await board("east");
    const id = await idIn(keys);
    const sealing = ["--keys", keys, "--passphrase-file", file("passphrase")];
    t.match(await start("keys", "seal", ...sealing).ended, { code: 0, out: /is sealed/u });
    t.equal((await stat(keys)).mode & 0o777, 0o600);
    const passphrase = new Secret("correct horse battery");
    t.equal((await readAtKeysFile(keys, { passphrase })).enrollmentId, id);
    t.match(await start("keys", "seal", ...sealing).ended, { code: 1, err: /sealed already/u });
    t.match(await start("doctor", "--config", config, "--offline", "--json").ended, {
      code: 1,
      out: /"check":"keys","state":"bad","text":"[^"]*sealed with a passphrase/u,
    });
    await writeFile(
      config,
      `keysPassphraseFile = ${JSON.stringify(file("passphrase"))}\n${await readFile(config, "utf8")}`,
    );

    const rotating = rotate(config);
    const { fingerprint } = await seen(rotating, "pending");
    t.match(await approve(fingerprint), { code: 0 });
    t.match(await rotating.ended, { code: 0 });
    t.not((await readAtKeysFile(keys, { passphrase })).enrollmentId, id, "sealed keys are rotated, and stay sealed");

    t.match(await start("keys", "unseal", ...sealing).ended, { code: 0, out: /not sealed any more/u });
    t.type((await readAtKeysFile(keys)).enrollmentId, "string");
    await chmod(keys, 0o644);
    t.match(await start("keys", "seal", ...sealing).ended, { code: 1, err: /chmod 600/u });
    t.match(await start("keys", "seal").ended, { code: 2, err: /--keys/u });
  });
});
