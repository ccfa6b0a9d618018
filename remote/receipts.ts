import { backoff } from "../core/backoff.js";
import type { Clock } from "../core/clock.js";
import { EdgeError } from "../core/errors.js";
import type { Log } from "../core/log.js";
import { receiptKey, type DeviceAddress } from "../messages/names.js";
import { formatReceipt } from "../messages/receipt.js";
import { ReceiptTimer, type ReceiverState } from "../messages/stream-receiver.js";
import { lifeText } from "../messages/telemetry.js";
import type { Outbound } from "./outbound.js";
import { MAX_LIVES, type Stored } from "./stream-store.js";

export interface ReceiptsOptions {
  readonly outbound: Outbound;
  readonly address: DeviceAddress;
  readonly consumer: string;
  readonly clock: Clock;
  readonly log: Log;
}

interface Life {
  readonly timer: ReceiptTimer;
  state: ReceiverState;
}

/** A receipt is soon replaced by a later one, but a device may be offline for a day. */
const RECEIPT_TTLN_MS = 24 * 3600 * 1000;

/** Tells the owner what is safe with us, life by life, when it is due. */
export class Receipts {
  readonly #options: ReceiptsOptions;
  readonly #lives = new Map<string, Life>();
  #waits = retryWaits();
  #retryAtMs = -Infinity;

  constructor(options: ReceiptsOptions, known: readonly ReceiverState[]) {
    this.#options = options;
    const nowMs = options.clock.monotonicMs();
    for (const state of known) this.#lives.set(lifeText(state), { timer: new ReceiptTimer(state, nowMs), state });
  }

  /** Call when message and state are durable, not before: what a receipt says must be true for ever. */
  stored(stored: Stored): void {
    const { state, ended } = stored;
    if (ended) this.#lives.delete(lifeText(ended));
    const life = this.#lives.get(lifeText(state)) ?? { timer: new ReceiptTimer(undefined, 0), state };
    life.state = state;
    life.timer.taken(stored, this.#options.clock.monotonicMs());
    this.#lives.set(lifeText(state), life);
    const [oldest] = this.#lives.keys();
    if (oldest !== undefined && this.#lives.size > MAX_LIVES) this.#lives.delete(oldest);
  }

  /** When {@link sendDue} is to be called, monotonic milliseconds; `Infinity`: not before something is stored. */
  get dueMs(): number {
    const due = [...this.#lives.values()].map(({ timer }) => timer.dueMs ?? Infinity);
    return Math.max(this.#retryAtMs, Math.min(Infinity, ...due));
  }

  /** Sends the receipts that are due. When the platform does not take one, all wait, longer each time. */
  async sendDue(signal: AbortSignal): Promise<void> {
    await this.#send(({ timer }) => (timer.dueMs ?? Infinity) <= this.#options.clock.monotonicMs(), signal);
  }

  /** Sends what has not been reported yet, as at the end. */
  async sendAll(signal: AbortSignal): Promise<void> {
    await this.#send(({ timer }) => timer.dueMs !== undefined, signal);
  }

  async #send(wanted: (life: Life) => boolean, signal: AbortSignal): Promise<void> {
    const { outbound, address, consumer, clock, log } = this.#options;
    for (const life of [...this.#lives.values()].filter(wanted)) {
      const { stream, inc, have, missing } = life.state;
      const body = formatReceipt({ consumer, stream, inc, have, missing });
      const dueMs = life.timer.dueMs;
      // Before the wait: what is stored meanwhile makes the next one due.
      life.timer.sent(clock.monotonicMs());
      try {
        await outbound.send({ name: receiptKey(address), body, ttlnMs: RECEIPT_TTLN_MS }, signal);
        this.#waits = retryWaits();
        log.debug({ stream, inc, have, holes: missing.length }, "receipt sent");
      } catch (error) {
        life.timer.dueMs = dueMs;
        if (signal.aborted || !(error instanceof EdgeError)) throw error;
        this.#retryAtMs = clock.monotonicMs() + this.#waits.next().value;
        log.warn({ code: error.code, error: error.message }, "a receipt could not be sent; trying again");
        return;
      }
    }
  }
}

const retryWaits = () => backoff({ firstMs: 1000, maxMs: 60_000 });
