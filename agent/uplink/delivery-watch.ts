import type { Clock } from "../../core/clock.js";
import { atStep } from "../../core/steps.js";
import type { StreamUplink } from "./stream-uplink.js";
import type { UplinkClient } from "./uplink-client.js";

export interface Delivery {
  readonly stream: StreamUplink;
  readonly seq: number;
}

interface Watched extends Delivery {
  readonly id: string;
  dueMs: number;
  waitMs: number;
}

const FIRST_MS = 500;
const MAX_MS = 30_000;
/** A message may be under way under so many ids; older ones are forgotten. */
const MAX_WATCHED = 1024;

/** Asks our atServer what became of notifications to a reader who gives no receipts. */
export class DeliveryWatch {
  readonly #client: Pick<UplinkClient, "notificationStatus">;
  readonly #clock: Clock;
  #watched: Watched[] = [];

  constructor(client: Pick<UplinkClient, "notificationStatus">, clock: Clock) {
    this.#client = client;
    this.#clock = clock;
  }

  add(stream: StreamUplink, seq: number, id: string): void {
    this.#watched = this.#watched.slice(1 - MAX_WATCHED);
    this.#watched.push({ stream, seq, id, dueMs: this.#clock.monotonicMs() + FIRST_MS, waitMs: FIRST_MS });
  }

  /** Those that the reader's atServer has by now. */
  async delivered(signal: AbortSignal): Promise<Delivery[]> {
    const found: Delivery[] = [];
    const nowMs = this.#clock.monotonicMs();
    this.#watched = this.#watched.filter(({ stream, seq }) => stream.has(seq));
    for (const entry of this.#watched.filter(({ dueMs }) => dueMs <= nowMs)) {
      const status = await atStep("pack.status", () => this.#client.notificationStatus(entry.id, signal));
      if (status === "delivered") found.push(entry);
      // `expired` and `unknown` say nothing: the message is sent again in its time, under another id.
      const isOver = status === "delivered" || status === "expired" || status === "unknown";
      if (isOver) this.#watched = this.#watched.filter(({ id }) => id !== entry.id);
      entry.waitMs = Math.min(entry.waitMs * 2, MAX_MS);
      entry.dueMs = nowMs + entry.waitMs;
    }
    return found;
  }

  nextDueMs(): number | undefined {
    return this.#watched.length === 0 ? undefined : Math.min(...this.#watched.map(({ dueMs }) => dueMs));
  }
}
