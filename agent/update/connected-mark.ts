import { join } from "node:path";
import type { Clock } from "../../core/clock.js";
import type { Log } from "../../core/log.js";
import { CONNECTED_MARK, writeWhole } from "../../core/update-request.js";
import type { HealthBoard } from "../health/health.js";

const LOOK_EVERY_MS = 1000;

export interface MarkOptions {
  readonly health: Pick<HealthBoard, "snapshot">;
  readonly version: string;
  /** systemd's RUNTIME_DIRECTORY, which is emptied at each start; without one nobody looks. */
  readonly runtimeDir: string | undefined;
  readonly clock: Clock;
  readonly log: Log;
}

/** Leaves word that this version has reached its atServer: an update counts as working from then on. */
export async function markConnected(options: MarkOptions, signal: AbortSignal): Promise<void> {
  const { health, version, runtimeDir, clock, log } = options;
  if (runtimeDir === undefined || runtimeDir === "") return;
  const isConnected = (): boolean =>
    health.snapshot().parts.some(({ name, state }) => name === "monitor" && state === "ok");
  while (!isConnected()) {
    await clock.sleep(LOOK_EVERY_MS, signal).catch(() => undefined);
    if (signal.aborted) return;
  }
  const mark = { version, pid: process.pid };
  await writeWhole(join(runtimeDir, CONNECTED_MARK), `${JSON.stringify(mark)}\n`).catch((error: unknown) => {
    log.warn({ err: error }, "an update cannot see that this version has reached its atServer");
  });
}
