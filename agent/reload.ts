import { once } from "node:events";
import { isatty } from "node:tty";
import { EdgeError } from "../core/errors.js";
import type { Log } from "../core/log.js";
import type { LiveConfig } from "./config/live-config.js";
import type { ServiceManager } from "./health/notify-systemd.js";

/**
 * Calls `reload` at each SIGHUP, until `signal` aborts. When the terminal that the agent was started on has gone, that
 * is what SIGHUP means, and the process ends as it would without us.
 */
export async function onHangup(reload: () => void, signal: AbortSignal): Promise<void> {
  const hadTerminal = isatty(0);
  const listener = (): void => {
    if (hadTerminal && !isatty(0)) process.kill(process.pid, "SIGTERM");
    else reload();
  };
  process.on("SIGHUP", listener);
  await once(signal, "abort");
  process.off("SIGHUP", listener);
}

/** Reads the configuration anew and keeps systemd informed, sd_notify(3). A fault is logged and changes nothing. */
export async function reload(live: LiveConfig, manager: ServiceManager | undefined, log: Log): Promise<void> {
  const tell = async (...assignments: readonly string[]): Promise<void> =>
    manager?.notify(...assignments).catch((error: unknown) => log.warn({ err: error }, "systemd was not told"));
  await tell("RELOADING=1", `MONOTONIC_USEC=${process.hrtime.bigint() / 1000n}`);
  try {
    await live.reload("SIGHUP");
  } catch (error) {
    if (!(error instanceof EdgeError)) throw error; // told by `live`
  } finally {
    await tell("READY=1");
  }
}
