import { symlink } from "node:fs/promises";
import { dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import t from "tap";
import * as v from "valibot";
import { systemClock } from "../../core/clock.js";
import type { Driver, DriverDeps, Reading } from "../../core/driver.js";
import { silentLog } from "../../core/log.js";
import type { Disposable } from "../../core/scope.js";
import { PortLeases } from "../../drivers/port-leases.js";
import { configuredDriver, driverSchemas } from "../../drivers/registry.js";
import { openPort } from "../../drivers/serial/open-port.js";
import { DriverSupervisor } from "../../drivers/supervisor.js";
import { ManualClock } from "../fixtures/manual-clock.js";
import { PtyDevice } from "../fixtures/pty-device.js";

const never = new AbortController().signal;

async function until(what: string, holds: () => boolean): Promise<void> {
  const endMs = performance.now() + 15_000;
  while (!holds()) {
    if (performance.now() > endMs) throw new Error(`waited in vain for ${what}`);
    await sleep(5);
  }
}

/** A serial driver and another one under a supervisor, which use one port by different names. */
async function start(device: PtyDevice) {
  const readings: Reading[] = [];
  const publishing: Promise<void>[] = [];
  let deps: DriverDeps | undefined;
  const other: Driver = {
    id: "flasher",
    commands: [],
    run: (stop) => new Promise((resolve) => stop.addEventListener("abort", () => resolve(), { once: true })),
    call: async () => undefined,
    [Symbol.asyncDispose]: async () => undefined,
  };
  const serial = v.parse(driverSchemas.serial, {
    id: "sensor",
    type: "serial",
    path: device.path,
    reading: [{ pointer: "/n", name: "n" }],
  });
  const supervisor = new DriverSupervisor({
    drivers: [
      configuredDriver(serial),
      { id: "flasher", type: "test", open: async (given) => ((deps = given), other) },
    ],
    publish: async (_, batch) => {
      const done = sleep(20).then(() => void readings.push(...batch));
      publishing.push(done);
      await done;
    },
    stateDir: dirname(device.path),
    clock: systemClock,
    log: silentLog,
    limits: { firstWaitMs: 20, maxWaitMs: 50 },
  });
  const stop = new AbortController();
  const running = supervisor.run(stop.signal);
  await until("the drivers", () => supervisor.health().every(({ state }) => state === "running"));
  const health = () => supervisor.health().find(({ id }) => id === "sensor");
  return {
    readings,
    health,
    get deps() {
      if (!deps) throw new Error("the flasher is not open");
      return deps;
    },
    async [Symbol.asyncDispose]() {
      stop.abort();
      await running;
    },
  };
}

t.test("A lease", async (t) => {
  await t.test(
    "suspends the driver that has the port, loses nothing that it has read, and gives it back",
    async (t) => {
      await using device = await PtyDevice.open();
      await using site = await start(device);
      const byId = join(dirname(device.path), "by-id");
      await symlink(device.path, byId);
      for (let n = 1; n <= 5; n += 1) device.say(JSON.stringify({ n }));
      await until("the first reading", () => site.readings.length > 0);

      const lease: Disposable | undefined = await site.deps.leasePort?.(byId, never);
      t.ok(lease);
      await until("the end of the sensor", () => site.health()?.state !== "running");
      await until("what it had read", () => site.readings.length === 5);
      {
        await using port = await site.deps.openPort(byId, { baudRate: 9600 }, never);
        const seen: string[] = [];
        device.onLine = (line) => `got ${line}`;
        await port.write(Buffer.from("hello\n"), never);
        for await (const chunk of port.read(never)) {
          seen.push(Buffer.from(chunk).toString());
          if (seen.join("").includes("got hello")) break;
        }
        t.match(seen.join(""), "got hello", "the holder has the port for itself");
      }
      await sleep(100);
      t.not(site.health()?.state, "running", "the sensor waits, also while the port is closed");
      t.equal(site.health()?.lastErrorCode, "PORT_LEASED");
      t.match(site.health()?.lastError, /belongs to flasher/u);

      await lease?.[Symbol.asyncDispose]();
      await until("the sensor again", () => site.health()?.state === "running");
      device.say('{"n":6}');
      await until("its reading", () => site.readings.length === 6);
      t.strictSame(
        site.readings.map(({ value }) => value),
        [1, 2, 3, 4, 5, 6],
      );
    },
  );

  await t.test("is one at a time, and an opening that waits too long says who has the port", async (t) => {
    const clock = new ManualClock();
    const leases = new PortLeases({ clock, openPort });
    await using device = await PtyDevice.open();
    const first = await leases.lease("one", device.path, never);
    const order: string[] = [];
    const second = leases.lease("two", device.path, never).then((lease) => (order.push("two"), lease));
    const opening = leases.open("sensor", device.path, { baudRate: 9600 }, never);
    opening.catch(() => undefined);
    while (clock.sleeping === 0) await sleep(1);
    await clock.advance(30_001);
    await t.rejects(opening, { code: "PORT_LEASED", message: /belongs to one/u });
    order.push("one ends");
    await first[Symbol.asyncDispose]();
    await (await second)[Symbol.asyncDispose]();
    t.strictSame(order, ["one ends", "two"]);
    await using port = await leases.open("sensor", device.path, { baudRate: 9600 }, never);
    await using again = await leases.lease("sensor", device.path, never);
    t.ok(again, "a driver's own port stays open under its lease");
    await port.write(Buffer.from("still\n"), never);
    await until("the line", () => device.received.includes("still"));
  });
});
