import fc from "fast-check";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import { Scope } from "../../../core/scope.js";
import { runWaves, waveSizes, type WaveOptions, WaveStopped } from "../../../deploy/fleet/waves.js";
import { TestPlatform } from "../../fixtures/at-platform.js";
import { AtedgeProcess, type Ended } from "../../fixtures/atedge-process.js";
import { bundleCli } from "../../fixtures/bundled-cli.js";

const forever = new AbortController().signal;

t.test("waves have the sizes that were asked for, and all devices their turn", async (t) => {
  t.strictSame(waveSizes(40, ["1", "10%", "50%"]), [1, 4, 20, 15]);
  t.strictSame(waveSizes(3, ["10"]), [3]);
  t.strictSame(waveSizes(0, ["1"]), []);
  for (const wrong of ["0", "x", "", "-1", "0%"]) t.throws(() => waveSizes(5, [wrong]), { code: "SYNTAX_INVALID" });
  fc.assert(
    fc.property(
      fc.nat(500),
      fc.array(
        fc.oneof(
          fc.integer({ min: 1, max: 100 }).map(String),
          fc.integer({ min: 1, max: 100 }).map((n) => `${n}%`),
        ),
        {
          minLength: 1,
          maxLength: 4,
        },
      ),
      (count, waves) => waveSizes(count, waves).reduce((sum, size) => sum + size, 0) === count,
    ),
  );
});

const options = (work: WaveOptions["work"], more: Partial<WaveOptions> = {}): WaveOptions => ({
  ...{
    devices: Array.from({ length: 20 }, (_, at) => `d${at}`),
    waves: ["1", "5", "50%"],
    stopAbove: 0.2,
    atOnce: 3,
    work,
  },
  ...more,
});

t.test("a wave begins when the one before has ended, and no more devices at once than allowed", async (t) => {
  let running = 0;
  let most = 0;
  const ended: string[] = [];
  const results = await runWaves(
    options(async (device) => {
      most = Math.max(most, ++running);
      if (device === "d1") t.strictSame(ended, ["d0"]);
      await new Promise((resolve) => setImmediate(resolve));
      running -= 1;
      ended.push(device);
    }),
    forever,
  );
  t.equal(results.length, 20);
  t.equal(most, 3);
});

t.test("too many failures stop the next wave, few do not", async (t) => {
  const bad = new Set(["d1", "d7"]);
  const seen: string[] = [];
  const work = (device: string): Promise<void> => {
    seen.push(device);
    return bad.has(device) ? Promise.reject(new Error("no answer")) : Promise.resolve();
  };
  const results = await runWaves(options(work), forever);
  t.strictSame(
    results.filter(({ outcome }) => outcome === "failed").map(({ device, wave, why }) => [device, wave, why]),
    [
      ["d1", 2, "no answer"],
      ["d7", 3, "no answer"],
    ],
  );
  seen.length = 0;
  bad.add("d2");
  const error = await runWaves(options(work), forever).catch((reason: unknown) => reason);
  t.type(error, WaveStopped);
  t.match(error, { message: /stopped after wave 2: 2 of its 5 devices failed; 14 devices were left alone/u });
  t.equal(seen.length, 6);
});

t.test("a fleet is reconfigured in waves, and its boards change their keys", { timeout: 110_000 }, async (t) => {
  const scope = new Scope();
  t.teardown(() => scope[Symbol.asyncDispose]());
  const cli = scope.use(await bundleCli());
  const folder = t.testdir({ platform: {}, templates: {} });
  const file = (...names: string[]): string => join(folder, ...names);
  const platform = scope.use(await TestPlatform.open(file("platform")));
  for (const name of ["@one", "@operator"]) await platform.onboard(name);
  const { caFile = "" } = platform.platform;
  const reach = ["--directory", `localhost:${platform.directory.port}`, "--ca", caFile];
  const start = (...args: string[]): AtedgeProcess => scope.use(new AtedgeProcess(cli.path, args));
  const fleet = (command: string, ...args: string[]): Promise<Ended> =>
    start("fleet", command, "--state", file("state"), ...args).ended;
  const owner = (command: string, ...args: string[]): Promise<Ended> =>
    fleet(command, ...args, "--keys-dir", file("platform", "keys"), ...reach);
  const manifest = file("boards.csv");
  const keyFile = (device: string): string => file(device, "keys.atKeys");
  const config = (device: string): string => file(device, "atedge.toml");
  const provision = (device: string, ...more: string[]): AtedgeProcess =>
    start(
      ...["provision", file("out", device, "atedge-provision.toml"), "--keys", keyFile(device)],
      ...["--config", config(device), "--poll", "200ms", "--wait", "60s", ...more],
    );
  const letIn = async (devices: readonly string[], ...more: string[]): Promise<void> => {
    const boards = devices.map((device) => provision(device, ...more));
    for (const board of boards)
      await board.until(({ err }) => (err.includes("waiting for the owner") ? true : undefined), "a request");
    t.match(await owner("approve", manifest), { code: 0, err: "" });
    for (const board of boards) t.match(await board.ended, { code: 0 });
  };

  await writeFile(
    file("templates", "board.toml"),
    `atsign = "{{atsign}}"
device = "{{device}}"
directory = "{{directory}}"
ca = "${caFile}"
keys = "${folder}/{{device}}/keys.atKeys"
stateDir = "${folder}/{{device}}/state"
[[reader]]
atsign = "@operator"
[[allow]]
atsign = "@operator"
commands = ["agent/config-set", "agent/config-keep", "agent/config-undo", "agent/state", "agent/config-get"]
`,
  );
  await writeFile(
    manifest,
    "name,serial,atsign,tags,template\na,1,@one,roof,board\nb,2,@one,roof,board\nc,3,@one,,board\n",
  );
  t.match(await owner("apply", manifest, "--out", file("out")), { code: 0 });
  await letIn(["a", "b", "c"]);
  const agents = new Map(["a", "b"].map((device) => [device, start("run", "--config", config(device))]));

  const remote = ["--as", "@operator", "--keys", platform.keyFile("@operator"), ...reach];
  const asOperator = [...remote, "--pins", file("pins")];
  const eachAs = [...remote, "--state", file("pins")];

  t.test("each runs a command for every device with a tag", async (t) => {
    const state = await fleet("each", "--tag", "roof", manifest, "--", "call", "{}", "agent", "state", ...eachAs);
    t.match(state, { code: 0, out: /wave 1: a: done\nwave 2: b: done\n2 devices done, 0 failed/u });
    t.match(await fleet("each", manifest, "--", "call", "x"), { code: 2, err: /no word of the command is \{\}/u });
    t.match(await fleet("each", "--tag", "none", manifest, "--", "call", "{}"), { code: 2, err: /no device/u });
  });

  t.test("settings are kept where the device is well with them", async (t) => {
    const report = file("report.json");
    const done = await fleet(
      ...(["reconfigure", "--tag", "roof", "--report", report, "--settle", "500ms"] as const),
      ...[manifest, '{"maxBatch":50}', ...asOperator],
    );
    t.match(done, { code: 0, out: /2 devices done, 0 failed/u });
    t.match(JSON.parse(await readFile(report, "utf8")), { devices: [{ device: "a" }, { device: "b" }] });
    const got = await start("call", "@one/b", "agent", "config-get", ...eachAs).ended;
    t.match(got, { code: 0, out: /"maxBatch":50/u });
  });

  t.test("a wave with too many failures is the last one", async (t) => {
    const command = ["call", "{}", "agent", "state", "--ack-timeout", "1", "--timeout", "1", ...eachAs];
    await writeFile(manifest, "name,serial,atsign,tags,template\nc,3,@one,,board\na,1,@one,,board\n");
    const stopped = await fleet("each", "--wave", "1", manifest, "--", ...command);
    t.match(stopped, { code: 1, out: /wave 1: c: failed: .*offline/su, err: /1 devices were left alone/u });
    t.match(await fleet("each", "--wave", "1", manifest, "--", "call", "{}", "agent", "config-show", ...eachAs), {
      code: 1,
    });
  });

  t.test("a rotated board has a new enrolment, and its old one is revoked", async (t) => {
    const client = await platform.client("@one");
    t.teardown(() => client[Symbol.asyncDispose]());
    const before = (await client.enrollments.list({ states: ["approved"] }, forever)).find(
      (each) => each.deviceName === "a",
    );
    t.match(await fleet("rotate", "a"), { code: 0, out: /goes on with its present enrolment/u });
    t.match(await owner("apply", manifest, "--out", file("out")), { code: 0, out: /a: bundle made/u });
    t.equal((await client.enrollments.fetch(before?.id ?? "", forever)).status, "approved", "until the new one is in");
    await letIn(["a"], "--replace");
    const all = await client.enrollments.list({}, forever);
    t.strictSame(
      all
        .filter((each) => each.deviceName === "a")
        .map(({ id, status }) => [id === before?.id, status])
        .sort(),
      [
        [false, "approved"],
        [true, "revoked"],
      ],
    );
    agents.get("a")?.kill("SIGTERM");
    await agents.get("a")?.ended;
    const again = start("run", "--config", config("a"));
    await new Promise((resolve) => setTimeout(resolve, 1500));
    t.match(await start("call", "@one/a", "agent", "state", ...eachAs).ended, { code: 0 });
    again.kill("SIGTERM");
    await again.ended;
  });
});
