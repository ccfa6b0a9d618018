import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { build } from "esbuild";
import fc from "fast-check";
import t from "tap";
import * as v from "valibot";
import type { Driver } from "../../core/driver.js";
import { gpioSchema } from "../../drivers/gpio/config.js";
import { openGpioWith } from "../../drivers/gpio/gpio-driver.js";
import { parseEdge, parseGpioInfo } from "../../drivers/gpio/gpiod-tools.js";
import { driverContract, eventually, recordingDeps, type RecordingDeps } from "../contracts/driver.js";
import { GpiodStandIn } from "../fixtures/gpiod-stand-in.js";

const never = new AbortController().signal;

interface Bench extends AsyncDisposable {
  readonly chip: GpiodStandIn;
  readonly deps: RecordingDeps;
  readonly driver: Driver;
  readonly ended: Promise<unknown>;
}

async function bench(major: 1 | 2, keys: Record<string, unknown>): Promise<Bench> {
  const chip = await GpiodStandIn.open(major);
  const deps = await recordingDeps();
  const stop = new AbortController();
  const driver = await openGpioWith(chip.path)(
    v.parse(gpioSchema, { id: "panel", type: "gpio", ...keys }),
    deps,
    never,
  );
  const ended = driver.run(stop.signal).catch((error: unknown) => error);
  return {
    chip,
    deps,
    driver,
    ended,
    async [Symbol.asyncDispose]() {
      stop.abort();
      await ended;
      await driver[Symbol.asyncDispose]();
      await chip[Symbol.asyncDispose]();
      await deps[Symbol.asyncDispose]();
    },
  };
}

const values = ({ deps }: Bench, name: string): unknown[] =>
  deps.readings.filter((reading) => reading.name === name).map(({ value }) => value);

for (const major of [1, 2] as const) {
  void t.test(`the GPIO driver with gpiod ${major}`, async (t) => {
    await t.test("tells the state of its inputs, every edge, and all of them again after a while", async (t) => {
      await using b = await bench(major, {
        input: [
          { line: "DOOR", name: "door", activeLow: true, bias: "pull-up", class: "alarm" },
          { line: 1, name: "button" },
        ],
        rereadMs: 1500,
      });
      await eventually(() => b.chip.holder(0) !== undefined && b.chip.holder(1) !== undefined, "both monitors");
      b.chip.pull(0, true);
      b.chip.pull(1, true);
      b.chip.pull(1, false);
      await eventually(() => values(b, "button").length === 3 && values(b, "door").length === 2, "the edges");
      t.strictSame(values(b, "door"), [true, false], "low is on");
      t.strictSame(values(b, "button"), [false, true, false]);
      t.match(b.deps.readings.find(({ name }) => name === "door")?.class, "alarm");
      await eventually(() => values(b, "button").length === 4, "the next round");
      t.strictSame(values(b, "button").at(-1), false);
    });

    await t.test("lets a contact bounce", async (t) => {
      await using b = await bench(major, { input: [{ line: 1, name: "button", debounceMs: 60 }] });
      await eventually(() => b.chip.holder(1) !== undefined, "the monitor");
      for (let n = 0; n < 7; n += 1) b.chip.pull(1, n % 2 === 0);
      await eventually(() => values(b, "button").length === 2, "the change");
      for (let n = 0; n < 4; n += 1) b.chip.pull(1, n % 2 === 1);
      await eventually(() => b.driver.counters?.()["bounces"] === 1, "a bounce that ends where it began");
      t.strictSame(values(b, "button"), [false, true]);
      t.equal(b.driver.counters?.()["edges"], 11);
    });

    await t.test("drives its outputs, reads them back and lets go of them at the end", async (t) => {
      const b = await bench(major, {
        input: [{ line: 1, name: "button" }],
        output: [
          { line: "RELAY", name: "relay", drive: "open-drain" },
          { line: 3, name: "lamp", activeLow: true, initial: true },
        ],
      });
      await eventually(() => values(b, "lamp").length === 1, "the initial value");
      t.equal(b.chip.isHigh(3), false, "on is low");
      t.equal(b.chip.holder(2), undefined, "nobody has said what the relay shall be");
      t.strictSame(await b.driver.call("get", { line: "relay" }, never), { on: null });
      t.strictSame(await b.driver.call("set", { line: "relay", on: true }, never), { on: true });
      t.equal(b.chip.isHigh(2), true);
      t.strictSame(await b.driver.call("get", { line: "relay" }, never), { on: true });
      t.strictSame(await b.driver.call("set", { line: "relay", on: false }, never), { on: false });
      t.equal(b.chip.isHigh(2), false);
      t.strictSame(await b.driver.call("get", { line: "button" }, never), { on: false });
      t.strictSame(values(b, "relay"), [true, false]);
      for (const args of [{ line: "button", on: true }, { line: "x", on: true }, { line: "relay" }]) {
        await t.rejects(b.driver.call("set", args, never), { code: "COMMAND_REFUSED" });
      }
      await b[Symbol.asyncDispose]();
      t.strictSame([b.chip.holder(1), b.chip.holder(2), b.chip.holder(3)], [undefined, undefined, undefined]);
    });

    await t.test("ends when what holds a line ends, and refuses a line that another program holds", async (t) => {
      await using b = await bench(major, { output: [{ line: 2, name: "relay", initial: false }] });
      await using deps = await recordingDeps();
      const second = v.parse(gpioSchema, { id: "other", type: "gpio", output: [{ line: 2, name: "relay" }] });
      const other = await openGpioWith(b.chip.path)(second, deps, never);
      await t.rejects(other.call("set", { line: "relay", on: true }, never), {
        code: "COMMAND_REFUSED",
        message: "line 2 is held by gpioset",
      });
      await other[Symbol.asyncDispose]();
      process.kill(b.chip.holder(2)?.pid ?? 0, "SIGKILL");
      t.match(await b.ended, { code: "DEVICE_GONE" });
    });
  });
}

void t.test("a line or a tool that is not there is told with what to do", async (t) => {
  await using chip = await GpiodStandIn.open(1);
  await using deps = await recordingDeps();
  const open = (path: string, keys: object): Promise<Driver> =>
    openGpioWith(path)(v.parse(gpioSchema, { id: "panel", type: "gpio", ...keys }), deps, never);
  const input = [{ line: 1, name: "button" }];
  await t.rejects(open("/no/such/folder", { input }), { code: "GPIO_UNUSABLE", message: /Debian package gpiod/u });
  await t.rejects(open(chip.path, { input, chip: "gpiochip7" }), {
    code: "DEVICE_GONE",
    message: "there is no line 1 on gpiochip7",
  });
  await t.rejects(open(chip.path, { input: [{ line: "GPIO99", name: "x" }] }), { code: "DEVICE_GONE" });
  await writeFile(join(chip.dir, "denied"), "");
  await t.rejects(open(chip.path, { input }), { code: "GPIO_UNUSABLE", message: /group that owns the chip/u });
  for (const keys of [{}, { input: [{ line: -1, name: "x" }] }, { input, output: [{ line: 2, name: "button" }] }]) {
    t.equal(v.safeParse(gpioSchema, { id: "panel", type: "gpio", ...keys }).success, false);
  }
});

void t.test("an agent that is killed leaves no line held", async (t) => {
  await using chip = await GpiodStandIn.open(2);
  const dir = await mkdtemp(join(tmpdir(), "atedge-gpio-killed-"));
  t.teardown(() => rm(dir, { recursive: true, force: true }));
  const file = (name: string): string => JSON.stringify(join(process.cwd(), name));
  await build({
    stdin: {
      contents: `
        import { systemClock } from ${file("core/clock.ts")};
        import { openGpioWith } from ${file("drivers/gpio/gpio-driver.ts")};
        const line = { class: "event", activeLow: false, bias: "as-is" };
        const config = { id: "p", rereadMs: 600000, input: [{ ...line, line: 1, name: "b", debounceMs: 0 }],
          output: [{ ...line, line: 2, name: "r", drive: "push-pull", initial: true }] };
        const never = new AbortController().signal;
        const driver = await openGpioWith(${JSON.stringify(chip.path)})(config, { clock: systemClock, publish: async () => {} }, never);
        await driver.run(never);`,
      resolveDir: process.cwd(),
    },
    outfile: join(dir, "agent.mjs"),
    bundle: true,
    platform: "node",
    format: "esm",
    target: "node20",
  });
  const agent = spawn(process.execPath, [join(dir, "agent.mjs")], { stdio: "inherit" });
  await eventually(() => chip.holder(1) !== undefined && chip.holder(2) !== undefined, "both lines to be held");
  agent.kill("SIGKILL");
  await once(agent, "exit");
  await eventually(() => chip.holder(1) === undefined && chip.holder(2) === undefined, "both lines to be free");
  t.pass("the kernel ended the tools with it");
});

void t.test("what gpioinfo and gpiomon print", async (t) => {
  // gpiod 1.6.3 and 2.2.1 on the kernel's gpio-sim, 6.1.
  const old = `gpiochip0 - 8 lines:
	line   0:       "DOOR"    "gpiomon"   input  active-high [used]
	line   1:      unnamed       unused   input  active-high \n\tline   2:      "RELAY"    "gpioset"  output  active-high [used]
	line   4:      unnamed    "gpiomon"   input  active-high [used pull-up]
`;
  const current = `gpiochip0 - 8 lines:
	line   0:	"DOOR"          	input edges=both consumer="gpiomon"
	line   1:	unnamed         	input
	line   2:	"RELAY"         	output consumer=gpioset
	line   4:	unnamed         	input bias=pull-up edges=both consumer=gpiomon
`;
  const lines = [
    { chip: "gpiochip0", offset: 0, name: "DOOR", isOutput: false, consumer: "gpiomon" },
    { chip: "gpiochip0", offset: 1, isOutput: false },
    { chip: "gpiochip0", offset: 2, name: "RELAY", isOutput: true, consumer: "gpioset" },
    { chip: "gpiochip0", offset: 4, isOutput: false, consumer: "gpiomon" },
  ];
  t.strictSame(parseGpioInfo(old), lines);
  t.strictSame(parseGpioInfo(current), lines);
  t.strictSame(parseEdge("4 1"), { offset: 4, high: true });
  t.strictSame(
    [parseEdge("4 0"), parseEdge("4 2")],
    [
      { offset: 4, high: false },
      { offset: 4, high: false },
    ],
  );
  fc.assert(fc.property(fc.string({ unit: "binary" }), (text) => (parseGpioInfo(text), parseEdge(text), true)));
});

void driverContract(t, "gpio", async () => {
  const chip = await GpiodStandIn.open(2);
  const config = v.parse(gpioSchema, {
    id: "panel",
    type: "gpio",
    input: [{ line: "DOOR", name: "door" }],
    output: [{ line: "RELAY", name: "relay" }],
  });
  return {
    open: (deps, signal) => openGpioWith(chip.path)(config, deps, signal),
    stimulate: async () => undefined,
    async removeDevice() {
      await eventually(() => chip.holder(0) !== undefined, "the monitor");
      process.kill(chip.holder(0)?.pid ?? 0, "SIGKILL");
    },
    command: { name: "set", args: { line: "relay", on: true }, result: { on: true } },
    [Symbol.asyncDispose]: () => chip[Symbol.asyncDispose](),
  };
});
