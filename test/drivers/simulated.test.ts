import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import t from "tap";
import * as v from "valibot";
import { codeOf } from "../../core/errors.js";
import { simulatedSchema, type SimulatedConfig } from "../../drivers/simulated/config.js";
import { openSimulated } from "../../drivers/simulated/simulated-driver.js";
import { driverContract, eventually, recordingDeps } from "../contracts/driver.js";
import { ManualClock } from "../fixtures/manual-clock.js";

const never = new AbortController().signal;

async function recording(text: string | Buffer, keys: object = {}): Promise<{ config: SimulatedConfig; dir: string }> {
  const dir = await mkdtemp(join(tmpdir(), "atedge-replay-"));
  const file = join(dir, "kitchen.csv");
  await writeFile(file, text);
  return {
    dir,
    config: v.parse(simulatedSchema, { id: "kitchen", type: "simulated", shape: "replay", file, ...keys }),
  };
}

const KITCHEN = `time,temperature (Cel),"door",note
2026-01-31T12:00:00Z,21.5,false,"a, b"
2026-01-31T12:01:00Z,21.75,,c

2026-01-31T12:03:00Z,22,true,d`;

void t.test("a recording is replayed at any speed, with the times of now", async (t) => {
  const { config, dir } = await recording(KITCHEN, { timeColumn: "time", speed: 60, loop: false, class: "event" });
  t.teardown(() => rm(dir, { recursive: true, force: true }));
  await using deps = await recordingDeps();
  const clock = new ManualClock();
  const stop = new AbortController();
  const driver = await openSimulated(config, { ...deps, clock }, stop.signal);
  t.strictSame(driver.readings, [{ name: "temperature", unit: "Cel" }, { name: "door" }, { name: "note" }]);
  const running = driver.run(stop.signal);
  const startMs = clock.now();
  const got = (): unknown[] => deps.readings.map(({ name, value, timeMs = 0 }) => [name, value, timeMs - startMs]);
  const step = async (ms: number, count: number): Promise<void> => {
    await eventually(() => clock.sleeping > 0, "the wait for the next row");
    await clock.advance(ms);
    await deps.until(count);
  };
  await deps.until(3);
  await step(1000, 5);
  await step(2000, 8);
  t.strictSame(got(), [
    ["temperature", 21.5, 0],
    ["door", false, 0],
    ["note", "a, b", 0],
    ["temperature", 21.75, 1000],
    ["note", "c", 1000],
    ["temperature", 22, 3000],
    ["door", true, 3000],
    ["note", "d", 3000],
  ]);
  t.match(deps.readings[0], { unit: "Cel", class: "event" });
  await eventually(() => clock.sleeping > 0, "the end");
  await clock.advance(100_000);
  await eventually(() => clock.sleeping > 0, "nothing more");
  t.equal(deps.readings.length, 8, "once is once");
  t.strictSame(driver.counters?.(), { rows: 3, replayed: 3 });
  stop.abort();
  await running;
});

void t.test("a recording without times gives a row an interval, and begins again at its end", async (t) => {
  const { config, dir } = await recording("t\r\n1\r\n2\r\n", { intervalMs: 2, separator: ";" });
  t.teardown(() => rm(dir, { recursive: true, force: true }));
  await using deps = await recordingDeps();
  const stop = new AbortController();
  const driver = await openSimulated(config, deps, stop.signal);
  const running = driver.run(stop.signal);
  await deps.until(5);
  stop.abort();
  await running;
  t.strictSame(
    deps.readings.slice(0, 5).map(({ value }) => value),
    [1, 2, 1, 2, 1],
  );
});

void t.test("as fast as it is taken, with speed 0", async (t) => {
  const rows = Array.from({ length: 5000 }, (_, n) => `${n * 3600},${n}`);
  const { config, dir } = await recording(`s,n\n${rows.join("\n")}\n`, { timeColumn: "s", speed: 0, loop: false });
  t.teardown(() => rm(dir, { recursive: true, force: true }));
  await using deps = await recordingDeps();
  const stop = new AbortController();
  const driver = await openSimulated(config, deps, stop.signal);
  const running = driver.run(stop.signal);
  await deps.until(5000);
  stop.abort();
  await running;
  t.ok(deps.readings.every(({ value }, n) => value === n));
});

void t.test("what is wrong with a recording is told with its line, before anything is replayed", async (t) => {
  const cases: readonly (readonly [string | Buffer, string, object?])[] = [
    ["", "expected a header and at least one value"],
    ["t\n", "expected a header and at least one value"],
    ["t,rh\n1,2\n3\n", ", line 3: expected 2 cells, got 1"],
    ['t\n"1\n', ", line 2: expected quotes that match"],
    ["my value\n1\n", ', line 1: expected a name such as "temperature (Cel)", got "my value"'],
    ["t\n1\n", ', line 1: expected a column "time", got t', { timeColumn: "time" }],
    ["time,t\n1,2\nyesterday,3\n", ', line 3: expected seconds or a date, got "yesterday"', { timeColumn: "time" }],
    ["time,t\n5,2\n\n4,3\n", ", line 4: expected a time that is not before", { timeColumn: "time" }],
    [Buffer.from([0x74, 0x0a, 0xff, 0x0a]), ", line 2: expected UTF-8 text"],
    [`t\n1\n${"9".repeat(70_000)}\n`, "has a longer line after line"],
  ];
  for (const [text, message, keys] of cases) {
    const { config, dir } = await recording(text, keys);
    await using deps = await recordingDeps();
    const error = await openSimulated(config, deps, never).catch((error: unknown) => error);
    t.match(error, { code: "REPLAY_INVALID" }, message);
    t.ok(error instanceof Error && error.message.includes(message), String(error));
    await rm(dir, { recursive: true });
  }
  const gone = v.parse(simulatedSchema, { id: "x", type: "simulated", shape: "replay", file: "/no/such.csv" });
  await using deps = await recordingDeps();
  await t.rejects(openSimulated(gone, deps, never), { message: "/no/such.csv cannot be read (ENOENT)" });
  for (const keys of [{ shape: "replay" }, { file: "x.csv" }]) {
    t.equal(v.safeParse(simulatedSchema, { id: "x", type: "simulated", ...keys }).success, false);
  }
});

void t.test("garbage for a recording gives typed errors only", async () => {
  await using deps = await recordingDeps();
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ maxLength: 300 }), async (bytes) => {
      const { config, dir } = await recording(Buffer.from(bytes));
      const outcome = await openSimulated(config, deps, never).then(() => "opened", codeOf);
      await rm(dir, { recursive: true });
      return outcome === "opened" || outcome === "REPLAY_INVALID";
    }),
    { numRuns: 50, examples: [[Buffer.from("t\n1\n2")], [Buffer.from("a,b\n,\n")]] },
  );
});

void driverContract(t, "simulated replay", async () => {
  const { config, dir } = await recording("t (Cel)\n1\n2\n", { intervalMs: 5 });
  return {
    open: (deps, signal) => openSimulated(config, deps, signal),
    stimulate: async () => undefined,
    [Symbol.asyncDispose]: () => rm(dir, { recursive: true, force: true }),
  };
});
