import fc from "fast-check";
import t from "tap";
import { StreamSender } from "../../messages/stream-sender.js";
import { ReceiptTimer, take, type ReceiverState, type Taken } from "../../messages/stream-receiver.js";
import type { TelemetryMessage } from "../../messages/telemetry.js";

const life = { stream: "0123456789abcdef0123456789abcdef", inc: 1 };
const reading = { name: "a", value: 1, timeMs: 1_700_000_000_000 };

const pack = (seq: number, count = 1): TelemetryMessage => ({
  type: "pack",
  ...life,
  class: "measurement",
  seq,
  readings: Array.from({ length: count }, () => reading),
});
const gapOf = (seq: number, fromSeq: number, toSeq: number, readings: number | null): TelemetryMessage => ({
  type: "gap",
  ...life,
  class: "measurement",
  seq,
  gap: { fromSeq, toSeq, readings, timeFrom: null, timeTo: null, reason: "outbox-full" },
});

function takeAll(messages: readonly TelemetryMessage[], begin: "window" | "here" = "window") {
  let state: ReceiverState | undefined;
  const taken: Taken[] = [];
  for (const message of messages) {
    const one = take(state, message, begin);
    state = one.state;
    taken.push(one);
  }
  return { state, taken, last: taken.at(-1) };
}

t.test("a receiver", async (t) => {
  t.test("has what came in order, and nothing is missing", async (t) => {
    const { state } = takeAll([pack(1), pack(2), pack(3)]);
    t.match(state, { have: 3, missing: [], class: "measurement", ...life });
  });

  t.test("sees holes, repairs and repeats", async (t) => {
    const { state, taken } = takeAll([pack(1), pack(5), pack(3), pack(3), pack(1)]);
    t.match(state, {
      have: 5,
      missing: [
        [2, 2],
        [4, 4],
      ],
    });
    t.strictSame(
      taken.map(({ news }) => news),
      ["new", "new", "new", "duplicate", "duplicate"],
    );
    t.strictSame(takeAll([pack(1), pack(5), pack(3), pack(2), pack(4)]).state?.missing, []);
    t.equal(taken[3]?.state, taken[2]?.state, "a repeat changes nothing, so there is nothing to store");
  });

  t.test("that begins late misses what may still be under way, unless it only watches", async (t) => {
    t.match(takeAll([pack(500)]).state, { have: 500, missing: [[437, 499]] });
    t.match(takeAll([pack(3)]).state, { have: 3, missing: [[1, 2]] });
    t.match(takeAll([pack(500)], "here").state, { have: 500, missing: [] });
  });

  t.test("gives up holes that the sender has gone beyond by a window", async (t) => {
    const { state, last } = takeAll([pack(1), pack(3), pack(66)]);
    t.strictSame(last?.forgone, [[2, 2]]);
    t.match(state, { have: 66, missing: [[4, 65]] });
    t.strictSame(takeAll([pack(1), pack(3), pack(65)]).last?.forgone, []);
    t.equal(takeAll([pack(1), pack(3), pack(66), pack(2)]).last?.news, "duplicate");
  });

  t.test("takes a gap as the end of a hole, and counts only what it never had", async (t) => {
    t.match(takeAll([pack(1, 10), gapOf(5, 2, 5, 40)]).last, { lost: 40, state: { have: 5, missing: [] } });
    t.match(takeAll([pack(1, 10), pack(3, 10), gapOf(5, 2, 5, 40)]).last, { lost: 30, state: { missing: [] } });
    t.match(takeAll([pack(1), pack(6), gapOf(7, 2, 4, 9)]).last, { lost: 9, state: { have: 7, missing: [[5, 5]] } });
    t.match(takeAll([pack(1), gapOf(500, 2, 500, null)]).last, { lost: null, forgone: [], state: { missing: [] } });
    t.match(takeAll([pack(1), gapOf(2, 2, 2, 7), gapOf(2, 2, 2, 7)]).last, { news: "duplicate" });
  });

  t.test("ends with everything whatever order and repeats it came in, and never holds more than a window", async () => {
    const order = fc.array(fc.nat(200), { minLength: 1, maxLength: 300 });
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 60 }), order, (count, picks) => {
        // Any order within one window, with repeats.
        const seqs = [...picks.map((pick) => (pick % count) + 1), ...Array.from({ length: count }, (_, i) => i + 1)];
        const { state, taken } = takeAll(seqs.map((seq) => pack(seq)));
        const fresh = taken.filter(({ news }) => news === "new").length;
        const inState = [...(state?.recent ?? [])].length;
        return state?.have === count && state.missing.length === 0 && fresh === count && inState === count;
      }),
    );
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: 1_000_000 }), { maxLength: 200 }), (seqs) => {
        const { taken } = takeAll(seqs.map((seq) => pack(seq)));
        return taken.every(({ state }) => state.missing.length <= 32 && state.recent.length <= 64);
      }),
    );
  });
});

t.test("a receipt timer", async (t) => {
  const run = (messages: readonly (readonly [atMs: number, TelemetryMessage])[]) => {
    const timer = new ReceiptTimer(undefined, 0);
    let state: ReceiverState | undefined;
    for (const [atMs, message] of messages) {
      if (timer.dueMs !== undefined && timer.dueMs <= atMs) timer.sent(timer.dueMs);
      const taken = take(state, message, "window");
      state = taken.state;
      timer.taken(taken, atMs);
    }
    return timer;
  };

  t.test("reports at start what was stored before", async (t) => {
    t.equal(new ReceiptTimer(takeAll([pack(1)]).state, 700).dueMs, 700);
    t.equal(new ReceiptTimer(undefined, 700).dueMs, undefined);
  });

  t.test("reports once a minute while there is traffic, and not without", async (t) => {
    const timer = run([[0, pack(1)]]);
    t.equal(timer.dueMs, 1000);
    timer.sent(1000);
    t.equal(timer.dueMs, undefined);
    t.equal(
      run([
        [0, pack(1)],
        [5000, pack(2)],
        [6000, pack(3)],
      ]).dueMs,
      61_000,
    );
    t.equal(
      run([
        [0, pack(1)],
        [200_000, pack(2)],
      ]).dueMs,
      201_000,
      "after a pause there is no need to wait",
    );
  });

  t.test("reports the end of a backlog within a second, and steady traffic no sooner for it", async (t) => {
    const every = (ms: number, count: number): [number, TelemetryMessage][] =>
      Array.from({ length: count }, (_, n) => [n * ms, pack(n + 1)]);
    t.equal(run(every(10, 40)).dueMs, 320 + 1000, "40 messages in 0.4 s, 32 of them reported");
    t.equal(run(every(10, 20)).dueMs, 160 + 1000, "after the first 16 as well");
    const steady = run(every(1000, 40));
    t.ok(steady.dueMs !== undefined && steady.dueMs > 60_000, `one a second: ${String(steady.dueMs)}`);
  });

  t.test("reports a hole, its repair, a gap and a repeat after a second", async (t) => {
    t.equal(
      run([
        [0, pack(1)],
        [5000, pack(2)],
        [6000, pack(4)],
      ]).dueMs,
      7000,
    );
    t.equal(
      run([
        [0, pack(1)],
        [5000, pack(3)],
        [9000, pack(2)],
      ]).dueMs,
      10_000,
    );
    t.equal(
      run([
        [0, pack(1)],
        [5000, gapOf(2, 2, 2, 5)],
      ]).dueMs,
      6000,
    );
    t.equal(
      run([
        [0, pack(1)],
        [5000, pack(1)],
      ]).dueMs,
      6000,
    );
  });

  t.test("reports at once after 16 messages, so that a window keeps moving", async (t) => {
    const burst = Array.from({ length: 16 }, (_, index) => [5000, pack(index + 2)] as const);
    t.equal(run([[0, pack(1)], ...burst]).dueMs, 5000);
    t.equal(run([[0, pack(1)], ...burst.slice(1, 15)]).dueMs, 6000);
  });
});

t.test("a sender", async (t) => {
  const sender = (count: number, lastSeq = 0): StreamSender => {
    const made = new StreamSender({ life, lastSeq, resendFirstMs: 100, resendMaxMs: 400 });
    for (let seq = lastSeq + 1; seq <= lastSeq + count; seq += 1) made.add(seq);
    return made;
  };
  const sendDue = (made: StreamSender, nowMs: number): number[] => {
    const due = made.due(nowMs);
    for (const seq of due) made.sent(seq, nowMs);
    return due;
  };
  const receipt = (have: number, missing: readonly (readonly [number, number])[] = []) => ({
    ...life,
    consumer: "c",
    have,
    missing,
  });
  const range = (from: number, to: number): number[] => Array.from({ length: to - from + 1 }, (_, i) => from + i);

  t.test("sends in order, at most 64 beyond the first without a receipt", async (t) => {
    const made = sender(100);
    t.equal(made.room, 0);
    t.strictSame(sendDue(made, 0), range(1, 64));
    t.strictSame(sendDue(made, 1), []);
    t.strictSame(made.receipt(receipt(64, [[10, 10]]), 2), { kind: "taken", done: [...range(1, 9), ...range(11, 64)] });
    t.strictSame(sendDue(made, 3), range(65, 73), "10 holds the window");
    made.receipt(receipt(73), 4);
    t.strictSame(sendDue(made, 5), range(74, 100));
    t.equal(made.room, 73 + 64 - 100);
  });

  t.test("resends what the reader misses, but not what may be on its way", async (t) => {
    const made = sender(5);
    sendDue(made, 0);
    made.receipt(receipt(5, [[2, 3]]), 50);
    t.strictSame(sendDue(made, 50), []);
    made.sent(2, 0);
    const slow = new StreamSender({ life, lastSeq: 0 });
    for (const seq of range(1, 5)) slow.add(seq);
    sendDue(slow, 0);
    slow.receipt(receipt(5, [[2, 3]]), 3000);
    t.strictSame(sendDue(slow, 3000), [2, 3]);
    t.equal(slow.size, 2);
  });

  t.test("resends by itself after a doubling time", async (t) => {
    const made = sender(1);
    const times: number[] = [];
    for (let now = 0; now < 2000; now += 10) if (sendDue(made, now).length > 0) times.push(now);
    t.strictSame(times, [0, 100, 300, 700, 1100, 1500, 1900]);
    t.equal(made.nextDueMs(), 2300);
    made.delivered(1);
    t.equal(made.nextDueMs(), undefined);
  });

  t.test("stays due until it is told that its atServer took the message", async (t) => {
    const made = sender(2);
    t.strictSame(made.due(0), [1, 2]);
    t.strictSame(made.due(1000), [1, 2]);
  });

  t.test("asks for a new life when a receipt is above all it ever sent", async (t) => {
    t.strictSame(sender(3, 10).receipt(receipt(13), 0).kind, "taken");
    t.strictSame(sender(3, 10).receipt(receipt(14), 0), { kind: "ahead" });
    t.strictSame(sender(3).receipt({ ...receipt(3), inc: 2 }, 0), { kind: "other-life" });
    t.strictSame(sender(3).receipt({ ...receipt(3), stream: "f".repeat(32) }, 0), { kind: "other-life" });
  });

  t.test("keeps window and order whatever order the messages are added in", async (t) => {
    const made = new StreamSender({ life, lastSeq: 70 });
    for (const seq of [66, 65, 64, 1, 2]) made.add(seq);
    t.strictSame(sendDue(made, 0), [1, 2, 64]);
    t.strictSame(made.receipt(receipt(64), 1), { kind: "taken", done: [1, 2, 64] });
    t.strictSame(sendDue(made, 2), [65, 66]);
  });

  t.test("sends a gap that is longer than a window, and waits for its receipt before it goes on", async (t) => {
    const made = sender(64);
    made.drop(1, 64);
    made.add(200, 1);
    made.add(201);
    t.strictSame(sendDue(made, 0), [200]);
    made.receipt(receipt(200), 1);
    t.strictSame(sendDue(made, 2), [201]);
  });

  t.test("and a receiver end with everything over a channel that loses, swaps and repeats", async () => {
    const fate = fc.constantFrom("arrive", "arrive", "lose", "twice", "late");
    fc.assert(
      fc.property(
        fc.array(fate, { minLength: 50, maxLength: 400 }),
        fc.integer({ min: 1, max: 200 }),
        (fates, count) => {
          const made = new StreamSender({ life, lastSeq: 0, resendFirstMs: 90_000 });
          for (const seq of range(1, count)) made.add(seq);
          const got = new Map<number, number>();
          let state: ReceiverState | undefined;
          const timer = new ReceiptTimer(undefined, 0);
          let late: number[] = [];
          let step = 0;
          let nowMs = 0;
          const forgone: unknown[] = [];
          const arrive = (seq: number): void => {
            const taken = take(state, pack(seq), "window");
            state = taken.state;
            forgone.push(...taken.forgone);
            if (taken.news === "new") got.set(seq, (got.get(seq) ?? 0) + 1);
            timer.taken(taken, nowMs);
          };
          for (; made.size > 0 && step < 100_000; nowMs += 500) {
            const arrivals = [...late];
            late = [];
            for (const seq of made.due(nowMs)) {
              made.sent(seq, nowMs);
              // Fates run out: then the channel is perfect, so that the test ends.
              const what = fates[step++] ?? "arrive";
              if (what === "arrive" || what === "twice") arrivals.push(seq);
              if (what === "twice" || what === "late") late.push(seq);
            }
            for (const seq of arrivals) arrive(seq);
            if (state && timer.dueMs !== undefined && timer.dueMs <= nowMs) {
              timer.sent(nowMs);
              if ((fates[step++] ?? "arrive") !== "lose")
                made.receipt({ ...life, consumer: "c", have: state.have, missing: state.missing }, nowMs);
            }
          }
          return (
            made.size === 0 && got.size === count && [...got.values()].every((n) => n === 1) && forgone.length === 0
          );
        },
      ),
      { numRuns: 60 },
    );
  });
});
