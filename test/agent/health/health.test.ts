import t from "tap";
import { AgentTime } from "../../../agent/agent-time.js";
import { Counters } from "../../../agent/health/counters.js";
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

  t.test("is the local clock while that goes on", async (t) => {
    const clock = new ManualClock(known);
    const time = new AgentTime(clock, known - 1000);
    await clock.advance(5000);
    t.equal(time.now(), known + 5000);
  });

  t.test("goes on by the monotonic clock when the local clock is set back, and never goes back itself", async (t) => {
    const clock = new ManualClock(known);
    const time = new AgentTime(clock, 0);
    t.equal(time.now(), known);
    clock.setWall(known - 3_600_000);
    t.equal(time.now(), known);
    await clock.advance(2000);
    t.equal(time.now(), known + 2000);
  });

  t.test("on a board that boots in the past is what the last run knew to have passed", async (t) => {
    const clock = new ManualClock(0);
    const time = new AgentTime(clock, known);
    await clock.advance(1000);
    t.equal(time.now(), known + 1000);
  });

  t.test("is unknown on a new board that boots in the past, until its clock is set", async (t) => {
    const clock = new ManualClock(0);
    const time = new AgentTime(clock, 0);
    t.equal(time.now(), undefined);
    clock.setWall(known);
    t.equal(time.now(), known);
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
