import fc from "fast-check";
import t from "tap";
import type { RuleConfig } from "../../../agent/config/schema.js";
import type { Outcome } from "../../../agent/control/ledger.js";
import type { Asked } from "../../../agent/control/request-reader.js";
import { AT_REST, dueMs, holds, seen, type RuleState } from "../../../agent/rules/evaluate.js";
import { parseRule } from "../../../agent/rules/grammar.js";
import { RuleRunner } from "../../../agent/rules/rule-runner.js";
import { EdgeError } from "../../../core/errors.js";
import { silentLog } from "../../../core/log.js";
import { CommandRejected } from "../../../messages/command.js";
import { Device } from "../../fixtures/control/device.js";
import { ManualClock } from "../../fixtures/manual-clock.js";

const VENT = "when temperature.north > 30 for 60s until < 28 then vent/open";

t.test("the grammar", async (t) => {
  t.test("reads what a rule says", async (t) => {
    t.same(parseRule(VENT), {
      reading: "temperature.north",
      when: { operator: ">", value: 30 },
      forMs: 60_000,
      until: { operator: "<", value: 28 },
      target: "vent",
      command: "open",
    });
    const table: [string, object][] = [
      ["when a>=1.5 then b/c", { reading: "a", when: { operator: ">=", value: 1.5 }, forMs: 0, until: undefined }],
      [
        "  when  a/b:c_d  !=  -2e3  for 5min  then x.y/z-1 ",
        { reading: "a/b:c_d", when: { value: -2000 }, forMs: 300_000 },
      ],
      ["when door == true then lamp/set", { when: { operator: "==", value: true } }],
      ['when mode == "a b\\"c" for 1.5h then x/y', { when: { value: 'a b"c' }, forMs: 5_400_000 }],
      ["when when == 1 then then/for", { reading: "when", target: "then", command: "for" }],
      ["when a < +3 for 250ms then x/y", { when: { value: 3 }, forMs: 250 }],
    ];
    for (const [text, rule] of table) t.match(parseRule(text), rule, text);
  });

  t.test("says at which column it expected something else", async (t) => {
    const table: [string, number, RegExp][] = [
      ["", 1, /expected "when", got the end/],
      ["if a > 1 then x/y", 1, /expected "when", got "if"/],
      ["when", 5, /the name of a reading/],
      ["when a ~ 1 then x/y", 8, /> >= < <= == or !=, got "~"/],
      ["when a > then x/y", 10, /a number, true, false or a text, got "then"/],
      ["when a > true then x/y", 10, /a number after this operator/],
      ["when a > 007 then x/y", 10, /a number/],
      ["when a > 1 for 60 then x/y", 16, /a duration/],
      ["when a > 1 for 60seconds then x/y", 16, /a duration/],
      ["when a > 1 for 200h then x/y", 16, /7 days at most/],
      ["when a > 1 until then x/y", 18, /> >=/],
      ["when a > 1 and b > 2 then x/y", 12, /expected "then", got "and"/],
      ["when a > 1 then x", 17, /target\/command/],
      ["when a > 1 then x/y z", 21, /the end, got "z"/],
    ];
    for (const [text, column, message] of table)
      t.throws(() => parseRule(text), { code: "SYNTAX_INVALID", column, message }, text);
  });

  t.test("meets garbage with its own error only", async () => {
    const words = fc.constantFrom(
      "when",
      "a",
      ">",
      "30",
      "for",
      "60s",
      "until",
      "then",
      "x/y",
      '"',
      "\\",
      "\u0000",
      "e",
    );
    const near = fc.array(words, { maxLength: 12 }).map((list) => list.join(" "));
    fc.assert(
      fc.property(fc.oneof(fc.string(), near), (text) => {
        try {
          parseRule(text);
          return true;
        } catch (error) {
          return error instanceof EdgeError;
        }
      }),
    );
  });
});

t.test("a comparison", async (t) => {
  t.ok(holds({ operator: ">", value: 30 }, 30.1));
  t.notOk(holds({ operator: ">", value: 30 }, 30));
  t.ok(holds({ operator: "<=", value: 30 }, 30));
  t.notOk(holds({ operator: ">", value: 30 }, "31"), "a text is no number");
  t.ok(holds({ operator: "!=", value: "on" }, "off"));
  t.notOk(holds({ operator: "==", value: true }, 1));
});

t.test("where a rule stands", async (t) => {
  const rule = parseRule(VENT);
  const STALE_MS = 30_000;
  /** Readings as [seconds, value]. */
  const after = (...readings: [number, number][]): RuleState =>
    readings.reduce((state, [s, value]) => seen(rule, state, value, s * 1000, STALE_MS), AT_REST);

  t.test("is due when the condition has held for so long", async (t) => {
    t.equal(dueMs(rule, after([0, 20]), STALE_MS), undefined);
    t.equal(dueMs(rule, after([0, 31]), STALE_MS), undefined, "one reading does not vouch for a minute");
    t.equal(dueMs(rule, after([0, 31], [20, 32], [40, 33]), STALE_MS), 60_000);
    t.equal(dueMs(rule, after([0, 31], [20, 29], [40, 33], [60, 33]), STALE_MS), undefined, "a break begins anew");
    t.equal(dueMs(rule, after([0, 31], [20, 29], [40, 33], [60, 33], [80, 33]), STALE_MS), 100_000);
  });

  t.test("is not due on stale readings: a pause begins anew", async (t) => {
    t.equal(dueMs(rule, after([0, 31], [20, 31], [61, 31]), STALE_MS), undefined);
    t.equal(dueMs(rule, after([0, 31], [20, 31], [61, 31], [81, 31], [101, 31]), STALE_MS), 121_000);
  });

  t.test("is not due again before what `until` says was seen", async (t) => {
    const fired = { ...after([0, 31]), fired: true };
    const then = (...readings: [number, number][]): RuleState =>
      readings.reduce((state, [s, value]) => seen(rule, state, value, s * 1000, STALE_MS), fired);
    t.ok(then([10, 29], [20, 31]).fired, "between the two limits it stays as it is");
    t.notOk(then([10, 27.9]).fired);
    const simple = parseRule("when a > 30 then b/c");
    t.notOk(seen(simple, fired, 30, 10_000, STALE_MS).fired, "without it, that the condition does not hold");
  });
});

interface Bench {
  readonly clock: ManualClock;
  readonly asked: Asked[];
  readonly audited: object[];
  readonly runner: RuleRunner;
  refuse: boolean;
  stop(): Promise<void>;
}

async function start(folder: string, change: Partial<RuleConfig> = {}, clock = new ManualClock()): Promise<Bench> {
  const rule = { name: "hot", rule: VENT, args: { percent: 100 }, staleMs: 30_000, ...change };
  const asked: Asked[] = [];
  const audited: object[] = [];
  const end = new AbortController();
  const success: Outcome = { type: "success", payload: {}, message: null };
  const bench: Omit<Bench, "runner" | "stop"> = { clock, asked, audited, refuse: false };
  const runner = new RuleRunner({
    rules: [rule],
    stateDir: folder,
    async command(command) {
      asked.push(command);
      if (bench.refuse) throw new CommandRejected("driver-down", "vent is not connected");
      return success;
    },
    audit: { append: async (kind, fields) => void audited.push({ kind, ...fields }) },
    clock,
    log: silentLog,
  });
  const running = runner.run(end.signal);
  // It reads its file, and then waits for the clock.
  while (clock.sleeping === 0) await new Promise(setImmediate);
  return Object.assign(bench, {
    runner,
    stop: async () => {
      end.abort();
      await running;
    },
  });
}

/** The state of rules is kept in a file, which takes its own time. */
async function settle({ runner, clock }: Bench): Promise<void> {
  for (let turn = 0; turn < 3; turn++) {
    await runner.flush();
    await clock.advance(0);
  }
}

/** The same value every 10 s. */
async function feed(bench: Bench, value: number, seconds: number): Promise<void> {
  for (let s = 0; s < seconds; s += 10) {
    bench.runner.take([{ name: "temperature.north", value }]);
    await bench.clock.advance(10_000);
    await settle(bench);
  }
}

t.test("the rules of a device", async (t) => {
  t.test("fire once, and again after what `until` says; each firing is audited under an id of its own", async (t) => {
    const bench = await start(t.testdir());
    await feed(bench, 31, 50);
    t.equal(bench.asked.length, 0, "50 s are no minute");
    await feed(bench, 31, 60);
    t.match(bench.asked, [{ caller: "rules", target: "vent", command: "open", args: { percent: 100 } }]);
    t.match(bench.audited, [
      { kind: "rule", rule: "hot", reading: "temperature.north", value: 31, id: bench.asked[0]?.id },
    ]);
    await feed(bench, 29, 60);
    await feed(bench, 31, 100);
    t.equal(bench.asked.length, 1);
    await feed(bench, 27, 10);
    await feed(bench, 31, 100);
    t.equal(bench.asked.length, 2);
    t.not(bench.asked[0]?.id, bench.asked[1]?.id);
    t.match(bench.runner.health(), [{ name: "rules", state: "ok", counters: { rules: 1, fired: 2 } }]);
    await bench.stop();
  });

  t.test("do not fire on readings that were taken long ago, nor when the readings stop", async (t) => {
    const bench = await start(t.testdir());
    const { clock, runner } = bench;
    for (let s = 0; s < 200; s += 10) {
      runner.take([{ name: "temperature.north", value: 31, timeMs: clock.now() - 30_001 }]);
      runner.take([{ name: "other", value: 31 }]);
      await clock.advance(10_000);
    }
    await feed(bench, 31, 20);
    await clock.advance(600_000);
    await settle(bench);
    t.equal(bench.asked.length, 0);
    await bench.stop();
  });

  t.test("do not fire again because the agent was started again", async (t) => {
    const folder = t.testdir();
    const first = await start(folder);
    await feed(first, 31, 100);
    t.equal(first.asked.length, 1);
    await first.stop();
    const second = await start(folder);
    await feed(second, 31, 100);
    t.equal(second.asked.length, 0);
    await feed(second, 27, 10);
    await feed(second, 31, 100);
    t.equal(second.asked.length, 1);
    t.not(second.asked[0]?.id, first.asked[0]?.id);
    await second.stop();
  });

  t.test("try again under the same id while a command cannot be begun, as long as the condition holds", async (t) => {
    const bench = await start(t.testdir());
    bench.refuse = true;
    await feed(bench, 31, 130);
    t.ok(bench.asked.length >= 2 && bench.asked.length <= 4, `${bench.asked.length} tries`);
    t.equal(new Set(bench.asked.map(({ id }) => id)).size, 1);
    t.match(bench.runner.health(), [{ state: "degraded", code: "driver-down" }]);
    bench.refuse = false;
    await feed(bench, 31, 60);
    t.match(bench.runner.health(), [{ state: "ok", counters: { fired: 1 } }]);
    await bench.stop();
  });

  t.test("can be others from one moment to the next; one that is the same goes on", async (t) => {
    const bench = await start(t.testdir());
    await feed(bench, 31, 50);
    const same = { name: "hot", rule: VENT, args: { percent: 50 }, staleMs: 30_000 };
    bench.runner.configure([same, { ...same, name: "cold", rule: "when temperature.north < 5 then vent/close" }]);
    await feed(bench, 31, 30);
    t.match(bench.asked, [{ args: { percent: 50 } }]);
    await feed(bench, 4, 10);
    t.match(bench.asked, [{}, { command: "close", id: /^rule\.cold\./u }]);
    await bench.stop();
  });
});

t.test("a rule's command goes the way of all commands", async (t) => {
  const asked = (change: Partial<Asked> = {}): Asked => ({
    ...{ caller: "rules" as Asked["caller"], reqId: 0, id: "rule.hot.1", target: "lamp", command: "set" },
    ...{ args: { on: true }, issuedAtMs: 1, expiresAtMs: 2, sealed: true, dryRun: false },
    ...change,
  });
  const signal = new AbortController().signal;

  t.test("policy, ledger, driver and audit; nobody is answered, and no clock is needed", async (t) => {
    const device = new Device([{ atsign: "rules", commands: ["lamp/set"] }]);
    device.timeKnown = false;
    t.match(await device.desk.runOwn(asked(), signal), { type: "success" });
    t.equal(device.drivers.calls.length, 1);
    t.same(device.store.answers, []);
    t.match(device.store.find("rules", "rule.hot.1"), { outcome: { type: "success" } });
    t.match(device.audited, [
      { kind: "command", caller: "rules", decision: "accepted", args: { on: true } },
      { kind: "outcome", caller: "rules", outcome: "success" },
    ]);
    await device.desk.runOwn(asked(), signal);
    t.equal(device.drivers.calls.length, 1, "the same id acts once");
  });

  t.test("what the policy does not allow the rules is refused", async (t) => {
    const device = new Device([{ commands: ["lamp/*"] }]);
    await t.rejects(device.desk.runOwn(asked(), signal), { message: /no \[\[allow\]\] names the rules/ });
    const limited = new Device([{ atsign: "rules", commands: ["lamp/*"], hours: ["00:00-01:00"] }]);
    limited.timeKnown = false;
    await t.rejects(limited.desk.runOwn(asked(), signal), { message: /allowed at 00:00-01:00/ }, "hours need a clock");
    t.match(limited.audited, [{ decision: "refused", reason: "not-now" }]);
  });
});
