import { randomUUID } from "node:crypto";
import type { ReceivedNotification } from "../../atplatform/client/at-client.js";
import type { AtSign } from "../../atplatform/protocol/at-sign.js";
import { backoff } from "../../core/backoff.js";
import type { Reading, ReadingClass } from "../../core/driver.js";
import { codeOf, EdgeError } from "../../core/errors.js";
import { atStep } from "../../core/steps.js";
import { atKeyOf, receiptKey, telemetryKey } from "../../messages/names.js";
import { openSealed, seal } from "../../messages/seal.js";
import { parseReceipt } from "../../messages/receipt.js";
import { DeliveryWatch } from "./delivery-watch.js";
import type { PeerKeys } from "./peer-keys.js";
import { type PackOptions, StreamUplink } from "./stream-uplink.js";
import { blamesMessage, type UplinkContext } from "./uplink-client.js";
import { Wake } from "./wake.js";

export interface ReaderOptions {
  readonly atSign: AtSign;
  /** Whose receipts count. */
  readonly consumer: string;
  /** False: a message counts as delivered when the reader's atServer has it. */
  readonly receipts: boolean;
  /** Its messages may be deflated. */
  readonly deflate?: boolean;
}

/** A receipt of a program whose receipts do not count here. */
export class OtherConsumer extends EdgeError {
  override readonly code = "OTHER_CONSUMER";
}

export interface ReaderHealth {
  readonly reader: string;
  /** `stopped`: a human must decide, e.g. about a changed key. */
  readonly state: "ok" | "waiting" | "stopped";
  readonly code: string | undefined;
  readonly unreceipted: number;
  readonly counters: Readonly<Record<string, number>>;
}

/** An atServer gives up after some minutes whatever this says; it is our resending that lasts. */
const TTLN_MS: Readonly<Record<ReadingClass, number>> = {
  alarm: 7 * 86_400_000,
  event: 86_400_000,
  measurement: 86_400_000,
};
const RETRY = { firstMs: 1_000, maxMs: 60_000 };
const STOPPED_RETRY_MS = 600_000;

/** Brings one reader its streams, alarms first. Runs by itself: what holds up one reader holds up no other. */
export class ReaderUplink {
  readonly #context: UplinkContext;
  readonly #options: ReaderOptions;
  readonly #keys: PeerKeys;
  readonly #streams: readonly StreamUplink[];
  readonly #watch: DeliveryWatch | undefined;
  readonly #wake = new Wake();
  readonly #counters = { sent: 0, resent: 0, receipts: 0, confirmed: 0, aside: 0, lives: 0 };
  #retry = backoff(RETRY);
  #state: ReaderHealth["state"] = "ok";
  #code: string | undefined;

  constructor(context: UplinkContext, options: ReaderOptions, pack: PackOptions) {
    this.#context = { ...context, log: context.log.child({ reader: options.atSign }) };
    this.#options = options;
    this.#keys = context.keysOf(options.atSign);
    // The store lists them with the highest class first.
    this.#streams = context.store.streams
      .list(options.atSign)
      .map((info) => new StreamUplink(context.store, info, { ...pack, deflate: options.deflate ?? false }));
    this.#watch = options.receipts ? undefined : new DeliveryWatch(context.client, context.clock);
  }

  get atSign(): AtSign {
    return this.#options.atSign;
  }

  get health(): ReaderHealth {
    return {
      reader: this.atSign,
      state: this.#state,
      code: this.#code,
      unreceipted: this.#streams.reduce((sum, { unreceipted }) => sum + unreceipted, 0),
      counters: this.#counters,
    };
  }

  arrived(readings: readonly Reading[]): void {
    const nowMs = this.#context.clock.monotonicMs();
    for (const stream of this.#streams) {
      if (readings.some((reading) => (reading.class ?? "measurement") === stream.info.class)) stream.arrived(nowMs);
    }
    this.#wake.wake();
  }

  /** Returns when `signal` aborts. @throws what the store throws: without it nothing goes on. */
  async run(signal: AbortSignal): Promise<void> {
    const { clock } = this.#context;
    for (;;) {
      try {
        if (await this.#step(signal)) continue;
        await this.#wake.wait(this.#idleMs(), clock, signal);
      } catch (error) {
        if (signal.aborted) return;
        if (this.#context.store.isBrokenBy(error)) throw error;
        await clock.sleep(this.#trouble(error), signal).catch(() => {}); // aborted: the loop ends
      }
    }
  }

  /** Takes a receipt. @throws {EdgeError} for one that is not acted on, each reason with a code of its own. */
  async receive(notification: ReceivedNotification, signal: AbortSignal): Promise<void> {
    const { us, address, trust, clock, log } = this.#context;
    const { text, aesKey } = await notification.decrypt(signal);
    await trust.vouchedKeyOf(this.atSign, aesKey, signal);
    const receipt = parseReceipt(openSealed(text, atKeyOf(us, receiptKey(address), this.atSign), aesKey));
    if (receipt.consumer !== this.#options.consumer || !this.#options.receipts)
      throw new OtherConsumer(`the receipts of ${receipt.consumer} do not count`);
    this.#counters.receipts += 1;
    const stream = this.#streams.find(({ info }) => info.life.stream === receipt.stream);
    const outcome = await stream?.receipt(receipt, clock.monotonicMs());
    if (outcome === "new-life") {
      this.#counters.lives += 1;
      log.error(
        { class: stream?.info.class, inc: stream?.info.life.inc },
        "the reader has more than we ever sent: a new life begins",
      );
    }
    if (typeof outcome === "number") this.#counters.confirmed += outcome;
    this.#wake.wake();
  }

  /** Sends one message, if one is due. @returns whether there may be more. */
  async #step(signal: AbortSignal): Promise<boolean> {
    // Past all caches, as the peer may have its old key back.
    if (this.#state === "stopped") await this.#context.trust.refresh(this.atSign, signal);
    await this.#checkDeliveries(signal);
    const nowMs = this.#context.clock.monotonicMs();
    for (const stream of this.#streams) {
      const seq = await stream.next(nowMs);
      if (seq === undefined) continue;
      await this.#send(stream, seq, signal);
      this.#recovered();
      return true;
    }
    return false;
  }

  async #send(stream: StreamUplink, seq: number, signal: AbortSignal): Promise<void> {
    const { us, address, client, clock } = this.#context;
    const to = this.atSign;
    const key = telemetryKey(address);
    const aesKey = await this.#keys.forSending(signal);
    const body = stream.body(seq);
    if (!body) return;
    try {
      const value = seal(body, atKeyOf(to, key, us), aesKey);
      const notification = {
        id: randomUUID(),
        to,
        key,
        value,
        ttlnMs: TTLN_MS[stream.info.class],
        encryptWith: aesKey,
      };
      const id = await atStep("pack.send", () => client.notify(notification, signal));
      this.#watch?.add(stream, seq, id);
    } catch (error) {
      if (!blamesMessage(codeOf(error))) throw error;
      await this.#blame(stream, seq, error);
      return;
    }
    this.#counters.sent += 1;
    if (stream.sent(seq, clock.monotonicMs())) this.#counters.resent += 1;
  }

  async #blame(stream: StreamUplink, seq: number, error: unknown): Promise<void> {
    const { clock, log, store } = this.#context;
    const why = error instanceof Error ? error.message : String(error);
    if (!(await stream.blamed(seq, why, Math.round(clock.now())))) throw error; // once more, after a pause
    this.#counters.aside += 1;
    store.counters.add("uplink.aside");
    log.error(
      { err: error, class: stream.info.class, seq },
      "a message can never be sent: set aside, its gap is declared",
    );
  }

  async #checkDeliveries(signal: AbortSignal): Promise<void> {
    for (const { stream, seq } of (await this.#watch?.delivered(signal)) ?? []) {
      this.#counters.confirmed += 1;
      await stream.delivered(seq);
    }
  }

  #idleMs(): number | undefined {
    const nowMs = this.#context.clock.monotonicMs();
    const dueMs = [...this.#streams.map((stream) => stream.nextDueMs()), this.#watch?.nextDueMs()];
    const known = dueMs.filter((time) => time !== undefined);
    return known.length === 0 ? undefined : Math.max(0, Math.min(...known) - nowMs);
  }

  #recovered(): void {
    if (this.#state !== "ok") this.#context.log.info({}, "readings go out again");
    this.#state = "ok";
    this.#retry = backoff(RETRY);
  }

  /** @returns how long to wait. Nothing is lost: it is in the outbox. */
  #trouble(error: unknown): number {
    const code = codeOf(error);
    const isStopped = code === "PEER_KEY_CHANGED" || code === "OWN_KEY_CHANGED";
    const state = isStopped ? "stopped" : "waiting";
    if (state !== this.#state || code !== this.#code) {
      const { log } = this.#context;
      if (isStopped) log.error({ err: error }, "nothing more is sent to this reader until a human decides");
      else log.warn({ err: error }, "readings wait in the outbox");
    }
    this.#state = state;
    this.#code = code;
    return isStopped ? STOPPED_RETRY_MS : this.#retry.next().value;
  }
}
