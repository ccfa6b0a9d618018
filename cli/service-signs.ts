import { systemdOf } from "../agent/health/notify-systemd.js";
import { keepManagerInformed, tellStopping } from "../agent/health/watchdog.js";
import { systemClock } from "../core/clock.js";
import type { Log } from "../core/log.js";

/**
 * Tells systemd, where it has started us, that we are ready, and gives signs of life while the event loop is on time.
 * Returns at once; ends when `signal` aborts.
 */
export function giveServiceSigns(log: Log, signal: AbortSignal): void {
  const manager = systemdOf(process.env);
  if (!manager) return;
  const health = { snapshot: () => ({ state: "ok", parts: [] }) as const };
  const flush = (): Promise<void> => Promise.resolve();
  keepManagerInformed({ manager, health, flush, clock: systemClock, log }, signal).catch((error: unknown) => {
    log.error({ err: error }, "systemd hears no more signs of life");
  });
  signal.addEventListener("abort", () => void tellStopping(manager, log), { once: true });
}
