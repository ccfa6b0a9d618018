import { mkdtemp, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { CommandRefused } from "../../core/command-errors.js";
import type { Driver, DriverDeps, Reading } from "../../core/driver.js";
import { DeviceGone } from "../../core/errors.js";
import { silentLog, type Log } from "../../core/log.js";
import { untilAborted } from "../../core/scope.js";
import { DriverSupervisor, type ConfiguredDriver } from "../../drivers/supervisor.js";
import { ManualClock } from "../fixtures/manual-clock.js";

const forever = (signal: AbortSignal): Promise<never> => untilAborted(new Promise<never>(() => undefined), signal);

/** A driver whose parts a test replaces. */
function fakeDriver(parts: Partial<Driver> = {}): Driver {
  return {
    id: "fake",
    commands: [{ name: "go", idempotent: true }],
    run: (stop) => forever(stop).catch(() => undefined),
    call: async () => "gone",
    async [Symbol.asyncDispose]() {},
    ...parts,
  };
}

interface Running extends AsyncDisposable {
  readonly supervisor: DriverSupervisor;
  readonly clock: ManualClock;
  readonly published: Reading[];
  readonly stopped: Promise<void>;
  stop(): void;
}

async function start(
  open: (deps: DriverDeps, signal: AbortSignal) => Promise<Driver>,
  { log = silentLog, more = [] }: { log?: Log; more?: ConfiguredDriver[] } = {},
): Promise<Running> {
  const clock = new ManualClock();
  const stateDir = await mkdtemp(join(tmpdir(), "atedge-supervisor-"));
  const published: Reading[] = [];
  const supervisor = new DriverSupervisor({
    drivers: [{ id: "fake", type: "test", open }, ...more],
    publish: async (_, readings) => void published.push(...readings),
    stateDir,
    clock,
    log,
    limits: { commandMs: 1000, overdueMs: 500, maxWaitingCommands: 2 },
  });
  const end = new AbortController();
  const stopped = supervisor.run(end.signal);
  await clock.advance(0);
  return {
    supervisor,
    clock,
    published,
    stopped,
    stop: () => end.abort(new Error("stop")),
    async [Symbol.asyncDispose]() {
      end.abort(new Error("stop"));
      await stopped;
      await rm(stateDir, { recursive: true, force: true });
    },
  };
}

const never = new AbortController().signal;

void t.test("DriverSupervisor", async (t) => {
  await t.test("opens a driver again, for ever, and shows why it is away", async (t) => {
    let opened = 0;
    let disposed = 0;
    await using running = await start(async () => {
      opened += 1;
      if (opened < 4) throw new DeviceGone("no such port");
      return fakeDriver({
        run: async () => {
          throw new DeviceGone("pulled");
        },
        [Symbol.asyncDispose]: async () => void (disposed += 1),
      });
    });
    t.match(running.supervisor.health(), [
      { id: "fake", state: "waiting", lastErrorCode: "DEVICE_GONE", lastError: "no such port" },
    ]);
    await running.clock.advance(10 * 60_000);
    t.ok(opened > 10, `opened ${opened} times in ten minutes`);
    t.equal(disposed, opened - 3, "each one that was opened is disposed");
    const [health] = running.supervisor.health();
    t.equal(health?.counters["failed"], opened);
    t.equal(health?.lastError, "pulled");
  });

  await t.test("lets a driver that never opens disturb no other", async (t) => {
    const other = { id: "other", type: "test", open: async () => fakeDriver({ id: "other" }) };
    await using running = await start((_, signal) => forever(signal), { more: [other] });
    t.match(running.supervisor.health(), [{ state: "opening" }, { state: "running" }]);
    t.equal(await running.supervisor.call("other", "go", {}, never), "gone");
    await running.clock.advance(60_000);
    t.match(running.supervisor.health()[0]?.lastErrorCode, "TIMED_OUT", "its opening has a deadline");
  });

  await t.test("closes a driver that opens after its deadline", async (t) => {
    let finish: ((driver: Driver) => void) | undefined;
    let disposed = 0;
    await using running = await start(() => new Promise((resolve) => (finish ??= resolve)));
    await running.clock.advance(60_000);
    finish?.(fakeDriver({ [Symbol.asyncDispose]: async () => void (disposed += 1) }));
    await running.clock.advance(1);
    t.equal(disposed, 1);
  });

  await t.test("says a failure that goes on once a minute, not each time", async (t) => {
    const lines: string[] = [];
    const log: Log = { ...silentLog, warn: (fields) => void lines.push(String(fields["code"])), child: () => log };
    let opened = 0;
    await using running = await start(
      async () => {
        opened += 1;
        throw new DeviceGone("no broker");
      },
      { log },
    );
    await running.clock.advance(10 * 60_000);
    t.ok(opened > 15, `opened ${opened} times`);
    t.ok(lines.length >= 8 && lines.length <= 11, `${lines.length} lines in ten minutes`);
  });

  await t.test("counts readings when they are in the outbox", async (t) => {
    await using running = await start(async (deps) =>
      fakeDriver({
        async run(stop) {
          await deps.publish([
            { name: "a", value: 1 },
            { name: "b", value: 2 },
          ]);
          await forever(stop).catch(() => undefined);
        },
        counters: () => ({ noise: 7 }),
      }),
    );
    t.equal(running.published.length, 2);
    t.match(running.supervisor.health(), [{ counters: { readings: 2, opened: 1, failed: 0, noise: 7 } }]);
  });

  await t.test("gives each driver a folder of its own, made when asked for", async (t) => {
    await using running = await start(async (deps) => {
      const dir = await deps.stateDir();
      t.equal((await stat(dir)).mode & 0o777, 0o700);
      t.match(dir, /fake$/u);
      return fakeDriver();
    });
    await running.clock.advance(1);
  });

  await t.test("refuses commands for what is not there", async (t) => {
    await using running = await start(async () => {
      throw new DeviceGone("no such port");
    });
    await t.rejects(running.supervisor.call("nobody", "go", {}, never), { code: "COMMAND_REFUSED" });
    await t.rejects(running.supervisor.call("fake", "go", {}, never), {
      code: "COMMAND_REFUSED",
      message: "fake is not connected: no such port",
    });
  });

  await t.test("refuses unknown commands and arguments that do not fit, and asks no driver", async (t) => {
    const argsSchema = { type: "object", properties: { on: { type: "boolean" } }, additionalProperties: false };
    await using running = await start(async () =>
      fakeDriver({ commands: [{ name: "go", idempotent: true, argsSchema }], call: async () => t.fail("was asked") }),
    );
    await t.rejects(running.supervisor.call("fake", "stay", {}, never), { code: "COMMAND_REFUSED" });
    await t.rejects(running.supervisor.call("fake", "go", { on: 1 }, never), {
      message: "on: expected boolean, got number",
    });
  });

  await t.test("runs one command at a time per target, in order, and bounds how many wait", async (t) => {
    const begun: unknown[] = [];
    const ends: (() => void)[] = [];
    await using running = await start(async () =>
      fakeDriver({
        call: (_, args) => {
          begun.push(args["n"]);
          return new Promise((resolve) => ends.push(() => resolve(args["n"])));
        },
      }),
    );
    const calls = [1, 2, 3].map((n) => running.supervisor.call("fake", "go", { n }, never));
    await t.rejects(running.supervisor.call("fake", "go", { n: 4 }, never), {
      code: "COMMAND_REFUSED",
      message: /busy/u,
    });
    t.equal(running.supervisor.health()[0]?.counters["waitingCommands"], 2);
    for (const n of [1, 2, 3]) {
      await running.clock.advance(0);
      t.strictSame(begun, [1, 2, 3].slice(0, n));
      ends[n - 1]?.();
    }
    t.strictSame(await Promise.all(calls), [1, 2, 3]);
  });

  await t.test(
    "says UNKNOWN_OUTCOME at the deadline, and starts the next only when the driver has ended",
    async (t) => {
      const begun: unknown[] = [];
      await using running = await start(async () =>
        fakeDriver({
          call: async (_, args, signal) => {
            begun.push(args["n"]);
            await forever(signal).catch(() => undefined);
          },
        }),
      );
      const first = running.supervisor.call("fake", "go", { n: 1 }, never).catch((error: unknown) => error);
      const second = running.supervisor.call("fake", "go", { n: 2 }, never).catch((error: unknown) => error);
      await running.clock.advance(999);
      t.strictSame(begun, [1]);
      await running.clock.advance(2);
      t.match(await first, { code: "UNKNOWN_OUTCOME" });
      t.strictSame(begun, [1, 2]);
      await running.clock.advance(1001);
      t.match(await second, { code: "UNKNOWN_OUTCOME" });
    },
  );

  await t.test("opens a driver anew that does not end an overdue command", async (t) => {
    let opened = 0;
    await using running = await start(async () => {
      opened += 1;
      return fakeDriver({ call: () => new Promise(() => undefined) });
    });
    const call = running.supervisor.call("fake", "go", {}, never).catch((error: unknown) => error);
    await running.clock.advance(1001);
    t.match(await call, { code: "UNKNOWN_OUTCOME" });
    t.equal(opened, 1);
    await running.clock.advance(2000);
    t.equal(opened, 2);
  });

  await t.test("says UNKNOWN_OUTCOME when the driver goes away during a command", async (t) => {
    let pull: (() => void) | undefined;
    await using running = await start(async () =>
      fakeDriver({
        run: () => new Promise((_, reject) => (pull = () => reject(new DeviceGone("pulled")))),
        call: () => new Promise(() => undefined),
      }),
    );
    const call = running.supervisor.call("fake", "go", {}, never).catch((error: unknown) => error);
    await running.clock.advance(0);
    pull?.();
    await running.clock.advance(0);
    t.match(await call, { code: "UNKNOWN_OUTCOME" });
  });

  await t.test("hands on what a driver refuses", async (t) => {
    await using running = await start(async () =>
      fakeDriver({
        call: async () => {
          throw new CommandRefused("door is open");
        },
      }),
    );
    await t.rejects(running.supervisor.call("fake", "go", {}, never), {
      code: "COMMAND_REFUSED",
      message: "door is open",
    });
  });

  await t.test("refuses a waiting command whose caller gives up", async (t) => {
    await using running = await start(async () => fakeDriver({ call: (_, __, signal) => forever(signal) }));
    const first = running.supervisor.call("fake", "go", {}, never).catch((error: unknown) => error);
    const caller = new AbortController();
    const second = running.supervisor.call("fake", "go", {}, caller.signal).catch((error: unknown) => error);
    await running.clock.advance(0);
    caller.abort(new Error("no more"));
    t.match(await second, { code: "COMMAND_REFUSED" });
    running.stop();
    t.match(await first, { code: "UNKNOWN_OUTCOME" });
  });

  await t.test("ends within its deadline although a driver does not close", async (t) => {
    await using running = await start(async () =>
      fakeDriver({ [Symbol.asyncDispose]: () => new Promise(() => undefined) }),
    );
    running.stop();
    await running.clock.advance(2001);
    await running.stopped;
    t.match(running.supervisor.health(), [{ state: "stopped" }]);
  });

  await t.test("takes a new list while it runs: what is the same runs on, the rest ends and begins", async (t) => {
    const events: string[] = [];
    const made = (id: string, config: unknown): ConfiguredDriver => ({
      ...{ id, type: "test", config },
      open: async () => {
        events.push(`open ${id} ${String(config)}`);
        return fakeDriver({ id, [Symbol.asyncDispose]: async () => void events.push(`close ${id} ${String(config)}`) });
      },
    });
    await using running = await start(async () => fakeDriver(), { more: [made("a", 1), made("b", 1)] });
    const { supervisor, clock } = running;
    const configure = async (drivers: ConfiguredDriver[], ...disabled: string[]) => {
      const changes = supervisor.configure(drivers, new Set(disabled));
      await clock.advance(0);
      return changes;
    };
    t.same(events.splice(0), ["open a 1", "open b 1"]);

    t.same(await configure([made("a", 1), made("b", 2), made("c", 1)]), {
      kept: ["a"],
      started: ["b", "c"],
      stopped: ["fake", "b"],
    });
    t.same(events.splice(0), ["close b 1", "open b 2", "open c 1"], "the old one is closed before the new one opens");
    t.match(supervisor.health(), [
      { id: "a", state: "running", counters: { opened: 1 } },
      { id: "b", state: "running" },
      { id: "c", state: "running" },
    ]);
    t.equal(await supervisor.call("c", "go", {}, never), "gone");
    await t.rejects(supervisor.call("fake", "go", {}, never), { code: "COMMAND_REFUSED" });

    await configure([made("a", 1), made("b", 2), made("c", 1)], "a");
    t.same(events.splice(0), ["close a 1"]);
    t.match(supervisor.health()[0], { id: "a", state: "disabled" });
    await t.rejects(supervisor.call("a", "go", {}, never), { code: "COMMAND_REFUSED" });
    await configure([made("a", 1), made("b", 2), made("c", 1)]);
    t.same(events.splice(0), ["open a 1"]);

    t.same(await configure([]), { kept: [], started: [], stopped: ["a", "b", "c"] });
    t.same(await configure([made("d", 1)]), { kept: [], started: ["d"], stopped: [] });
  });

  await t.test("does not wait for ever for a driver that does not end, when it is configured anew", async (t) => {
    let end = (): void => undefined;
    await using running = await start(async () => fakeDriver({ run: () => new Promise((resolve) => (end = resolve)) }));
    const changes = running.supervisor.configure([], new Set());
    await running.clock.advance(10_001);
    t.same((await changes).stopped, ["fake"]);
    t.same(running.supervisor.health(), []);
    end();
  });
});
