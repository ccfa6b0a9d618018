import type { AtClient } from "../../atplatform/client/at-client.js";
import type { InboundHealth } from "../../atplatform/client/inbound-proof.js";
import type { DriverSupervisor } from "../../drivers/supervisor.js";
import type { DataBudget } from "../budget/data-budget.js";
import type { AgentTime } from "../agent-time.js";
import type { Reduction } from "../reduce/reduction.js";
import type { Store } from "../store/store.js";
import type { PartStatus } from "./health.js";

export function storeHealth({ health }: Pick<Store, "health">): PartStatus[] {
  const { state, errorCode, identity, inMemory, usedBytes, accepted, refused, evicted, expired } = health;
  const { answersDropped, aside } = health;
  // A copied card keeps its readings, and a human has to enrol it anew before anything is sent.
  const failed = state === "failed" || identity === "cloned";
  const code = identity === "cloned" ? "CLONED" : (errorCode ?? (inMemory ? "IN_MEMORY" : undefined));
  return [
    {
      name: "store",
      state: failed ? "failed" : inMemory ? "degraded" : "ok",
      code,
      counters: { usedBytes, accepted, refused, evicted, expired, answersDropped, aside, inMemory: Number(inMemory) },
      // A database whose sync has failed must be opened anew.
      restartHelps: state === "failed",
    },
  ];
}

/** A clock that is off is a matter for a human, but everything goes on. */
export function clockHealth({ health }: Pick<AgentTime, "health">): PartStatus[] {
  const { known, code, wallBehindMs, serverAheadFromMs, serverAheadToMs } = health;
  const server = serverAheadFromMs === undefined ? {} : { serverAheadFromMs };
  const bounded = serverAheadToMs === undefined ? {} : { serverAheadToMs };
  const counters = { known: Number(known), wallBehindMs, ...server, ...bounded };
  return [{ name: "clock", state: code === undefined ? "ok" : "degraded", code, counters }];
}

/** Bytes of this month, and by how much less is sent while it is ahead of its plan. */
export function dataHealth({ use }: Pick<DataBudget, "use">): PartStatus[] {
  const { sentBytes, receivedBytes, budgetBytes, plannedBytes, stretch } = use;
  const isSpent = budgetBytes !== undefined && sentBytes + receivedBytes >= budgetBytes;
  const plan = budgetBytes === undefined ? {} : { budgetBytes, plannedBytes: plannedBytes ?? 0, stretch };
  const state = isSpent ? "degraded" : "ok";
  return [
    {
      name: "data",
      state,
      code: isSpent ? "BUDGET_SPENT" : undefined,
      counters: { sentBytes, receivedBytes, ...plan },
    },
  ];
}

export function reductionHealth({ counters }: Pick<Reduction, "counters">, channels: readonly unknown[]): PartStatus[] {
  return channels.length === 0 ? [] : [{ name: "channels", state: "ok", counters }];
}

export function driversHealth(drivers: Pick<DriverSupervisor, "health">): PartStatus[] {
  return drivers.health().map(({ id, state, lastErrorCode, counters }) => ({
    name: `driver.${id}`,
    // Disabled by an operator: it is as it should be. One that runs with an error has a name that is another driver's.
    state: (state === "running" && lastErrorCode === undefined) || state === "disabled" ? "ok" : "degraded",
    code: state === "disabled" ? "DISABLED" : lastErrorCode,
    counters,
  }));
}

/** Silence since anything came (stats come every 15 s), probes sent, and connections replaced for their silence. */
function liveness({ silentMs, probes, silent }: InboundHealth) {
  return { ...(silentMs !== undefined && { silentMs: Math.round(silentMs) }), probes, silent };
}

export function linkHealth({ health }: Pick<AtClient, "health">): PartStatus[] {
  const { command, subscriptions } = health;
  const subscription = subscriptions[0];
  const link: PartStatus = {
    name: "link",
    state: command.state === "refused" ? "failed" : command.state === "waiting" ? "degraded" : "ok",
    code: command.lastErrorCode,
    counters: { connections: command.connections },
  };
  if (!subscription) return [link];
  const { state, connections, received, repeats, invalid, inbound, lastErrorCode } = subscription;
  return [
    link,
    {
      name: "monitor",
      state: state === "refused" ? "failed" : state === "live" ? "ok" : "degraded",
      code: lastErrorCode ?? inbound.probeErrorCode,
      counters: { connections, received, repeats, invalid, ...liveness(inbound) },
    },
  ];
}
