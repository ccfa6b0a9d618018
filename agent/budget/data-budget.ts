import type { Traffic } from "../../core/traffic.js";

export interface DataBudgetOptions {
  /** `undefined`: there is no limit, and the use is counted all the same. */
  readonly megabytes: number | undefined;
  readonly traffic: Pick<Traffic, "sentBytes" | "receivedBytes">;
  /** Milliseconds since 1970; `undefined` before the time is known. */
  readonly now: () => number | undefined;
  /** Counts that outlive restarts. */
  readonly counters: {
    get(name: string): number;
    add(name: string, by?: number): void;
  };
}

export interface DataUse {
  /** E.g. `2026-11`, UTC. */
  readonly month: string;
  readonly sentBytes: number;
  readonly receivedBytes: number;
  readonly budgetBytes: number | undefined;
  /** What may be used up to now, when the month is to be got through. */
  readonly plannedBytes: number | undefined;
  /** By how much delays and heartbeats are stretched; 1: as configured. */
  readonly stretch: number;
}

/** So much of the budget may be used at any time of the month: to start, to catch up. */
const HEAD_START = 0.05;
const MAX_STRETCH = 16;
/** Bytes before the time is known are put into the month that it is then. */
const UNDATED = "wire.undated";

/** How much of a month's data is used, and by how much less should be sent so that it lasts. */
export class DataBudget {
  readonly #options: DataBudgetOptions;
  #counted = { sent: 0, received: 0 };

  constructor(options: DataBudgetOptions) {
    this.#options = options;
  }

  /** Puts what has passed since the last call on this month's account. */
  get use(): DataUse {
    const nowMs = this.#options.now();
    this.#count(nowMs);
    const { counters, megabytes } = this.#options;
    const month = nowMs === undefined ? "" : monthOf(nowMs);
    const sentBytes = counters.get(`wire.${month}.sent`);
    const receivedBytes = counters.get(`wire.${month}.received`);
    if (megabytes === undefined || nowMs === undefined)
      return { month, sentBytes, receivedBytes, budgetBytes: undefined, plannedBytes: undefined, stretch: 1 };
    const budgetBytes = megabytes * 1_000_000;
    const plannedBytes = Math.round(budgetBytes * Math.min(1, HEAD_START + (1 - HEAD_START) * shareOfMonth(nowMs)));
    const stretch = stretchOf(sentBytes + receivedBytes, plannedBytes, budgetBytes);
    return { month, sentBytes, receivedBytes, budgetBytes, plannedBytes, stretch };
  }

  /** By how much times are stretched now. */
  get stretch(): number {
    return this.#options.megabytes === undefined ? 1 : this.use.stretch;
  }

  #count(nowMs: number | undefined): void {
    const { traffic, counters } = this.#options;
    const sent = traffic.sentBytes;
    const received = traffic.receivedBytes;
    const add = (way: "sent" | "received", bytes: number): void => {
      if (nowMs === undefined) {
        if (bytes > 0) counters.add(`${UNDATED}.${way}`, bytes);
        return;
      }
      const undated = counters.get(`${UNDATED}.${way}`);
      if (undated > 0) counters.add(`${UNDATED}.${way}`, -undated);
      if (bytes + undated > 0) counters.add(`wire.${monthOf(nowMs)}.${way}`, bytes + undated);
    };
    add("sent", sent - this.#counted.sent);
    add("received", received - this.#counted.received);
    this.#counted = { sent, received };
  }
}

/** Grows with what was used too early, and is largest when all is used. */
function stretchOf(used: number, planned: number, budget: number): number {
  if (used <= planned) return 1;
  if (used >= budget) return MAX_STRETCH;
  return Math.min(MAX_STRETCH, 1 + (used / planned - 1) * MAX_STRETCH);
}

const monthOf = (ms: number): string => new Date(ms).toISOString().slice(0, 7);

function shareOfMonth(ms: number): number {
  const date = new Date(ms);
  const from = Date.UTC(date.getUTCFullYear(), date.getUTCMonth());
  const to = Date.UTC(date.getUTCFullYear(), date.getUTCMonth() + 1);
  return (ms - from) / (to - from);
}
