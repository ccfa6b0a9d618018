import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { faultLine, parseConfig, ConfigInvalid } from "../../../agent/config/parse.js";
import { RemoteSettings, type SettingsTime } from "../../../agent/config/remote-settings.js";
import { checkSettable, withSettings } from "../../../agent/config/settings.js";
import { silentLog } from "../../../core/log.js";
import { ManualClock } from "../../fixtures/manual-clock.js";

const BASE = `atsign = "@greenhouse"
device = "north"
[outbox]
maxBytes = 2000000
[[driver]]
id = "sim"
type = "simulated"
name = "level"
[[driver]]
id = "vent"
type = "exec"
program = "true"
`;
const raw = {
  ...{ atsign: "@greenhouse", device: "north", outbox: { maxBytes: 2_000_000 } },
  driver: [
    { id: "sim", type: "simulated", name: "level" },
    { id: "vent", type: "exec", program: "true" },
  ],
};

t.test("a remote setting", async (t) => {
  t.test("stands above the file, which stays as it is", async (t) => {
    const { config } = parseConfig(BASE, "/", {
      maxBatch: 7,
      "outbox.minFreeBytes": 0,
      "driver.sim.intervalMs": 70,
      logLevel: "warn",
    });
    t.match(config, { maxBatch: 7, logLevel: "warn", outbox: { maxBytes: 2_000_000, minFreeBytes: 0 } });
    t.match(config.driver[0], { id: "sim", intervalMs: 70 });
    const before = structuredClone(raw);
    t.match(withSettings(raw, { "driver.sim.intervalMs": 70 }), { driver: [{ intervalMs: 70 }, {}] });
    t.same(raw, before);
  });

  t.test("is checked like the file", async (t) => {
    const faults = (settings: Record<string, number | string | boolean>): string[] => {
      try {
        parseConfig(BASE, "/", settings);
        return [];
      } catch (error) {
        if (error instanceof ConfigInvalid) return error.faults.map(faultLine);
        throw error;
      }
    };
    t.same(faults({ maxBatch: 0 }), ["maxBatch: expected 1 to 1000, got 0"]);
    t.same(faults({ "driver.gone.intervalMs": 100 }), ["set remotely: driver.gone.intervalMs: there is no gone"]);
    t.same(faults({ "maxBatch.inner": 1 }), ["maxBatch: expected 1 to 1000, got a table"]);
  });

  t.test(
    "is a number, a switch or a choice, and never where something lies, what is run or who may do what",
    async (t) => {
      for (const path of [
        "maxBatch",
        "maxDelayMs",
        "logLevel",
        "outbox.maxBytes",
        "durability.alarm",
        "driver.sim.intervalMs",
      ])
        t.doesNotThrow(() => checkSettable(raw, path), path);
      const closed = [
        ...[
          "allow",
          "allow.@grower.commands",
          "reader.@grower.receipts",
          "keys",
          "update.url",
          "signing.key",
          "sharedKeys",
        ],
        ...[
          "allowManagerKeys",
          "stateDir",
          "ca",
          "directory",
          "atsign",
          "device",
          "ns",
          "metricsPort",
          "audit.maxBytes",
        ],
        ...["driver.vent.program", "driver.vent.args", "driver.sim.path", "driver.sim.passwordFile"],
      ];
      for (const path of closed) t.throws(() => checkSettable(raw, path), { message: /cannot be set remotely/ }, path);
      for (const path of ["driver.sim.name", "driver.sim.unit", "driver.sim", "outbox", "driver.sim.id"])
        t.throws(() => checkSettable(raw, path), { code: "SYNTAX_INVALID" }, path);
      for (const path of ["", "foo", "driver.gone.intervalMs", "maxBatch.x", "__proto__.x", "constructor"])
        t.throws(() => checkSettable(raw, path), { code: "SYNTAX_INVALID" }, path);
    },
  );
});

class Machine implements SettingsTime {
  boot = "a";
  timeKnown = true;
  readonly clock: ManualClock;

  constructor(clock = new ManualClock()) {
    this.clock = clock;
  }

  monotonicMs(): number {
    return this.clock.monotonicMs();
  }

  now(): number | undefined {
    return this.timeKnown ? this.clock.now() : undefined;
  }

  /** Switched off for so long, and on again: the monotonic clock begins anew. */
  rebooted(offMs: number, timeKnown = true): Machine {
    const next = new Machine(new ManualClock(this.clock.now() + offMs));
    next.boot = `${this.boot}'`;
    next.timeKnown = timeKnown;
    return next;
  }
}

const opened = (folder: string, machine: Machine): Promise<RemoteSettings> =>
  RemoteSettings.open(folder, machine, silentLog);

t.test("settings on trial", async (t) => {
  const begun = async (t: { testdir(): string }): Promise<{ folder: string; machine: Machine }> => {
    const folder = t.testdir();
    const machine = new Machine();
    const settings = await opened(folder, machine);
    await settings.begin({ maxBatch: 5 }, "@grower", 60_000);
    await settings.keep();
    await settings.begin({ maxBatch: 9 }, "@grower", 300_000);
    return { folder, machine };
  };

  t.test("go back by themselves when nobody keeps them, and stay when somebody does", async (t) => {
    const { folder, machine } = await begun(t);
    const settings = await opened(folder, machine);
    const end = new AbortController();
    let back: () => void = () => undefined;
    const wentBack = new Promise<void>((resolve) => (back = resolve));
    const running = settings.run(async () => back(), machine.clock, end.signal).catch(() => undefined);
    await machine.clock.advance(299_000);
    t.same(settings.set, { maxBatch: 9 });
    await machine.clock.advance(2_000);
    await wentBack;
    t.same(settings.set, { maxBatch: 5 });
    await settings.begin({ maxBatch: 12 }, "@grower", 300_000);
    await settings.keep();
    await machine.clock.advance(3_600_000);
    t.same(settings.set, { maxBatch: 12 });
    end.abort();
    await running;
  });

  t.test(
    "are on the disk with their countdown before they take effect: kill -9 gives them no second longer",
    async (t) => {
      const { folder, machine } = await begun(t);
      await machine.clock.advance(200_000);
      const again = await opened(folder, machine);
      t.equal(again.leftMs, 100_000);
      t.match(again.trial, { by: "@grower", before: { maxBatch: 5 }, starts: 1 });
      await machine.clock.advance(100_000);
      t.same((await opened(folder, machine)).set, { maxBatch: 5 }, "the agent was not even running at their end");
      t.equal((await opened(folder, machine)).trial, undefined);
    },
  );

  t.test("survive a reboot with what is left by the calendar", async (t) => {
    const { folder, machine } = await begun(t);
    await machine.clock.advance(100_000);
    t.equal((await opened(folder, machine.rebooted(50_000))).leftMs, 150_000);
    t.same((await opened(folder, machine.rebooted(200_000))).set, { maxBatch: 5 });
  });

  t.test(
    "get their time once more after a reboot without a clock, and go back when the agent keeps dying",
    async (t) => {
      const { folder, machine } = await begun(t);
      let next = machine;
      for (let start = 1; start <= 3; start++) {
        next = next.rebooted(1000, false);
        t.equal((await opened(folder, next)).leftMs, 300_000);
      }
      t.same((await opened(folder, next.rebooted(1000, false))).set, { maxBatch: 5 });
    },
  );

  t.test("last no longer because the calendar was set back during a reboot", async (t) => {
    const { folder, machine } = await begun(t);
    t.equal((await opened(folder, machine.rebooted(-86_400_000))).leftMs, 300_000);
  });
});

t.test("disabled drivers are remembered, and a damaged file is no setting at all", async (t) => {
  const folder = t.testdir();
  const machine = new Machine();
  const settings = await opened(folder, machine);
  await settings.setDisabled("vent", true);
  await settings.setDisabled("lamp", true);
  await settings.setDisabled("vent", false);
  t.same([...(await opened(folder, machine)).disabled], ["lamp"]);
  const file = join(folder, "remote-settings.json");
  for (const text of [
    "",
    "{",
    "[]",
    '{"set":{"a":[]},"disabled":[],"trial":null}',
    readFileSync(file, "utf8").slice(0, -2),
  ]) {
    writeFileSync(file, text);
    t.same((await opened(folder, machine)).set, {});
  }
});
