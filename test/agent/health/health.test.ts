import t from "tap";
import { AgentTime, type ClockTrust, clockTrust } from "../../../agent/agent-time.js";
import { Counters } from "../../../agent/health/counters.js";
import { clockHealth } from "../../../agent/health/sources.js";
import { HealthBoard, type PartStatus } from "../../../agent/health/health.js";
import { LogLimiter } from "../../../agent/health/log-limiter.js";
import { patiently } from "../../../agent/patience.js";
import { ConnectionLost } from "../../../atplatform/transport/errors.js";
import { SyntaxInvalid } from "../../../core/errors.js";
import { ManualClock } from "../../fixtures/manual-clock.js";

const never = new AbortController().signal;

t.test("health", async (t) => {
  t.test("is as good as its worst part, and tells since when each part is as it is", async (t) => {
    const clock = new ManualClock(1_000_000);
    const board = new HealthBoard(clock);
    let link: PartStatus = { name: "link", state: "ok" };
    board.add(() => [{ name: "store", state: "ok", counters: { accepted: 3 } }]);
    board.add(() => [link]);
    t.equal(board.snapshot().state, "ok");
    await clock.advance(5000);
    link = { name: "link", state: "degraded", code: "CONNECT_FAILED" };
    t.same(board.snapshot(), {
      state: "degraded",
      parts: [
        { name: "store", state: "ok", counters: { accepted: 3 }, sinceMs: 1_000_000 },
        { name: "link", state: "degraded", code: "CONNECT_FAILED", sinceMs: 1_005_000 },
      ],
    });
    await clock.advance(5000);
    t.equal(board.snapshot().parts[1]?.sinceMs, 1_005_000);
    board.add(() => [{ name: "driver.a", state: "failed" }]);
    t.equal(board.snapshot().state, "failed");
  });

  t.test("counters begin at nothing", async (t) => {
    const counters = new Counters();
    t.equal(counters.get("a"), 0);
    counters.add("a");
    counters.add("a", 2);
    t.same(counters.values(), { a: 3 });
  });
});

t.test("a limiter of log lines", async (t) => {
  t.test("lets one line a subject through in a while and says how many it kept back", async (t) => {
    const clock = new ManualClock();
    const limiter = new LogLimiter({ clock, everyMs: 1000, maxSubjects: 10 });
    t.equal(limiter.admit("a"), 0);
    t.equal(limiter.admit("a"), undefined);
    t.equal(limiter.admit("a"), undefined);
    t.equal(limiter.admit("b"), 0);
    await clock.advance(1000);
    t.equal(limiter.admit("a"), 2);
  });

  t.test("remembers a bounded number of subjects", async (t) => {
    const limiter = new LogLimiter({ clock: new ManualClock(), everyMs: 1000, maxSubjects: 2 });
    for (const subject of ["a", "b", "c"]) t.equal(limiter.admit(subject), 0);
    t.equal(limiter.admit("c"), undefined);
    t.equal(limiter.admit("a"), 0, "the oldest was forgotten");
  });
});

t.test("agent time", async (t) => {
  const known = Date.UTC(2026, 5, 1);
  const HOUR = 3_600_000;
  const boot = "b".repeat(32);
  const timeBy = (clock: ManualClock, trust: () => ClockTrust = () => "unknown", bootOf = boot): AgentTime =>
    new AgentTime({ clock, trust, boot: bootOf, machineMonotonicMs: () => clock.monotonicMs() });

  t.test("is the wall clock while that goes on", async (t) => {
    const clock = new ManualClock(known);
    const time = timeBy(clock);
    time.resume({ ms: known - 1000 });
    await clock.advance(5000);
    t.equal(time.now(), known + 5000);
    t.match(time.health, { known: true, code: undefined, wallBehindMs: 0 });
  });

  t.test("goes on by the monotonic clock when the wall clock is set back, and never goes back itself", async (t) => {
    const clock = new ManualClock(known);
    const time = timeBy(clock);
    t.equal(time.now(), known);
    clock.setWall(known - HOUR);
    t.equal(time.now(), known);
    await clock.advance(2000);
    t.equal(time.now(), known + 2000);
    t.match(time.health, { code: "CLOCK_BEHIND", wallBehindMs: HOUR });
  });

  t.test("does not follow a wall clock that jumps ahead before the atServer confirms it", async (t) => {
    const clock = new ManualClock(known);
    const time = timeBy(clock);
    time.now();
    clock.setWall(known + 30 * 24 * HOUR);
    await clock.advance(1000);
    t.equal(time.now(), known + 1000, "nothing expires by it");
    t.match(time.health, { code: "CLOCK_AHEAD" });
    time.serverShowed({ shownMs: known + 30 * 24 * HOUR });
    t.equal(time.now(), known + 30 * 24 * HOUR + 1000);
    t.match(time.health, { code: undefined });
  });

  t.test("takes a step that NTP makes", async (t) => {
    const clock = new ManualClock(known);
    const time = timeBy(clock);
    time.now();
    clock.setWall(known + 120_000);
    t.equal(time.now(), known + 120_000);
  });

  t.test("is the atServer's clock when the wall clock is behind, and then runs on without it", async (t) => {
    const clock = new ManualClock(known);
    const time = timeBy(clock);
    time.serverShowed({ shownMs: known + 3 * HOUR });
    await clock.advance(60_000);
    t.equal(time.now(), known + 3 * HOUR + 60_000);
    time.serverShowed({ shownMs: known + HOUR });
    t.equal(time.now(), known + 3 * HOUR + 60_000, "an old notification changes nothing");
  });

  t.test("knows the atServer's clock within the time that its answer took", async (t) => {
    const clock = new ManualClock(known);
    const time = timeBy(clock);
    const askedMs = clock.monotonicMs();
    await clock.advance(400);
    const answeredMs = clock.monotonicMs();
    await clock.advance(9000);
    time.serverShowed({ shownMs: known + 5000 + 200, askedMs, answeredMs });
    const { serverAheadFromMs = NaN, serverAheadToMs = NaN } = time.health;
    t.equal(serverAheadToMs - serverAheadFromMs, 400);
    t.equal(serverAheadFromMs, 0, "it is taken for the time at once");
    t.equal(time.now(), known + 9400 + 4800, "the earliest that it can be");
    clock.setWall(known + 9400 - 2 * HOUR);
    time.serverShowed({ shownMs: known - HOUR, askedMs: clock.monotonicMs() });
    t.match(time.health, { code: "CLOCK_BEHIND", serverAheadToMs: Number });
    clock.setWall(time.nowMs());
    t.match(time.health, { code: "TIME_AHEAD_OF_SERVER" }, "it does not go back for the server either");
  });

  t.test("is not known on a board that boots in the past, but never earlier than what had passed", async (t) => {
    const clock = new ManualClock(0);
    const time = timeBy(clock);
    time.resume({ ms: known });
    await clock.advance(1000);
    t.equal(time.now(), undefined);
    t.equal(time.nowMs(), known + 1000);
    t.match(time.health, { known: false, code: "CLOCK_UNKNOWN" });
    clock.setWall(known + HOUR);
    t.equal(time.now(), known + HOUR);
  });

  t.test("is not known where the clock starts at the last shutdown, until somebody has set it", async (t) => {
    let trust: ClockTrust = "unsynchronised";
    const clock = new ManualClock(known);
    const time = timeBy(clock, () => trust);
    time.resume({ ms: known - 5000, boot: "a".repeat(32), monotonicMs: 100_000 });
    t.equal(time.now(), undefined);
    clock.setWall(known + 72 * HOUR);
    t.equal(time.now(), undefined);
    trust = "synchronised";
    t.equal(time.now(), known + 72 * HOUR);
    const other = timeBy(new ManualClock(known), () => "unsynchronised");
    other.serverShowed({ shownMs: known + HOUR });
    t.equal(other.now(), known + HOUR, "or the atServer has told the time");
  });

  t.test("goes on in the same boot after a restart, whatever the wall clock shows", async (t) => {
    const clock = new ManualClock(known + 1000 * HOUR);
    await clock.advance(60_000);
    const time = timeBy(clock, () => "unknown");
    time.resume({ ms: known, boot, monotonicMs: 20_000 });
    t.equal(time.now(), known + 40_000);
    t.match(time.health, { known: true, code: "CLOCK_AHEAD" });
  });

  t.test("is unknown on a new board that boots in the past, until its clock is set", async (t) => {
    const clock = new ManualClock(0);
    const time = timeBy(clock);
    t.equal(time.now(), undefined);
    clock.setWall(known);
    t.equal(time.now(), known);
  });

  t.test("is told as a part of the health", (t) => {
    const clock = new ManualClock(0);
    const time = timeBy(clock);
    t.match(clockHealth(time), [{ name: "clock", state: "degraded", code: "CLOCK_UNKNOWN", counters: { known: 0 } }]);
    clock.setWall(known);
    t.match(clockHealth(time), [{ state: "ok", code: undefined, counters: { known: 1, wallBehindMs: 0 } }]);
    t.ok(["synchronised", "unsynchronised", "unknown"].includes(clockTrust()));
    t.end();
  });
});

t.test("patience", async (t) => {
  t.test("asks again while the link is away", async (t) => {
    const clock = new ManualClock();
    let asked = 0;
    const answer = patiently(
      async () => {
        asked += 1;
        if (asked < 3) throw new ConnectionLost("gone");
        return "here";
      },
      clock,
      never,
    );
    await clock.advance(60_000);
    t.equal(await answer, "here");
  });

  t.test("ends after some tries, and at once when waiting would not help", async (t) => {
    const clock = new ManualClock();
    let asked = 0;
    const lost = patiently(async () => Promise.reject(new ConnectionLost(`gone ${(asked += 1)}`)), clock, never);
    const ended = t.rejects(lost, { code: "CONNECTION_LOST" });
    await clock.advance(120_000);
    await ended;
    t.equal(asked, 5);
    asked = 0;
    await t.rejects(
      patiently(async () => Promise.reject(new SyntaxInvalid(`bad ${(asked += 1)}`)), clock, never),
      { code: "SYNTAX_INVALID" },
    );
    t.equal(asked, 1);
  });
});
