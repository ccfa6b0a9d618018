/** What comes faster than this does not come from sensors one by one: a queue is being worked off. */
const BURST_MESSAGES = 16;
const BURST_MS = 5;
/** No message for so long before an acknowledgement, and one so soon after it: the broker waited for that. */
const STALL_MS = 50;
const ANSWER_MS = 10;
/** It does so three times before it is believed, and is believed for so long; then one wait shows whether it still does. */
const STALLS = 3;
const BELIEVED_MS = 1000;

/**
 * Tells when messages should become safe at once. A broker sends as many as may be in flight, 20 by mosquitto's default
 * and with some a single one, and then waits for our acknowledgement, which comes only when the outbox has written. The
 * outbox waits a while for more to write with it, and that would be in vain.
 */
export class Haste {
  #burst = 0;
  #burstAtMs = -Infinity;
  #arrivedAtMs = -Infinity;
  #stalledAtMs: number | undefined;
  #stalls = 0;
  #untilMs = -Infinity;

  /** Messages have come. @returns whether they should be written at once. */
  arrived(count: number, nowMs: number): boolean {
    if (this.#stalledAtMs !== undefined) {
      this.#stalls = nowMs - this.#stalledAtMs <= ANSWER_MS ? this.#stalls + 1 : 0;
      this.#stalledAtMs = undefined;
      if (this.#stalls >= STALLS) this.#untilMs = nowMs + BELIEVED_MS;
    }
    this.#arrivedAtMs = nowMs;
    return this.#isBurst(count, nowMs) || nowMs < this.#untilMs;
  }

  /** All that had come is acknowledged. */
  acknowledged(nowMs: number): void {
    if (nowMs - this.#arrivedAtMs >= STALL_MS) this.#stalledAtMs = nowMs;
    else if (nowMs >= this.#untilMs) this.#stalls = 0;
  }

  #isBurst(count: number, nowMs: number): boolean {
    if (nowMs - this.#burstAtMs > BURST_MS) {
      this.#burstAtMs = nowMs;
      this.#burst = 0;
    }
    this.#burst += count;
    return this.#burst >= BURST_MESSAGES;
  }
}
