import type { Clock } from "../../core/clock.js";
import type { Log } from "../../core/log.js";
import type { AgentHealth, HealthBoard } from "./health.js";
import type { ServiceManager } from "./notify-systemd.js";

export interface WatchdogOptions {
  readonly manager: ServiceManager;
  readonly health: Pick<HealthBoard, "snapshot">;
  /** Resolves when the store has written all it was given. */
  readonly flush: () => Promise<void>;
  readonly clock: Clock;
  readonly log: Log;
}

const LOOK_EVERY_MS = 1000;
/** A status of its own is not sent more often; each costs a process. */
const STATUS_EVERY_MS = 10_000;
/** A slow SD card takes seconds for a sync. One that takes a minute has hung. */
const STORE_WITHIN_MS = 60_000;

/**
 * Tells the service manager that the agent is ready and how it is, and gives signs of life, until `signal` aborts.
 *
 * A sign of life is given only when the event loop was on time, the store moves, and no part is in a state that a
 * restart would mend. Offline, a full disk, a device that is away or a refused enrolment are no such states: to be
 * killed for them helps nobody.
 */
export async function keepManagerInformed(options: WatchdogOptions, signal: AbortSignal): Promise<void> {
  const { manager, health, clock, log } = options;
  const { watchdogMs = Infinity } = manager;
  const store = new StoreProbe(options);
  let told = statusLine(health.snapshot());
  let toldAtMs = clock.monotonicMs();
  let fedAtMs = toldAtMs;
  let worstLateMs = 0;
  let underWay: Promise<void> | undefined;
  const tell = (...assignments: readonly string[]): void => {
    underWay = manager
      .notify(...assignments)
      .catch((error: unknown) => {
        // At the end systemd may take the child first.
        if (!signal.aborted) log.warn({ err: error }, "systemd was not told");
      })
      .finally(() => (underWay = undefined));
  };

  tell("READY=1", `STATUS=${told}`);
  for (;;) {
    const beforeMs = clock.monotonicMs();
    await clock.sleep(LOOK_EVERY_MS, signal).catch(() => undefined);
    if (signal.aborted) return await underWay;
    const nowMs = clock.monotonicMs();
    worstLateMs = Math.max(worstLateMs, nowMs - beforeMs - LOOK_EVERY_MS);
    store.look();
    if (underWay) continue;

    const now = health.snapshot();
    const status = statusLine(now);
    if (nowMs - fedAtMs >= watchdogMs / 3 - LOOK_EVERY_MS) {
      const fault = worstLateMs > watchdogMs / 4 ? `the event loop was ${Math.round(worstLateMs)} ms late` : undefined;
      const unfit = fault ?? store.fault() ?? mendable(now);
      fedAtMs = toldAtMs = nowMs;
      told = status;
      worstLateMs = 0;
      if (unfit === undefined) tell("WATCHDOG=1", `STATUS=${status}`);
      else {
        log.error({ unfit }, "no sign of life is given to systemd, which restarts the agent if this goes on");
        tell(`STATUS=${unfit}`);
      }
    } else if (status !== told && nowMs - toldAtMs >= STATUS_EVERY_MS) {
      toldAtMs = nowMs;
      told = status;
      tell(`STATUS=${status}`);
    }
  }
}

/** Tells that the agent ends because it was asked to. */
export async function tellStopping(manager: ServiceManager, log: Log): Promise<void> {
  await manager.notify("STOPPING=1", "STATUS=writing what is left").catch((error: unknown) => {
    log.debug({ err: error }, "systemd was not told");
  });
}

/** Sees whether the store still moves. */
class StoreProbe {
  readonly #options: Pick<WatchdogOptions, "flush" | "clock">;
  #sinceMs: number | undefined;

  constructor(options: Pick<WatchdogOptions, "flush" | "clock">) {
    this.#options = options;
  }

  look(): void {
    if (this.#sinceMs !== undefined) return;
    this.#sinceMs = this.#options.clock.monotonicMs();
    // A store that has failed says so in its health.
    const settled = (): void => (this.#sinceMs = undefined);
    this.#options.flush().then(settled, settled);
  }

  fault(): string | undefined {
    const waitedMs = this.#sinceMs === undefined ? 0 : this.#options.clock.monotonicMs() - this.#sinceMs;
    return waitedMs > STORE_WITHIN_MS
      ? `the disk has confirmed nothing for ${Math.round(waitedMs / 1000)} s`
      : undefined;
  }
}

function mendable({ parts }: AgentHealth): string | undefined {
  const part = parts.find(({ restartHelps }) => restartHelps);
  return part && `${part.name} has failed (${part.code ?? "unknown error"})`;
}

/** One line: the parts that are not well, worst first. */
function statusLine({ state, parts }: AgentHealth): string {
  if (state === "ok") return "all is well";
  const unwell = (["failed", "degraded"] as const).flatMap((worse) => parts.filter((part) => part.state === worse));
  return unwell.map(({ name, state, code }) => `${name} ${state}${code === undefined ? "" : ` (${code})`}`).join(", ");
}
