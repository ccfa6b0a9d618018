import type { Clock } from "../../core/clock.js";
import { EdgeError } from "../../core/errors.js";
import type { Log } from "../../core/log.js";
import { noop } from "../protocol/verbs/noop.js";
import type { Dialer } from "./dialer.js";
import type { Inbox } from "./inbox.js";
import type { Notification } from "./notification.js";
import type { SeenWindow } from "./seen-window.js";

export interface CatchUpOptions {
  readonly clock: Clock;
  readonly log: Log;
  readonly dialer: Dialer;
  /** The `monitor` command that replays what is later than this. */
  readonly lineFrom: (epochMillis: number) => string;
}

const EVERY_MS = 600_000;
/** A burst that goes on does not make us ask without end. */
const AFTER_BURST_MS = 30_000;
const LOOK_EVERY_MS = 5_000;
/** Two that come so close together may be one that comes twice and one that does not come. */
const BURST_MS = 5;
/** A replay has no end mark; it is over when `noop` was answered and nothing has come for so long. */
const QUIET_MS = 2_000;
const MAX_MS = 30_000;
const NOOP_TIMEOUT_MS = 10_000;

/**
 * Asks for notifications that an atServer has stored but not shown: the reference can lose a live one on a connection
 * with an enrolment when another comes within about a millisecond (client.md, 7.6).
 *
 * By a replay on a connection of its own rather than `notify:list`, which cannot say less than a day: of a busy atSign
 * that is more than one answer may hold.
 */
export class CatchUp {
  readonly #options: CatchUpOptions;
  /** All up to this time, by the atServer's clock, is known to have come. */
  #completeMs: number | undefined;
  #burst = false;
  #lastEpochMillis = -Infinity;
  #askedMs: number;

  constructor(options: CatchUpOptions) {
    this.#options = options;
    this.#askedMs = options.clock.monotonicMs();
  }

  /** A connection was made, which replays a little by itself. */
  connected({ resumeFromMs }: SeenWindow): void {
    if (resumeFromMs !== undefined) this.begin(resumeFromMs);
  }

  /** Nothing before the first time that is said is asked for. */
  begin(epochMillis: number): void {
    this.#completeMs ??= epochMillis;
  }

  /** One came by itself. */
  saw({ epochMillis }: Notification, isRepeat: boolean): void {
    this.begin(epochMillis - 1);
    if (isRepeat || Math.abs(epochMillis - this.#lastEpochMillis) <= BURST_MS) this.#burst = true;
    this.#lastEpochMillis = epochMillis;
  }

  /** What it finds, repeats included, goes to `inbox`. */
  async run(window: SeenWindow, inbox: Inbox, signal: AbortSignal): Promise<void> {
    const { clock, log } = this.#options;
    for (;;) {
      await clock.sleep(LOOK_EVERY_MS, signal);
      const sinceMs = clock.monotonicMs() - this.#askedMs;
      if (sinceMs < (this.#burst ? AFTER_BURST_MS : EVERY_MS) || inbox.full) continue;
      this.#askedMs = clock.monotonicMs();
      this.#burst = false;
      try {
        await this.#ask(window, inbox, signal);
      } catch (error) {
        signal.throwIfAborted();
        if (!(error instanceof EdgeError)) throw error;
        this.#burst = true; // soon again
        log.debug({ code: error.code }, "could not ask for what may not have come");
      }
    }
  }

  async #ask(window: SeenWindow, inbox: Inbox, signal: AbortSignal): Promise<void> {
    const { clock, dialer, lineFrom } = this.#options;
    const completeMs = this.#completeMs;
    const nextMs = window.resumeFromMs;
    if (completeMs === undefined || nextMs === undefined) return;
    let came = 0;
    let held = 0;
    const onNotification = (body: string): Promise<void> | undefined => {
      came += 1;
      const room = inbox.put({ body, source: "catchUp" });
      if (!room) return undefined;
      held += 1;
      return room.finally(() => (held -= 1));
    };
    await using connection = await dialer.dial({ onNotification }, signal);
    // What was forgotten cannot be told from what never came.
    await connection.post(lineFrom(Math.max(completeMs, window.forgottenMs)), signal);
    await connection.send(noop.format({ delayMs: 0 }), { timeoutMs: NOOP_TIMEOUT_MS }, signal);
    const endMs = clock.monotonicMs() + MAX_MS;
    for (let before = -1; before !== came || held > 0;) {
      if (clock.monotonicMs() >= endMs && held > 0) return; // the application is slow: next time
      if (clock.monotonicMs() >= endMs) break;
      before = came;
      await clock.sleep(QUIET_MS, signal);
    }
    if (connection.closedBy) throw connection.closedBy;
    this.#completeMs = Math.max(completeMs, nextMs);
  }
}
