import { execFile } from "node:child_process";
import { EdgeError } from "../../core/errors.js";

/** What the service manager can be told, sd_notify(3). */
export interface ServiceManager {
  /** How long it waits for a sign of life before it kills us; `undefined` when it does not. */
  readonly watchdogMs: number | undefined;
  /** Sends assignments such as `READY=1`. @throws {NotifyFailed} */
  notify(...assignments: readonly string[]): Promise<void>;
}

/** The service manager could not be told. */
export class NotifyFailed extends EdgeError {
  override readonly code = "NOTIFY_FAILED";
}

const NOTIFY_WITHIN_MS = 10_000;

/**
 * The systemd that started this process, or `undefined`. Node has no Unix datagram sockets, so a `systemd-notify` is
 * started for each message (docs/decisions/0011-sd-notify.md); the unit needs `NotifyAccess=all`.
 *
 * Takes the variables out of `env`: what the agent starts, such as an exec driver, must not speak for it.
 */
export function systemdOf(env: NodeJS.ProcessEnv): ServiceManager | undefined {
  const { NOTIFY_SOCKET: socket, WATCHDOG_USEC: watchdogUs, WATCHDOG_PID: watchdogPid } = env;
  delete env["NOTIFY_SOCKET"];
  delete env["WATCHDOG_USEC"];
  delete env["WATCHDOG_PID"];
  if (socket === undefined || socket === "") return undefined;
  const ours = watchdogPid === undefined || watchdogPid === String(process.pid);
  const watchdogMs = ours && Number(watchdogUs) > 0 ? Number(watchdogUs) / 1000 : undefined;
  const childEnv = { PATH: env["PATH"], NOTIFY_SOCKET: socket };
  return {
    watchdogMs,
    notify: (...assignments) =>
      new Promise((resolve, reject) => {
        execFile("systemd-notify", assignments, { env: childEnv, timeout: NOTIFY_WITHIN_MS }, (cause) => {
          if (cause) reject(new NotifyFailed("systemd cannot be told how the agent is", { cause }));
          else resolve();
        });
      }),
  };
}
