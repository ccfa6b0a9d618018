import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Test } from "tap";
import { systemClock } from "../../core/clock.js";
import type { Driver, DriverDeps, Reading } from "../../core/driver.js";
import { codeOf } from "../../core/errors.js";
import { silentLog } from "../../core/log.js";
import { openPort } from "../../drivers/serial/open-port.js";

/** A device and the driver for it. */
export interface DriverRig extends AsyncDisposable {
  open(deps: DriverDeps, signal: AbortSignal): Promise<Driver>;
  /** Makes the device give a reading. */
  stimulate(): Promise<void>;
  /** Takes the device away, where it can go. */
  readonly removeDevice?: () => Promise<void>;
  /** One that the device carries out. */
  readonly command?: { readonly name: string; readonly args: Record<string, unknown>; readonly result: unknown };
  /** One that it does not answer while it is there. */
  readonly silentCommand?: { readonly name: string; readonly args: Record<string, unknown> };
}

export interface RecordingDeps extends DriverDeps, AsyncDisposable {
  readonly readings: Reading[];
  /** Resolves when this many readings are published, or rejects after half a minute. */
  until(count: number): Promise<void>;
}

/** Abilities for a driver under test; `publish` may be replaced. */
export async function recordingDeps(publish?: (readings: readonly Reading[]) => Promise<void>): Promise<RecordingDeps> {
  const dir = await mkdtemp(join(tmpdir(), "atedge-driver-"));
  const readings: Reading[] = [];
  const waiters = new Set<() => void>();
  return {
    readings,
    async publish(batch) {
      await publish?.(batch);
      readings.push(...batch);
      for (const wake of waiters) wake();
    },
    async until(count) {
      await eventually(() => readings.length >= count, `${count} readings`, waiters);
    },
    openPort,
    clock: systemClock,
    log: silentLog,
    stateDir: async () => dir,
    [Symbol.asyncDispose]: () => rm(dir, { recursive: true, force: true }),
  };
}

/** Resolves when `condition` holds, which is looked at every few milliseconds; rejects after `withinMs`. */
export async function eventually(
  condition: () => boolean,
  what: string,
  waiters = new Set<() => void>(),
  withinMs = 30_000,
): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    const done = (): void => {
      clearInterval(poll);
      clearTimeout(limit);
      waiters.delete(look);
    };
    const look = (): void => {
      if (!condition()) return;
      done();
      resolve();
    };
    const poll = setInterval(look, 5);
    const limit = setTimeout(() => (done(), reject(new Error(`waited in vain for ${what}`))), withinMs);
    waiters.add(look);
    look();
  });
}

const NAME = /^[A-Za-z0-9][-A-Za-z0-9:./_]*$/u;
/** A device with a clock of its own knows ours to within the time of a message. */
const CLOCK_SLACK_MS = 1000;

/** Whether the driver has said that it may give this; one whose device alone knows declares none. */
function isDeclared(
  { readings }: Driver,
  { name, unit, value, class: readingClass = "measurement" }: Reading,
): boolean {
  if (!readings) return true;
  return readings.some((declared) => {
    const parts = declared.name.split("*").map((part) => part.replaceAll(/[.+?^$(){}|[\]\\]/gu, String.raw`\$&`));
    return (
      new RegExp(`^${parts.join(".+")}$`, "u").test(name) &&
      (declared.unit === undefined || declared.unit === unit) &&
      (declared.type === undefined || declared.type === typeof value) &&
      (declared.class === undefined || declared.class === readingClass)
    );
  });
}

/** What every driver does, whatever its device. */
export function driverContract(t: Test, kind: string, setUp: () => Promise<DriverRig>): Promise<unknown> {
  return t.test(`the ${kind} driver keeps the driver contract`, async (t) => {
    await t.test("does not open when told to stop already", async (t) => {
      await using rig = await setUp();
      await using deps = await recordingDeps();
      const reason = new Error("stopped before");
      const opening = rig.open(deps, AbortSignal.abort(reason));
      const driver = await opening.catch((error: unknown) => (t.equal(error, reason), undefined));
      await driver?.[Symbol.asyncDispose](); // One that has nothing to wait for may open all the same.
    });

    await t.test("publishes readings with SenML names and proper values, and returns when stopped", async (t) => {
      await using rig = await setUp();
      await using deps = await recordingDeps();
      const stop = new AbortController();
      const driver = await rig.open(deps, stop.signal);
      const running = driver.run(stop.signal);
      const before = Date.now();
      await rig.stimulate();
      await deps.until(1);
      stop.abort(new Error("enough"));
      await running;
      await driver[Symbol.asyncDispose]();
      for (const reading of deps.readings) t.ok(isDeclared(driver, reading), `${reading.name} is declared`);
      for (const { name, value, timeMs, unit } of deps.readings) {
        t.match(name, NAME);
        t.ok(typeof value !== "number" || Number.isFinite(value), `${name} is finite`);
        t.ok(
          timeMs === undefined || (timeMs >= before - 60_000 && timeMs <= Date.now() + CLOCK_SLACK_MS),
          `${name} is of now`,
        );
        t.ok(unit === undefined || unit.length > 0);
      }
    });

    await t.test("ends its run when the outbox takes no more", async (t) => {
      await using rig = await setUp();
      const full = new Error("disk is gone");
      await using deps = await recordingDeps(() => Promise.reject(full));
      const stop = new AbortController();
      const driver = await rig.open(deps, stop.signal);
      const running = driver.run(stop.signal).then(
        () => undefined,
        (error: unknown) => error,
      );
      await rig.stimulate();
      const error = await running;
      t.ok(error === full || (error instanceof Error && error.cause === full), "it tells the reason");
      await driver[Symbol.asyncDispose]();
    });

    await t.test("may be disposed twice, and while it runs", async (t) => {
      await using rig = await setUp();
      await using deps = await recordingDeps();
      const stop = new AbortController();
      const driver = await rig.open(deps, stop.signal);
      const running = driver.run(stop.signal).catch(codeOf);
      await driver[Symbol.asyncDispose]();
      await driver[Symbol.asyncDispose]();
      stop.abort();
      t.match((await running) ?? "DEVICE_GONE", "DEVICE_GONE");
    });

    await t.test("refuses a command that it does not have", async (t) => {
      await using rig = await setUp();
      await using deps = await recordingDeps();
      const signal = new AbortController().signal;
      const driver = await rig.open(deps, signal);
      await t.rejects(driver.call("no such", {}, signal), { code: "COMMAND_REFUSED" });
      await driver[Symbol.asyncDispose]();
    });

    await t.test("carries out commands that it declares", async (t) => {
      await using rig = await setUp();
      if (!rig.command) return t.pass("it declares none");
      const { name, args, result } = rig.command;
      await using deps = await recordingDeps();
      const stop = new AbortController();
      const driver = await rig.open(deps, stop.signal);
      const running = driver.run(stop.signal);
      t.ok(
        driver.commands.some((command) => command.name === name),
        "the command is declared",
      );
      t.strictSame(await driver.call(name, args, stop.signal), result);
      stop.abort();
      await running;
      await driver[Symbol.asyncDispose]();
    });

    await t.test("throws DEVICE_GONE when its device goes", async (t) => {
      await using rig = await setUp();
      if (!rig.removeDevice) return t.pass("it cannot go");
      await using deps = await recordingDeps();
      const signal = new AbortController().signal;
      const driver = await rig.open(deps, signal);
      const running = driver.run(signal).then(
        () => "returned",
        (error: unknown) => codeOf(error),
      );
      await rig.removeDevice();
      t.equal(await running, "DEVICE_GONE");
      await driver[Symbol.asyncDispose]();
    });

    await t.test("says UNKNOWN_OUTCOME for a command whose device goes meanwhile", async (t) => {
      await using rig = await setUp();
      if (!rig.silentCommand || !rig.removeDevice) return t.pass("it cannot go");
      const { name, args } = rig.silentCommand;
      await using deps = await recordingDeps();
      const signal = new AbortController().signal;
      const driver = await rig.open(deps, signal);
      const running = driver.run(signal).catch(codeOf);
      const outcome = driver.call(name, args, signal).then(
        () => "answered",
        (error: unknown) => codeOf(error),
      );
      await new Promise((resolve) => setImmediate(resolve));
      await rig.removeDevice();
      t.equal(await outcome, "UNKNOWN_OUTCOME");
      await running;
      await driver[Symbol.asyncDispose]();
    });

    await t.test("gives a command up when its signal aborts", async (t) => {
      await using rig = await setUp();
      if (!rig.silentCommand) return t.pass("it answers at once");
      const { name, args } = rig.silentCommand;
      await using deps = await recordingDeps();
      const stop = new AbortController();
      const driver = await rig.open(deps, stop.signal);
      const running = driver.run(stop.signal).catch(codeOf);
      const cancel = new AbortController();
      const outcome = driver.call(name, args, cancel.signal).catch((error: unknown) => error);
      setImmediate(() => cancel.abort(new Error("too late")));
      t.ok((await outcome) instanceof Error);
      stop.abort();
      await running;
      await driver[Symbol.asyncDispose]();
    });
  });
}
