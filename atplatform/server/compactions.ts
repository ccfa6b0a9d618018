import type { Clock } from "../../core/clock.js";
import { dateText } from "../protocol/metadata.js";

/** Under the names that the reference gives them. */
export type CompactedLog = "AtCommitLog" | "AtAccessLog" | "AtNotificationKeystore";

/** What the jobs that keep the logs short did last, for `stats:12` to `14` (spec 3.22, 4.8). */
export class Compactions {
  readonly #clock: Clock;
  readonly #last = new Map<CompactedLog, Readonly<Record<string, string>>>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** `compact` gives how many entries went, `size` how many are left. */
  async run(log: CompactedLog, compact: () => Promise<number> | number, size: () => number): Promise<void> {
    const startMs = this.#clock.monotonicMs();
    const removed = await compact();
    const left = size();
    this.#last.set(log, {
      atCompactionType: log,
      lastCompactionRun: dateText(this.#clock.now()),
      compactionDurationInMills: String(Math.round(this.#clock.monotonicMs() - startMs)),
      preCompactionEntriesCount: String(left + removed),
      postCompactionEntriesCount: String(left),
      deletedKeysCount: String(removed),
    });
  }

  /** JSON; `{}` before the first run. */
  textOf(log: CompactedLog): string {
    return JSON.stringify(this.#last.get(log) ?? {});
  }
}
