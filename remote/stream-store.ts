import { take, type ReceiverState, type Taken } from "../messages/stream-receiver.js";
import { lifeText, type StreamLife, type TelemetryMessage } from "../messages/telemetry.js";

/** What became of a message, once it is as safe as the store makes things. */
export interface Stored extends Taken {
  /** The life that this message's life continues, when it ended here. */
  readonly ended?: ReceiverState;
}

/** Remembers what was received of each life. */
export interface StreamStore {
  /** The lives that have not ended, the latest last. */
  lives(): readonly ReceiverState[];
  /** Resolves when message and state are safe, together. */
  take(message: TelemetryMessage, receivedMs: number): Promise<Stored>;
  [Symbol.asyncDispose](): Promise<void>;
}

/** More lives at a time than this are not followed; a device has one a class. */
export const MAX_LIVES = 64;

/** For a watch that keeps nothing: begins where it comes in, and knows repeats and holes while it runs. */
export class MemoryStreamStore implements StreamStore {
  readonly #states = new Map<string, ReceiverState>();

  lives(): readonly ReceiverState[] {
    return [...this.#states.values()];
  }

  async take(message: TelemetryMessage): Promise<Stored> {
    const known = this.#states.get(lifeText(message));
    const taken = take(known, message, "here");
    const ended = known ? undefined : this.#end(message.prev);
    this.#states.set(lifeText(message), taken.state);
    const [oldest] = this.#states.keys();
    if (oldest !== undefined && this.#states.size > MAX_LIVES) this.#states.delete(oldest);
    return ended ? { ...taken, ended } : taken;
  }

  async [Symbol.asyncDispose](): Promise<void> {}

  #end(life: StreamLife | undefined): ReceiverState | undefined {
    if (!life) return undefined;
    const state = this.#states.get(lifeText(life));
    this.#states.delete(lifeText(life));
    return state;
  }
}
