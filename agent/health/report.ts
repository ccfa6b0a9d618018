import type { Clock } from "../../core/clock.js";
import type { Log } from "../../core/log.js";
import type { HealthBoard } from "./health.js";

export interface ReportOptions {
  readonly clock: Clock;
  readonly log: Log;
  /** A driver came or went. */
  readonly onDriver: () => void;
}

const LOOK_EVERY_MS = 1000;

/** Looks at the health every second and logs each change of a part's state, until `signal` aborts. */
export async function reportHealth(health: HealthBoard, { clock, log, onDriver }: ReportOptions, signal: AbortSignal) {
  const known = new Map<string, string>();
  while (!signal.aborted) {
    for (const { name, state, code } of health.snapshot().parts) {
      if (known.get(name) === state) continue;
      // How a part begins is no change.
      if (known.has(name)) log.info({ name, state, ...(state === "ok" ? {} : { code }) }, "health changed");
      known.set(name, state);
      if (name.startsWith("driver.")) onDriver();
    }
    await clock.sleep(LOOK_EVERY_MS, signal).catch(() => undefined);
  }
}
