import type { ReceiverState } from "../messages/stream-receiver.js";
import type { TelemetryMessage } from "../messages/telemetry.js";

/** How long messages wait for an earlier one that is missing. An atServer swaps those of one millisecond (atserver.md). */
const HOLD_MS = 2_000;

/**
 * Puts the messages of one life in order: one that follows a hole waits up to 2 s for the hole to close. Holds at most
 * a window of 64. Times are monotonic milliseconds.
 */
export class StreamOrder {
  #held: TelemetryMessage[] = [];
  /** Holes up to here are waited for no longer. */
  #ignoreUpTo: number;
  /** When what is held goes out as it is. */
  dueMs: number | undefined;

  /** @param joinedAt the highest number there was when we began: older holes are waited for by nobody. */
  constructor(joinedAt: number) {
    this.#ignoreUpTo = joinedAt;
  }

  /** Takes a new message and the state after it; gives what may go out now, in order. */
  push(message: TelemetryMessage, state: ReceiverState, nowMs: number): TelemetryMessage[] {
    this.#held.push(message);
    this.#held.sort((a, b) => a.seq - b.seq);
    const hole = state.missing.find(([from]) => from > this.#ignoreUpTo)?.[0];
    if (hole === undefined) {
      this.dueMs = undefined;
      return this.#release(Infinity);
    }
    this.dueMs ??= nowMs + HOLD_MS;
    return this.#release(hole);
  }

  /** Call at {@link dueMs}: gives all that is held, and waits for these holes no longer. */
  expire(state: ReceiverState): TelemetryMessage[] {
    this.#ignoreUpTo = state.have;
    this.dueMs = undefined;
    return this.#release(Infinity);
  }

  #release(before: number): TelemetryMessage[] {
    const released = this.#held.filter(({ seq }) => seq < before);
    this.#held = this.#held.filter(({ seq }) => seq >= before);
    return released;
  }
}
