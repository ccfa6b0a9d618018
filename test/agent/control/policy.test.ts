import t from "tap";
import { globOf } from "../../../agent/control/glob.js";
import { parseHours, withinHours } from "../../../agent/control/hours.js";
import { Policy, type Wanted } from "../../../agent/control/policy.js";
import type { AllowConfig } from "../../../agent/config/schema.js";
import { parseAtSign } from "../../../atplatform/protocol/at-sign.js";
import { codeOf } from "../../../core/errors.js";
import { CommandRejected } from "../../../messages/command.js";
import { Device, GROWER } from "../../fixtures/control/device.js";
import { ManualClock } from "../../fixtures/manual-clock.js";

const at = (text: string): number => Date.parse(text);

t.test("a pattern takes * for any text, and all else as it is", async (t) => {
  t.ok(globOf("vent-*")("vent-2"));
  t.ok(globOf("*.north")("temperature.north"));
  t.notOk(globOf("vent-*")("event-2"));
  t.notOk(globOf("a.b")("axb"));
  t.notOk(globOf("a.b*")("axbc"));
  t.ok(globOf("@site-*")("@site-7"));
  t.notOk(globOf("@site-*")("@my@site-7"));
});

t.test("hours", async (t) => {
  const open = (hours: string[], timeZone: string, when: string): boolean => withinHours(hours, timeZone)(at(when));
  t.test("begin at their first minute and end before their last", async (t) => {
    t.ok(open(["06:00-20:00"], "UTC", "2026-06-01T06:00:00Z"));
    t.ok(open(["06:00-20:00"], "UTC", "2026-06-01T19:59:59Z"));
    t.notOk(open(["06:00-20:00"], "UTC", "2026-06-01T20:00:00Z"));
    t.ok(open(["06:00-24:00"], "UTC", "2026-06-01T23:59:59Z"));
  });
  t.test("go by the clock of their time zone, summer time included", async (t) => {
    t.ok(open(["08:00-09:00"], "Europe/Berlin", "2026-06-01T06:30:00Z"));
    t.ok(open(["08:00-09:00"], "Europe/Berlin", "2026-12-01T07:30:00Z"));
    t.notOk(open(["08:00-09:00"], "Europe/Berlin", "2026-12-01T06:30:00Z"));
    t.ok(open(["18:00-19:00"], "America/New_York", "2026-06-01T22:30:00Z"));
  });
  t.test("are of days of the week; past midnight they belong to the day on which they began", async (t) => {
    t.ok(open(["mon-fri 08:00-18:00"], "UTC", "2026-06-05T17:00:00Z"), "a Friday");
    t.notOk(open(["mon-fri 08:00-18:00"], "UTC", "2026-06-06T17:00:00Z"));
    t.ok(open(["fri 22:00-06:00"], "UTC", "2026-06-06T05:59:00Z"));
    t.notOk(open(["fri 22:00-06:00"], "UTC", "2026-06-05T05:59:00Z"));
    t.ok(open(["sat-mon 01:00-02:00"], "UTC", "2026-06-07T01:30:00Z"), "a Sunday");
    t.ok(open(["mon 01:00-02:00", "sun,wed 03:00-04:00"], "UTC", "2026-06-10T03:30:00Z"), "a Wednesday");
  });
  t.test("of another form are refused", async (t) => {
    for (const text of [
      "",
      "6:00-7:00",
      "06:00-06:00",
      "24:00-01:00",
      "06:60-07:00",
      "mon-tue-wed 01:00-02:00",
      "xxx 01:00-02:00",
    ])
      t.throws(() => parseHours(text), { code: "SYNTAX_INVALID" }, text);
  });
});

const entry = (change: Partial<AllowConfig>): AllowConfig => ({
  ...{ atsign: "@grower", commands: ["vent/*"], unsigned: false, timeZone: "UTC" },
  ...change,
});
const clock = new ManualClock(at("2026-06-01T12:00:00Z"));
const policyOf = (...allow: Partial<AllowConfig>[]): Policy => new Policy(allow.map(entry), { device: "north", clock });

function verdict(policy: Policy, wanted: Partial<Wanted>, from = "@grower"): string {
  const full: Wanted = { target: "vent", command: "open", args: {}, sealed: true, dryRun: false, ...wanted };
  const caller = policy.callerOf(parseAtSign(from));
  if (!caller) return "stranger";
  if (!caller.allows(full)) return "not named";
  try {
    caller.admit(full, clock.now());
    return "ok";
  } catch (error) {
    if (error instanceof CommandRejected) return `${error.reason}: ${error.message}`;
    return String(codeOf(error));
  }
}

t.test("the machine's own time and UTC are as Intl has them", async (t) => {
  const stretches = ["mon-fri 06:10-20:00", "sat 22:00-04:30"];
  const zones = { local: Intl.DateTimeFormat().resolvedOptions().timeZone, UTC: "Etc/UTC" };
  const start = at("2026-03-20T00:00:00Z");
  for (const [zone, name] of Object.entries(zones)) {
    const [ours, theirs] = [withinHours(stretches, zone), withinHours(stretches, name === "UTC" ? "Etc/UTC" : name)];
    const wrong = Array.from({ length: 3000 }, (_, hour) => start + hour * 3_540_000).filter(
      (ms) => ours(ms) !== theirs(ms),
    );
    t.strictSame(wrong, [], zone);
  }
});

t.test("the policy", async (t) => {
  t.test("denies what no table allows, and adds up what several tables allow", async (t) => {
    t.equal(verdict(policyOf(), {}), "stranger");
    const policy = policyOf(
      { commands: ["vent/open"] },
      { commands: ["lamp-*/s*"] },
      { atsign: "@other", commands: ["*/*"] },
    );
    t.equal(verdict(policy, {}), "ok");
    t.equal(verdict(policy, { command: "close" }), "not named");
    t.equal(verdict(policy, { target: "lamp-2", command: "set" }), "ok");
    t.equal(verdict(policy, { target: "lamp", command: "set" }), "not named");
    t.equal(verdict(policy, { command: "close" }, "@other"), "ok");
  });

  t.test("names callers exactly or by a pattern", async (t) => {
    const policy = policyOf({ atsign: "@site-*" });
    t.equal(verdict(policy, {}, "@site-7"), "ok");
    t.equal(verdict(policy, {}, "@offsite-7"), "stranger");
    t.equal(verdict(policyOf({ atsign: "rules" }), {}, "@rules"), "stranger", "the rules are no atSign");
  });

  t.test("gives power over the agent by name only", async (t) => {
    const agent = { target: "agent", command: "restart" };
    t.equal(verdict(policyOf({ commands: ["*/*"] }), agent), "not named");
    t.equal(verdict(policyOf({ commands: ["a*/*"] }), agent), "not named");
    t.equal(verdict(policyOf({ commands: ["agent/*"] }), agent), "ok");
    t.equal(verdict(policyOf({ commands: ["agent/state"] }), agent), "not named");
    t.equal(
      verdict(policyOf({ commands: ["vent/open"] }), { target: "agent", command: "cancel" }),
      "ok",
      "but for one's own",
    );
  });

  t.test("counts for the devices that a table names", async (t) => {
    t.equal(verdict(policyOf({ devices: ["south", "n*"] }), {}), "ok");
    const other = policyOf({ devices: ["south"] });
    t.equal(verdict(other, {}), "not named");
    t.match(other.show(), [{ applies: false }]);
  });

  t.test("limits arguments", async (t) => {
    const policy = policyOf({
      args: {
        percent: { min: 0, max: 60, required: true },
        mode: { enum: ["slow", "fast"], required: false },
        note: { pattern: "[a-z]+", required: false },
      },
    });
    t.equal(verdict(policy, { args: { percent: 60, mode: "slow", note: "abc" } }), "ok");
    const ask = "the policy of this device asks for";
    t.equal(verdict(policy, { args: { percent: 61 } }), `not-allowed: percent: ${ask} at most 60`);
    t.equal(verdict(policy, { args: { percent: "6" } }), `not-allowed: percent: ${ask} at least 0`);
    t.equal(verdict(policy, { args: {} }), `not-allowed: percent: ${ask} a value`);
    t.equal(verdict(policy, { args: { percent: 1, mode: "x" } }), `not-allowed: mode: ${ask} one of "slow", "fast"`);
    t.equal(
      verdict(policy, { args: { percent: 1, note: "ab1" } }),
      `not-allowed: note: ${ask} a text that fits [a-z]+`,
    );
    const wider = policyOf(
      { args: { percent: { max: 60, required: true } } },
      { args: { percent: { min: 90, required: true } } },
    );
    t.equal(verdict(wider, { args: { percent: 95 } }), "ok", "another table may allow more");
    t.equal(verdict(wider, { args: { percent: 80 } }), `not-allowed: percent: ${ask} at most 60`);
  });

  t.test("limits hours and rate, and a new configuration does not forget what was counted", async (t) => {
    t.equal(verdict(policyOf({ hours: ["12:00-13:00"] }), {}), "ok");
    t.equal(verdict(policyOf({ hours: ["13:00-14:00"] }), {}), "not-now: allowed at 13:00-14:00 (UTC) only");
    const allow = [entry({ rate: { max: 2, perMs: 60_000 } })];
    const policy = new Policy(allow, { device: "north", clock });
    t.equal(verdict(policy, { dryRun: true }), "ok");
    t.equal(verdict(policy, {}), "ok");
    t.equal(verdict(policy, {}), "ok");
    t.equal(verdict(policy, {}), "too-often: at most 2 in 60000 ms are allowed");
    t.match(verdict(policy, { dryRun: true }), /too-often/u);
    const next = new Policy(structuredClone(allow), { device: "north", clock }, policy);
    t.match(verdict(next, {}), /too-often/u);
    await clock.advance(60_000);
    t.equal(verdict(next, {}), "ok");
  });

  t.test("takes plain AtRpc by the tables that say so, and by no other of the same caller", async (t) => {
    const policy = policyOf({ commands: ["vent/*"] }, { commands: ["lamp/set"], unsigned: true });
    t.equal(verdict(policy, { sealed: false }), "not named");
    t.equal(verdict(policy, { sealed: false, target: "lamp", command: "set" }), "ok");
  });
});

t.test("the desk", async (t) => {
  t.test("answers a repeat also at an hour at which the command is not allowed", async (t) => {
    const device = new Device([{ commands: ["lamp/*"], hours: ["00:00-00:01"] }]);
    const request = device.request({ statement: { id: "a" } });
    await device.receive(request);
    const first = device.taken();
    t.match(first, [{ type: "success" }]);
    await device.clock.advance(120_000);
    await device.receive(request, device.request());
    t.match(device.taken(), [{ ...first[0] }, { type: "nack", payload: { reason: "not-now" } }]);
    t.equal(device.drivers.calls.length, 1);
  });

  t.test("does not count against the rate what is refused anyway", async (t) => {
    const device = new Device([{ commands: ["lamp/*"], rate: { max: 1, perMs: 60_000 } }]);
    await device.receive(device.request({ statement: { args: { on: 1 } } }), device.request(), device.request());
    t.match(
      device
        .taken()
        .map(({ payload, type }) => payload.reason ?? type)
        .sort(),
      ["bad-args", "success", "too-often"],
    );
  });

  t.test("checks a dry run by all but the ledger, moves nothing and forgets it", async (t) => {
    const device = new Device([{ commands: ["lamp/*"] }]);
    const statement = { id: "a", dryRun: true };
    await device.receive(device.request({ statement }));
    t.match(device.taken(), [{ type: "success", payload: { id: "a", result: { dryRun: true } } }]);
    await device.receive(device.request({ statement: { ...statement, args: { on: 1 } } }));
    t.match(device.taken(), [{ type: "nack", payload: { reason: "bad-args" } }]);
    await device.receive(device.request({ statement: { ...statement, target: "door" } }));
    t.match(device.taken(), [{ type: "nack", payload: { reason: "not-allowed" } }]);
    t.same(device.drivers.calls, []);
    t.equal(device.store.entries.size, 0);
    await device.receive(device.request({ by: GROWER, statement: { id: "a" } }));
    t.equal(device.drivers.calls.length, 1, "the id is still free");
  });
});
