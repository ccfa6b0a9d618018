import { chmodSync, copyFileSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { Scope } from "../../../core/scope.js";
import { TestPlatform } from "../../fixtures/at-platform.js";
import { AtedgeProcess } from "../../fixtures/atedge-process.js";
import { bundleCli } from "../../fixtures/bundled-cli.js";
import { PtyDevice } from "../../fixtures/pty-device.js";

const DRIVER = `[[driver]]\nid = "sim"\ntype = "simulated"\nintervalMs = 100\nname = "level"\n`;
t.test("an operator far away", { timeout: 280_000 }, async (t) => {
  const scope = new Scope();
  t.teardown(() => scope[Symbol.asyncDispose]());
  const cli = scope.use(await bundleCli());
  const folder = t.testdir({ platform: {}, home: {} });
  const platform = scope.use(await TestPlatform.open(join(folder, "platform")));
  for (const name of ["@greenhouse", "@grower"]) await platform.onboard(name);
  const directory = `localhost:${platform.directory.port}`;
  const { caFile = "" } = platform.platform;
  const home = join(folder, "home");
  mkdirSync(home, { recursive: true });
  copyFileSync(platform.keyFile("@greenhouse"), join(home, "device.atKeys"));
  chmodSync(join(home, "device.atKeys"), 0o600);
  const file = join(home, "atedge.toml");
  // It takes commands and never answers.
  const board = scope.use(await PtyDevice.open());
  const base = {
    ...{ atsign: "@greenhouse", device: "north", directory, ca: caFile, keys: "device.atKeys", stateDir: "state" },
    ...{ allowManagerKeys: true, maxDelayMs: 100 },
  };
  const lines = Object.entries(base).map(([key, value]) => `${key} = ${JSON.stringify(value)}`);
  writeFileSync(
    file,
    `${lines.join("\n")}
[[allow]]
atsign = "@grower"
commands = ["sim/*", "board/*", "agent/*"]
[[allow]]
atsign = "rules"
commands = ["sim/set"]
[[rule]]
name = "full"
rule = "when level >= 1000 then sim/set"
args = { value = 7 }
${DRIVER}[[driver]]
id = "board"
type = "serial"
path = ${JSON.stringify(board.path)}
frame = "json-lines"
[[driver.command]]
name = "wait"
timeoutMs = 50000
`,
  );
  const run = (): AtedgeProcess => scope.use(new AtedgeProcess(cli.path, ["run", "--config", file]));
  const known = {
    as: "@grower",
    keys: platform.keyFile("@grower"),
    directory,
    ca: caFile,
    state: join(folder, "known"),
  };
  const remote = Object.entries(known).flatMap(([option, value]) => [`--${option}`, value]);
  const start = (...args: string[]): AtedgeProcess => scope.use(new AtedgeProcess(cli.path, [...args, ...remote]));
  const call = async (...command: string[]) => start("call", "@greenhouse/north", ...command, "--timeout", "60").ended;
  const result = async (...command: string[]): Promise<Record<string, unknown>> => {
    const { out, err, code } = await call(...command);
    if (code !== 0) throw new Error(err);
    return JSON.parse(out) as Record<string, unknown>;
  };
  const refused = async (...command: string[]): Promise<string> => {
    const { code, err } = await call(...command);
    t.equal(code, 1, command.join(" "));
    return err;
  };

  let agent = run();
  await agent.until(({ err }) => err.includes("driver running") || undefined, "a driver that runs");

  t.test("sees how the agent is, what time it has and what it allows", async (t) => {
    t.match(await result("agent", "state"), {
      version: String,
      rssBytes: Number,
      health: { parts: Array },
      trial: null,
    });
    t.match(await result("agent", "clock"), { known: true, time: /^20/, utcOffsetMin: Number });
    t.match(await result("agent", "policy-show"), [{ atsign: "@grower", applies: true }, { atsign: "rules" }]);
    const logs = (await result("agent", "logs", '{"lines":200,"level":"info"}')) as unknown as object[];
    t.ok(logs.some((line) => "msg" in line && line.msg === "agent started"));
    t.match(await result("agent", "diag"), { findings: Array });
  });

  t.test("tells on its own machine how it is and what data it has used", async (t) => {
    const status = (...args: string[]) => new AtedgeProcess(cli.path, ["status", "--config", file, ...args]).ended;
    t.match(await status(), {
      code: 0,
      out: /^the agent is ok\n {2}[^]*driver\.sim[^]*MB sent, [\d.]+ MB received\n$/u,
    });
    t.match(JSON.parse((await status("--json")).out), { state: "ok", data: { month: /^20\d\d-\d\d$/u } });
  });

  t.test("has a command checked without anything being done", async (t) => {
    t.match(await result("sim", "set", '{"value":3}', "--dry-run"), { dryRun: true });
    t.match(await refused("door", "open", "--dry-run"), /not-allowed/);
  });

  t.test("gives a command up with Ctrl-C, and the device does too", async (t) => {
    const calling = start("call", "@greenhouse/north", "board", "wait", "--id", "up", "--cancel", "--timeout", "60");
    await agent.until(() => (board.received.length > 0 ? true : undefined), "the command at the board");
    calling.kill("SIGINT");
    t.match(await calling.ended, { code: 1, err: /told to give the command up[\s\S]*failed: cancelled/u });
    t.match(await refused("board", "wait", "--id", "up"), /failed: cancelled/, "and that stays its answer");
    t.equal(board.received.length, 1);
  });

  t.test("changes the configuration, which goes back unless it is kept", async (t) => {
    t.match(await refused("agent", "config-set", '{"set":{"stateDir":"/tmp"}}'), /cannot be set remotely/);
    t.match(await refused("agent", "config-set", '{"set":{"maxBatch":0}}'), /maxBatch: expected 1 to 1000, got 0/);
    const change = '{"set":{"driver.sim.intervalMs":200},"withinS":600}';
    t.match(await result("agent", "config-set", change), { changed: ["driver.sim.intervalMs"], keepWithinS: 600 });
    t.match(await refused("agent", "config-set", change), /on trial already/);
    t.match(await result("agent", "config-undo"), { changed: ["driver.sim.intervalMs"] });
    await result("agent", "config-set", change);
    await result("agent", "config-keep");
    const got = await result("agent", "config-get");
    t.match(got, { set: { "driver.sim.intervalMs": 200 }, trial: null, config: { driver: [{ intervalMs: 200 }] } });

    // On trial when the agent is killed; the end of the trial is moved into the past.
    await result("agent", "config-set", '{"set":{"driver.sim.intervalMs":300},"withinS":600}');
    await agent.stop("SIGKILL");
    const settings = join(home, "state", "remote-settings.json");
    const kept = JSON.parse(readFileSync(settings, "utf8")) as { trial: { untilMonotonicMs: number } };
    kept.trial.untilMonotonicMs = 0;
    writeFileSync(settings, JSON.stringify(kept));
    agent = run();
    await agent.until(({ err }) => err.includes("they go back") || undefined, "the way back");
    t.match(await result("agent", "config-get"), { set: { "driver.sim.intervalMs": 200 }, trial: null });
  });

  t.test("disables a driver for good, and enables it", async (t) => {
    await result("agent", "driver-disable", '{"driver":"sim"}');
    t.match(await refused("sim", "set", '{"value":3}'), /driver-down/);
    t.match(await result("agent", "restart"), { restarting: true });
    await agent.until(({ err }) => err.includes("agent stopped") || undefined, "the end");
    await agent.until(({ err }) => err.split("agent started").length > 2 || undefined, "the new beginning");
    t.match(await refused("sim", "set", '{"value":3}'), /driver-down/);
    await result("agent", "driver-enable", '{"driver":"sim"}');
    await agent.until(({ err }) => err.split("driver running").length > 2 || undefined, "the driver");
    t.match(await result("sim", "set", '{"value":3}'), { value: 3 });
  });

  t.test("sees a rule act without anybody's command", async () => {
    await result("sim", "set", '{"value":2000}');
    await agent.until(({ err }) => err.includes("a rule fires") || undefined, "the rule");
    await agent.until(() => {
      const log = readdirSync(join(home, "state", "audit")).map((name) =>
        readFileSync(join(home, "state", "audit", name), "utf8"),
      );
      return log.join("").includes('"kind":"outcome","caller":"rules","target":"sim","command":"set"') || undefined;
    }, "its command in the audit log");
  });

  t.test("reads the audit log and finds what was done to it", async (t) => {
    const audit = (...args: string[]) => start("audit", "@greenhouse/north", ...args).ended;
    const listed = await audit("--from", "1", "--json");
    t.equal(listed.code, 0);
    const entries = listed.out
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line) as { kind: string; command?: string });
    for (const kind of ["start", "command", "outcome", "config", "key", "rule"])
      t.ok(
        entries.some((entry) => entry.kind === kind),
        kind,
      );
    t.match(await audit("--last", "3"), { code: 0, out: /command caller=@grower target=agent command=audit/u });
    t.match(await audit("--verify"), { code: 0, out: /nothing is wrong/ });

    await agent.stop();
    const log = join(home, "state", "audit");
    const [name = ""] = readdirSync(log);
    const text = readFileSync(join(log, name), "utf8");
    const again = async (changed: string): Promise<string> => {
      writeFileSync(join(log, name), changed);
      agent = run();
      await agent.until(({ err }) => err.includes("driver running") || undefined, "a driver that runs");
      const { code, err } = await audit("--verify");
      t.equal(code, 1);
      await agent.stop();
      return err;
    };
    t.match(await again(text.replace('"value":2000', '"value":2001')), /does not follow/);
    t.match(await again(text.split("\n").slice(0, 10).concat("").join("\n")), /is not what it was|when last seen/);
  });
});
