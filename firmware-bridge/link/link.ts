import { randomBytes } from "node:crypto";
import type { Clock } from "../../core/clock.js";
import { DeviceGone } from "../../core/errors.js";
import type { Port } from "../../core/port.js";
import { ChildSignal } from "../../core/scope.js";
import type { SessionLimits } from "./host-session.js";
import { LinkRefused } from "./link-errors.js";
import { type LinkCounters, type LinkEvent, LinkMachine } from "./link-machine.js";
import type { LinkRecord } from "./link-record.js";

export interface LinkOptions {
  readonly port: Port;
  readonly baud: number;
  readonly clock: Clock;
  /** Left out: in clear. */
  readonly record?: LinkRecord | undefined;
  /** Must have the record on the disk when it resolves. */
  readonly save: (record: LinkRecord) => Promise<void>;
  /** Called in order, one at a time; while many messages wait for it, the board is held back. */
  readonly onEvent: (event: Exclude<LinkEvent, { type: "store" }>) => Promise<void> | void;
  readonly keepAliveMs: number;
  readonly limits?: Partial<SessionLimits>;
}

const MAX_MESSAGE_BYTES = 4096;
const MAX_QUEUED_BYTES = 65_536;
/** Messages that may wait for `onEvent` before the board is held back. */
const MAX_WAITING_MESSAGES = 32;
const OWN_WINDOW = 8;

/** Moves a {@link LinkMachine} over a port. One loop does all: what comes, what goes, what the clock says. */
export class Link {
  readonly #options: LinkOptions;
  readonly #machine: LinkMachine;
  readonly #waiting: Exclude<LinkEvent, { type: "store" }>[] = [];
  #wake: (() => void) | undefined;
  #wakeEvents: (() => void) | undefined;
  #heldBack = false;

  constructor(options: LinkOptions) {
    this.#options = options;
    const { clock, record, keepAliveMs, limits, baud } = options;
    this.#machine = new LinkMachine(
      {
        record,
        keepAliveMs,
        limits,
        retransmitMs: retransmitMs(baud),
        maxMessageBytes: MAX_MESSAGE_BYTES,
        maxQueuedBytes: MAX_QUEUED_BYTES,
        random: randomBytes,
        wallNowMs: clock.now(),
      },
      clock.monotonicMs(),
    );
  }

  get isOpen(): boolean {
    return this.#machine.isOpen;
  }

  get counters(): LinkCounters {
    return this.#machine.counters;
  }

  /** Bytes of messages that the board has not acknowledged: senders of bulk keep it low. */
  get queuedBytes(): number {
    return this.#machine.queuedBytes;
  }

  /** @throws {LimitExceeded} when too much waits, {@link LinkRefused} while the link is not open. */
  send(message: Uint8Array): void {
    this.#machine.send(message, this.#options.clock.monotonicMs());
    this.#wake?.();
  }

  /**
   * Runs the link until `stop` aborts.
   *
   * @throws {DeviceGone} when the port closes or the board refuses, falls silent or has another key.
   */
  async run(stop: AbortSignal): Promise<void> {
    await using child = new ChildSignal(stop);
    const { signal } = child;
    let failure: unknown;
    const fail = (error: unknown): void => {
      if (!signal.aborted) failure = error;
      child.abort(error);
      this.#wake?.();
      this.#wakeEvents?.();
    };
    signal.addEventListener("abort", () => this.#wakeEvents?.(), { once: true });
    const parts = [this.#read(signal), this.#write(signal), this.#handle(signal)];
    await Promise.all(parts.map((part) => part.catch(fail)));
    if (stop.aborted) return;
    throw failure ?? new DeviceGone(`${this.#options.port.path} closed`);
  }

  async #read(signal: AbortSignal): Promise<void> {
    const { port, clock } = this.#options;
    for await (const chunk of port.read(signal)) {
      this.#machine.receive(chunk, clock.monotonicMs());
      this.#wake?.();
    }
    if (!signal.aborted) throw new DeviceGone(`${port.path} closed`);
  }

  async #write(signal: AbortSignal): Promise<void> {
    const { clock } = this.#options;
    this.#machine.start(clock.monotonicMs());
    while (!signal.aborted) {
      // First what must be stored, then the frames that rely on it.
      for (let events = this.#machine.takeEvents(); events.length > 0; events = this.#machine.takeEvents()) {
        for (const event of events) await this.#take(event);
      }
      const output = this.#machine.takeOutput();
      if (output.length > 0) await this.#send(Buffer.concat(output), signal);
      else {
        await this.#sleepUntil(this.#machine.wakeAtMs, signal);
        if (clock.monotonicMs() >= this.#machine.wakeAtMs) this.#machine.tick(clock.monotonicMs());
      }
    }
  }

  /** A line that takes nothing for as long as a silent board may be silent is gone too. */
  async #send(bytes: Uint8Array, signal: AbortSignal): Promise<void> {
    const { port, clock, keepAliveMs } = this.#options;
    await using timer = new ChildSignal(signal);
    const late = clock.sleep(Math.max(2000, 3.5 * keepAliveMs), timer.signal).then(() => {
      throw new LinkRefused("LINK_SILENT", `${port.path} takes no more bytes`);
    });
    late.catch(() => undefined);
    await Promise.race([port.write(bytes, timer.signal), late]);
  }

  async #take(event: LinkEvent): Promise<void> {
    if (event.type === "store") {
      await this.#options.save(event.record);
      return;
    }
    this.#waiting.push(event);
    if (this.#waiting.length >= MAX_WAITING_MESSAGES) this.#holdBack(true);
    this.#wakeEvents?.();
  }

  #holdBack(hold: boolean): void {
    if (hold === this.#heldBack) return;
    this.#heldBack = hold;
    this.#machine.setCredit(hold ? 0 : OWN_WINDOW, this.#options.clock.monotonicMs());
    this.#wake?.();
  }

  async #handle(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      const event = this.#waiting[0];
      if (!event) {
        await new Promise<void>((resolve) => (this.#wakeEvents = resolve));
        continue;
      }
      await this.#options.onEvent(event);
      this.#waiting.shift();
      if (this.#waiting.length <= MAX_WAITING_MESSAGES / 2) this.#holdBack(false);
    }
  }

  /** Until the time, or a call of `#wake`. */
  async #sleepUntil(atMs: number, signal: AbortSignal): Promise<void> {
    const waitMs = Math.min(Math.max(0, atMs - this.#options.clock.monotonicMs()), 60_000);
    await using timer = new ChildSignal(signal);
    const woken = new Promise<void>((resolve) => (this.#wake = resolve));
    const slept = this.#options.clock.sleep(Math.ceil(waitMs), timer.signal).catch(() => undefined);
    await Promise.race([woken, slept]);
    this.#wake = undefined;
  }
}

/** Two round trips of full frames at the line's rate, and 40 ms for adapters and the board. */
const retransmitMs = (baud: number): number => 40 + Math.ceil((4 * 512 * 10_000) / baud);
