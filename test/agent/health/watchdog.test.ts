import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t, { type Test } from "tap";
import { HealthBoard, type PartStatus } from "../../../agent/health/health.js";
import { systemdOf } from "../../../agent/health/notify-systemd.js";
import { driversHealth, storeHealth } from "../../../agent/health/sources.js";
import { keepManagerInformed, tellStopping } from "../../../agent/health/watchdog.js";
import { silentLog } from "../../../core/log.js";
import { ManualClock } from "../../fixtures/manual-clock.js";

const WATCHDOG_MS = 60_000;
const LISTENER = `
import socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind(sys.argv[1])
while True: print(s.recv(4096).decode())
`;

interface WatchedOptions {
  readonly flush?: () => Promise<void>;
  /** systemd asks for signs of life. */
  readonly asks?: boolean;
}

const NO_COUNTS = {
  inMemory: false,
  accepted: 0,
  refused: 0,
  evicted: 0,
  expired: 0,
  answersDropped: 0,
  aside: 0,
  commit: {} as never,
};

/** A watchdog over parts that a test changes. What systemd is told is collected. */
function watched(t: Test, { flush = () => Promise.resolve(), asks = true }: WatchedOptions = {}) {
  const clock = new ManualClock();
  const board = new HealthBoard(clock);
  const parts: PartStatus[] = [];
  board.add(() => parts);
  const told: string[][] = [];
  const manager = {
    watchdogMs: asks ? WATCHDOG_MS : undefined,
    notify: async (...assignments: readonly string[]) => void told.push([...assignments]),
  };
  const stop = new AbortController();
  const running = keepManagerInformed({ manager, health: board, flush, clock, log: silentLog }, stop.signal);
  t.teardown(async () => {
    stop.abort();
    await running;
  });
  const signsOfLife = () => told.filter((assignments) => assignments.includes("WATCHDOG=1")).length;
  return { clock, parts, told, signsOfLife };
}

t.test("the service manager", async (t) => {
  t.test("is told that the agent is ready, and gets three signs of life in its time", async (t) => {
    const { clock, told, signsOfLife } = watched(t);
    await clock.advance(0);
    t.same(told, [["READY=1", "STATUS=all is well"]]);
    await clock.advance(WATCHDOG_MS);
    t.equal(signsOfLife(), 3);
  });

  t.test("gets no sign of life when it asks for none, and still the state", async (t) => {
    const { clock, told, parts, signsOfLife } = watched(t, { asks: false });
    await clock.advance(600_000);
    t.equal(signsOfLife(), 0);
    parts.push({ name: "link", state: "degraded", code: "CONNECT_FAILED" });
    await clock.advance(1000);
    t.same(told.at(-1), ["STATUS=link degraded (CONNECT_FAILED)"]);
  });

  t.test("does not kill for what a restart would not mend: offline, disk full, a device away, refused", async (t) => {
    const { clock, parts, told, signsOfLife } = watched(t);
    const health = { state: "ok", errorCode: "SQLITE_FULL", identity: "cloned", usedBytes: 1 } as const;
    const counts = { ...NO_COUNTS, accepted: 1, refused: 1 };
    parts.push(
      ...storeHealth({ health: { ...health, ...counts } }),
      ...driversHealth({
        health: () => [{ id: "vent", type: "serial", state: "waiting", sinceMs: 0, counters: {} }],
      }),
      { name: "link", state: "failed", code: "AT0027" },
    );
    await clock.advance(WATCHDOG_MS);
    t.equal(signsOfLife(), 3);
    t.same(told.at(-1)?.at(-1), "STATUS=store failed (CLONED), link failed (AT0027), driver.vent degraded");
  });

  t.test("hears nothing more when the disk has failed a sync, so that the store is opened anew", async (t) => {
    const { clock, parts, told, signsOfLife } = watched(t);
    const health = { state: "failed", errorCode: "EIO", identity: "same", usedBytes: 1 } as const;
    parts.push(...storeHealth({ health: { ...health, ...NO_COUNTS } }));
    await clock.advance(WATCHDOG_MS);
    t.equal(signsOfLife(), 0);
    t.same(told.at(-1), ["STATUS=store has failed (EIO)"]);
  });

  t.test("hears nothing more when the disk confirms nothing for a minute, and again when it does", async (t) => {
    let confirm = (): void => undefined;
    const { clock, signsOfLife } = watched(t, { flush: () => new Promise((resolve) => (confirm = resolve)) });
    await clock.advance(59_000);
    const before = signsOfLife();
    t.ok(before >= 2, "a slow disk is no reason");
    await clock.advance(120_000);
    t.ok(signsOfLife() <= before + 1);
    const stuck = signsOfLife();
    confirm();
    await clock.advance(25_000);
    t.ok(signsOfLife() > stuck);
  });

  t.test("hears nothing when the event loop was late, and again when it is on time", async (t) => {
    const clock = new ManualClock();
    let lateMs = 16_000;
    // The clock as a loop sees it that is kept from looking.
    const late = {
      now: () => clock.now(),
      monotonicMs: () => clock.monotonicMs(),
      sleep: (ms: number, signal: AbortSignal) => clock.sleep(ms + lateMs, signal),
    };
    const told: string[] = [];
    const manager = {
      watchdogMs: WATCHDOG_MS,
      notify: async (...assignments: readonly string[]) => void told.push(...assignments),
    };
    const stop = new AbortController();
    const health = new HealthBoard(clock);
    const options = { manager, health, flush: () => Promise.resolve(), clock: late, log: silentLog };
    const running = keepManagerInformed(options, stop.signal);
    await clock.advance(WATCHDOG_MS);
    t.notOk(told.includes("WATCHDOG=1"));
    t.match(told.at(-1), /event loop was 16000 ms late/);
    lateMs = 0;
    await clock.advance(40_000);
    t.ok(told.includes("WATCHDOG=1"));
    stop.abort();
    await running;
  });
});

t.test("systemd", async (t) => {
  t.test("is not there when it did not start us, and is not inherited by what we start", async (t) => {
    t.equal(systemdOf({ PATH: "/usr/bin" }), undefined);
    const env = { NOTIFY_SOCKET: "/run/x", WATCHDOG_USEC: "60000000", WATCHDOG_PID: String(process.pid), PATH: "/bin" };
    t.equal(systemdOf(env)?.watchdogMs, 60_000);
    t.same(env, { PATH: "/bin" });
    t.equal(systemdOf({ NOTIFY_SOCKET: "/run/x", WATCHDOG_USEC: "1", WATCHDOG_PID: "1" })?.watchdogMs, undefined);
  });

  t.test("gets what it is told over its socket", async (t) => {
    const folder = mkdtempSync(join(tmpdir(), "atedge-notify-")); // a socket's path has 107 bytes at most
    t.teardown(() => rmSync(folder, { recursive: true }));
    const socket = join(folder, "notify");
    // Node cannot listen on a Unix datagram socket either.
    const listener = spawn("python3", ["-uc", LISTENER, socket], { stdio: ["ignore", "pipe", "inherit"] });
    t.teardown(() => listener.kill());
    let heard = "";
    listener.stdout.setEncoding("utf8").on("data", (text: string) => (heard += text));
    const manager = systemdOf({ NOTIFY_SOCKET: socket, PATH: process.env["PATH"] });
    if (!manager) throw new Error("no manager");
    await eventually(() => manager.notify("READY=1", "STATUS=all is well").then(() => true));
    await tellStopping(manager, silentLog);
    await eventually(async () => heard.includes("STOPPING=1"));
    t.match(heard, /READY=1\nSTATUS=all is well/);
    listener.kill();
    await once(listener, "close");
    await t.rejects(manager.notify("READY=1"), { code: "NOTIFY_FAILED" });
  });
});

async function eventually(holds: () => Promise<boolean>): Promise<void> {
  for (let tries = 0; tries < 100; tries++) {
    if (await holds().catch(() => false)) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error("it did not come");
}
