import type { AtClient } from "../../atplatform/client/at-client.js";
import type { DriverSupervisor } from "../../drivers/supervisor.js";
import type { Store } from "../store/store.js";
import type { PartStatus } from "./health.js";

export function storeHealth({ health }: Pick<Store, "health">): PartStatus[] {
  const { state, errorCode, identity, usedBytes, accepted, refused, evicted } = health;
  // A copied card keeps its readings, and a human has to enrol it anew before anything is sent.
  const failed = state === "failed" || identity === "cloned";
  const code = identity === "cloned" ? "CLONED" : errorCode;
  return [
    {
      name: "store",
      state: failed ? "failed" : "ok",
      code,
      counters: { usedBytes, accepted, refused, evicted },
      // A database whose sync has failed must be opened anew.
      restartHelps: state === "failed",
    },
  ];
}

export function driversHealth(drivers: Pick<DriverSupervisor, "health">): PartStatus[] {
  return drivers.health().map(({ id, state, lastErrorCode, counters }) => ({
    name: `driver.${id}`,
    // Disabled by an operator: it is as it should be.
    state: state === "running" || state === "disabled" ? "ok" : "degraded",
    code: state === "disabled" ? "DISABLED" : lastErrorCode,
    counters,
  }));
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
  const { state, connections, received, repeats, invalid, lastErrorCode } = subscription;
  return [
    link,
    {
      name: "monitor",
      state: state === "refused" ? "failed" : state === "live" ? "ok" : "degraded",
      code: lastErrorCode,
      counters: { connections, received, repeats, invalid },
    },
  ];
}
