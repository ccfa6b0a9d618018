import t from "tap";
import { storedCommands } from "../../../agent/control/stored-commands.js";
import { openStore, type Store } from "../../../agent/store/store.js";
import { silentLog } from "../../../core/log.js";
import { ADDRESS, Device, GROWER } from "../../fixtures/control/device.js";
import { ManualClock } from "../../fixtures/manual-clock.js";
import type { Answer, CommandStore, LedgerEntry, Outcome } from "../../../agent/control/ledger.js";

const NOW = Date.UTC(2026, 5, 1);

function opened(folder: string, clock = new ManualClock(NOW)): Promise<Store> {
  return openStore({ folder, readers: ["@grower"], clock, log: silentLog, commitIntervalMs: 0 });
}

const entry: LedgerEntry = {
  caller: "@grower",
  id: "a",
  reqId: 17,
  target: "lamp",
  command: "set",
  digest: "d",
  expiresAtMs: NOW + 30_000,
  sealed: true,
  outcome: undefined,
};
const outcome: Outcome = { type: "success", payload: { id: "a", result: { on: true } }, message: null };
const answer: Answer = { to: "@grower", reqId: 17, sealed: true, ...outcome };

t.test("the ledger on the disk", async (t) => {
  t.test("knows accepted commands, their outcomes and its birth after the next start", async (t) => {
    const folder = t.testdir();
    {
      await using store = await opened(folder);
      const commands = storedCommands(store, ADDRESS, () => NOW);
      t.equal(commands.ledgerBornAtMs, NOW);
      await commands.accept(entry);
      await commands.accept({ ...entry, id: "b" });
      await commands.finish(entry, outcome, answer);
    }
    await using store = await opened(folder, new ManualClock(NOW + 1000));
    const commands = storedCommands(store, ADDRESS, () => NOW);
    t.equal(commands.ledgerBornAtMs, NOW);
    t.same(commands.find("@grower", "a"), { ...entry, outcome });
    t.same(commands.unfinished(), [{ ...entry, id: "b" }]);
    t.equal(commands.find("@other", "a"), undefined);
    t.match(store.answers.pending(), [
      {
        to: "@grower",
        name: "success.17.cmd.__rpcs.north.atedge",
        sealed: true,
        body: { reqId: 17, respType: "success" },
      },
    ]);
  });

  t.test("does not let a command act twice, whenever the process ends", async (t) => {
    for (const end of ["before acceptance", "after acceptance", "after the end"] as const) {
      const folder = t.testdir();
      let acted = 0;
      for (const run of [1, 2, 3]) {
        await using store = await opened(folder, new ManualClock(NOW - 1000));
        const commands = storedCommands(store, ADDRESS, () => NOW);
        const device = new Device([{ commands: ["lamp/*"] }], run === 1 ? cutting(commands, end) : commands);
        device.clock.setWall(NOW);
        device.drivers.behave = async () => void (acted += 1);
        const statement = { id: "once", command: "pulse", args: {}, issuedAt: NOW, expiresAt: NOW + 30_000 };
        device.desk.receive(device.request({ by: GROWER, statement }));
        await device.group.join().catch(() => undefined);
      }
      t.equal(acted, end === "before acceptance" ? 1 : end === "after acceptance" ? 0 : 1, end);
    }
  });
});

/** A store whose process ends at a step: that write, and all after it, never come to pass. */
function cutting(
  commands: CommandStore,
  end: "before acceptance" | "after acceptance" | "after the end",
): CommandStore {
  class PowerCut extends Error {}
  const cut = (): never => {
    throw new PowerCut(end);
  };
  return {
    get ledgerBornAtMs() {
      return commands.ledgerBornAtMs;
    },
    find: (caller, id) => commands.find(caller, id),
    unfinished: () => commands.unfinished(),
    accept: async (entry) => {
      if (end === "before acceptance") cut();
      await commands.accept(entry);
      if (end === "after acceptance") cut();
    },
    finish: async () => cut(),
    queueAnswer: async () => {},
  };
}
