import Database from "better-sqlite3";
import { chmodSync, copyFileSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:net";
import { join } from "node:path";
import t from "tap";
import { Scope } from "../../../core/scope.js";
import { TestPlatform } from "../../fixtures/at-platform.js";
import { AtedgeProcess } from "../../fixtures/atedge-process.js";
import { bundleCli } from "../../fixtures/bundled-cli.js";

const SIMULATED = `[[driver]]\nid = "sim"\ntype = "simulated"\nintervalMs = 50\nname = "level"\n`;
const STOP_WITHIN_MS = 5000;

t.test("the agent as a process", async (t) => {
  const scope = new Scope();
  t.teardown(() => scope[Symbol.asyncDispose]());
  const cli = scope.use(await bundleCli());
  const folder = t.testdir({ platform: {} });
  const platform = scope.use(await TestPlatform.open(join(folder, "platform")));
  for (const name of ["@greenhouse", "@grower", "@stranger"]) await platform.onboard(name);
  const directory = `localhost:${platform.directory.port}`;
  const { caFile = "" } = platform.platform;

  const start = (...args: string[]): AtedgeProcess => scope.use(new AtedgeProcess(cli.path, args));

  /** A configuration in a folder of its own. */
  function configured(name: string, text: string, at = directory): string {
    const home = join(folder, name);
    mkdirSync(home, { recursive: true });
    copyFileSync(platform.keyFile("@greenhouse"), join(home, "device.atKeys"));
    chmodSync(join(home, "device.atKeys"), 0o600);
    const file = join(home, "atedge.toml");
    const base = {
      atsign: "@greenhouse",
      device: name,
      directory: at,
      ca: caFile,
      keys: "device.atKeys",
      stateDir: "state",
      // Onboarding is quicker than enrolling; test/cli/enrollment.test.ts runs the agent with enrolled keys.
      allowManagerKeys: true,
    };
    const lines = Object.entries(base).map(([key, value]) => `${key} = ${JSON.stringify(value)}`);
    writeFileSync(file, `${lines.join("\n")}\nmaxDelayMs = 100\n${text}`);
    return file;
  }

  const runAgent = (file: string): AtedgeProcess => start("run", "--config", file);
  const running = (agent: AtedgeProcess): Promise<true> =>
    agent.until(({ err }) => err.includes("driver running") || undefined, "a driver that runs");

  function remote(who: string): string[] {
    const known = { as: who, keys: platform.keyFile(who), directory, ca: caFile, state: join(folder, `known-${who}`) };
    return Object.entries(known).flatMap(([option, value]) => [`--${option}`, value]);
  }

  t.test(
    "says what is wrong and ends with 1, without a file, with a faulty one, and with exposed or missing keys",
    async (t) => {
      const none = await start("run", "--config", join(folder, "none.toml")).ended;
      t.match(none, { code: 1, err: /^atedge: there is no .*none\.toml: make one with/ });

      const faulty = configured("faulty", `maxBatch = 0\nfoo = 1\n`);
      const refused = await runAgent(faulty).ended;
      t.match(refused, { code: 1, err: /foo: unknown key.*\nmaxBatch: expected 1 to 1000, got 0\n/ });
      const checked = await start("config", "check", "--config", faulty, "--json").ended;
      t.equal(checked.code, 1);
      t.match(JSON.parse(checked.out), { faults: [{ path: "foo" }, { path: "maxBatch" }] });

      const exposed = configured("exposed", SIMULATED);
      chmodSync(join(folder, "exposed", "device.atKeys"), 0o640);
      t.match(await runAgent(exposed).ended, { code: 1, err: /has mode 0640.*chmod 600/ });
      rmSync(join(folder, "exposed", "device.atKeys"));
      t.match(await runAgent(exposed).ended, { code: 1, err: /there is no key file .*`atedge enroll @greenhouse/ });
    },
  );

  t.test("accepts readings while the atServer cannot be reached, and ends with 0 at SIGTERM", async (t) => {
    const port = await closedPort();
    const file = configured("alone", `[[reader]]\natsign = "@grower"\n${SIMULATED}`, `localhost:${port}`);
    const agent = runAgent(file);
    await running(agent);
    await agent.until(({ err }) => /lost|not be reached|CONNECT/u.test(err) || undefined, "a word about the atServer");
    await t.rejects(
      agent.until(({ err }) => err.includes("monitor connection is live") || undefined, "a connection", 1000),
    );
    const second = await runAgent(file).ended;
    t.match(second, { code: 1, err: /outbox\.db is in use by another atedge/ });
    const { code, tookMs } = await agent.stop();
    t.equal(code, 0);
    t.ok(tookMs < STOP_WITHIN_MS, `took ${tookMs} ms`);
    const accepted = waitingIn(join(folder, "alone", "state")).length;
    t.ok(accepted >= 3, `${accepted} readings were accepted`);
  });

  t.test(
    "brings readings to a reader, takes its commands, and goes on after a restart with nothing lost",
    async (t) => {
      const allow = `[[allow]]\natsign = "@grower"\ncommands = ["sim/set"]\n`;
      const file = configured("north", `[[reader]]\natsign = "@grower"\n${allow}${SIMULATED}`);
      const first = runAgent(file);
      await running(first);

      const watched = start("watch", "@greenhouse/north", ...remote("@grower"), "--json");
      await watched.until(({ out }) => /"name":"level","value":[0-9.]+/u.exec(out) ?? undefined, "a reading");

      const called = await start("call", "@greenhouse/north", "sim", "set", '{"value":42}', ...remote("@grower")).ended;
      t.match(called, { code: 0, out: /\{"value":42\}\n/ });
      await watched.until(
        ({ out }) => out.includes('"name":"level","value":42,') || undefined,
        "the value that was set",
      );
      t.equal((await watched.stop()).code, 0);

      const refused = await start("call", "@greenhouse/north", "sim", "free", ...remote("@grower")).ended;
      t.match(refused, { code: 1, err: /not-allowed/ });
      const stranger = await start(
        ...["call", "@greenhouse/north", "sim", "set", '{"value":1}', ...remote("@stranger"), "--ack-timeout", "2"],
      ).ended;
      t.match(stranger, { code: 1, err: /offline/ });
      await first.until(({ err }) => err.includes("no [[allow]] names") || undefined, "the audit line");

      const ended = await first.stop();
      t.equal(ended.code, 0);
      t.ok(ended.tookMs < STOP_WITHIN_MS, `took ${ended.tookMs} ms`);
      const accepted = waitingIn(join(folder, "north", "state"));
      t.ok(accepted.length > 5, "nobody has given a receipt so far");

      const second = runAgent(file);
      await running(second);
      const keep = join(folder, "keep.db");
      const kept = start("watch", "@greenhouse/north", ...remote("@grower"), "--keep", keep);
      await second.until(
        () => (waitingIn(join(folder, "north", "state")).some((time) => accepted.includes(time)) ? undefined : true),
        "an outbox without the readings of the first run",
        30_000,
      );
      t.equal((await second.stop()).code, 0);
      t.equal((await kept.stop()).code, 0);
      const times = columnOf(keep, "SELECT time_ms FROM reading WHERE name = 'level'");
      t.same(
        accepted.filter((time) => !times.includes(time)),
        [],
        "the reader has all that was accepted before the restart",
      );
      t.equal(columnOf(keep, "SELECT seq FROM gap").length, 0);
    },
  );

  t.test("reads its configuration anew at SIGHUP: what is unchanged runs on, a fault changes nothing", async (t) => {
    const allow = (commands: string): string => `[[allow]]\natsign = "@grower"\ncommands = ["${commands}"]\n`;
    const other = SIMULATED.replace('"sim"', '"other"');
    const file = configured("reloaded", `${allow("sim/free")}${SIMULATED}${other}`);
    const call = (...command: string[]) =>
      start("call", "@greenhouse/reloaded", ...command, ...remote("@grower")).ended;
    const agent = runAgent(file);
    const opened = (driver: string): number =>
      agent.err.split("\n").filter((line) => line.includes(`"driver":"${driver}"`) && line.includes("driver running"))
        .length;
    await agent.until(() => (opened("sim") === 1 && opened("other") === 1) || undefined, "both drivers");
    t.match(await call("sim", "set", '{"value":1}'), { code: 1, err: /not-allowed/ });

    const before = readFileSync(file, "utf8");
    const changed = before.replace("sim/free", "sim/set").replace(/(id = "other"[^[]*intervalMs = )50/u, "$160");
    writeFileSync(file, `${changed}[[driver]]\nid = "third"\ntype = "simulated"\nname = "third"\n`);
    agent.kill("SIGHUP");
    await agent.until(({ err }) => err.includes("configuration read anew") || undefined, "the new configuration");
    await agent.until(
      () => (opened("other") === 2 && opened("third") === 1) || undefined,
      "the changed and the new one",
    );
    t.equal(opened("sim"), 1, "the unchanged one was not touched");
    t.match(agent.err, /"changed":\["allow\.@grower\.commands","driver\.other\.intervalMs","driver\.third"\]/u);
    t.match(await call("sim", "set", '{"value":1}'), { code: 0 });

    writeFileSync(file, `maxBatch = 0\n${changed}`);
    agent.kill("SIGHUP");
    await agent.until(({ err }) => err.includes("stays in effect") || undefined, "the fault");
    t.match(agent.err, /maxBatch: expected 1 to 1000, got 0/);
    t.match(await call("third", "set", '{"value":1}'), { code: 1, err: /not-allowed/ }, "and the agent goes on");
    await agent.until(
      ({ err }) => /"name":"config","state":"degraded","code":"CONFIG_INVALID"/u.test(err) || undefined,
      "health",
    );

    writeFileSync(file, changed.replace("maxDelayMs = 100", "maxDelayMs = 200"));
    agent.kill("SIGHUP");
    await agent.until(({ err }) => /"paths":\["maxDelayMs"\].*at the next start/u.test(err) || undefined, "the rest");
    t.equal((await agent.stop()).code, 0);
    t.equal(opened("sim"), 1);
  });

  t.test("writes no secret anywhere but into the key file", async (t) => {
    const secrets = Object.values(JSON.parse(readFileSync(platform.keyFile("@greenhouse"), "utf8")) as object);
    const file = configured("quiet", `logLevel = "debug"\n[[reader]]\natsign = "@grower"\n${SIMULATED}`);
    const agent = runAgent(file);
    await agent.until(({ err }) => err.includes("monitor connection is live") || undefined, "a connection");
    const { err, out } = await agent.stop();
    for (const secret of secrets) if (typeof secret === "string" && secret.length > 20) t.notMatch(err + out, secret);
  });
});

t.test("the command line", async (t) => {
  const scope = new Scope();
  t.teardown(() => scope[Symbol.asyncDispose]());
  const cli = scope.use(await bundleCli());
  const folder = t.testdir({ platform: {} });
  const platform = scope.use(await TestPlatform.open(join(folder, "platform")));
  const { cramSecret } = await platform.platform.add("@alice");
  const file = (name: string): string => join(folder, name);
  writeFileSync(file("secret"), `${cramSecret}\n`);
  writeFileSync(file("wrong"), "0".repeat(cramSecret.length));
  writeFileSync(file("empty"), "\n");
  const run = (...args: string[]) => scope.use(new AtedgeProcess(cli.path, args)).ended;
  const site = ["--directory", `localhost:${platform.directory.port}`, "--ca", platform.platform.caFile ?? ""];
  const onboard = (...args: string[]) => run("onboard", "@alice", ...args, ...site);

  t.test("tells usage faults with exit code 2, and help with 0", async (t) => {
    t.match(await run("frobnicate"), { code: 2, err: /unknown command/ });
    t.match(await run("onboard", "@alice"), { code: 2, err: /--cram-file/ });
    t.match(await run("run", "--nothing"), { code: 2 });
    t.match(await run("--help"), { code: 0, out: /run .*watch .*call .*onboard/s });
    t.match(await run("--version"), { code: 0 });
  });

  t.test("onboards an atSign once, and says so the second time", async (t) => {
    const keys = ["--keys", file("alice.atKeys")];
    t.match(await onboard("--cram-file", file("empty"), ...keys), { code: 1, err: /empty is empty/ });
    t.match(await onboard("--cram-file", file("wrong"), ...keys), { code: 1, err: /does not take this secret/ });
    const first = await onboard("--cram-file", file("secret"), ...keys);
    t.match(first, { code: 0, out: /@alice is activated.*fingerprint.*sha256:[0-9a-f]{64}/s, err: /making keys/ });
    t.equal(statSync(file("alice.atKeys")).mode & 0o777, 0o600);
    for (const text of [first.out, first.err]) t.notMatch(text, cramSecret);
    const again = await onboard("--cram-file", file("secret"), ...keys, "--json");
    t.match(JSON.parse(again.out), { atsign: "@alice", alreadyActivated: true });
    t.match(await onboard("--cram-file", file("secret"), "--keys", file("other.atKeys")), {
      code: 1,
      err: /somebody has activated @alice with other keys/,
    });
  });

  t.test("explains a platform whose certificate nobody has vouched for", async (t) => {
    const args = ["--cram-file", file("secret"), "--keys", file("x.atKeys"), ...site.slice(0, 2)];
    t.match(await run("onboard", "@alice", ...args), { code: 1, err: /name it with --ca FILE/ });
  });

  t.test("prints an example that its own check takes", async (t) => {
    const { out, code } = await run("config", "example");
    t.equal(code, 0);
    writeFileSync(file("example.toml"), out);
    t.match(await run("config", "check", "--config", file("example.toml")), { code: 0, out: /is good\n$/ });
  });
});

/** Times of the readings that wait in an outbox; it is opened beside the agent's own handle, or after its end. */
function waitingIn(stateDir: string): number[] {
  const copy = join(stateDir, "..", `copy-${process.hrtime.bigint()}.db`);
  copyFileSync(join(stateDir, "outbox.db"), copy);
  try {
    copyFileSync(join(stateDir, "outbox.db-wal"), `${copy}-wal`);
  } catch {
    // a closed database has none
  }
  try {
    return columnOf(copy, "SELECT timeMs FROM reading");
  } finally {
    for (const end of ["", "-wal", "-shm"]) rmSync(copy + end, { force: true });
  }
}

function columnOf(path: string, sql: string): number[] {
  const db = new Database(path);
  try {
    return db.prepare<[], number>(sql).pluck().all();
  } finally {
    db.close();
  }
}

/** A port on which nobody listens. */
async function closedPort(): Promise<number> {
  const server: Server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  return typeof address === "object" && address ? address.port : 0;
}
