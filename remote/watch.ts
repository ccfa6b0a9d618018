import { backoff } from "../core/backoff.js";
import { systemClock, type Clock } from "../core/clock.js";
import type { Log } from "../core/log.js";
import { ChildSignal, TaskGroup } from "../core/scope.js";
import type { Gap } from "../messages/gap.js";
import { readerRegex, telemetryKey, type DeviceAddress } from "../messages/names.js";
import type { PeerTrust } from "../messages/peer-trust.js";
import type { SeqRange } from "../messages/receipt.js";
import type { ReceiverState } from "../messages/stream-receiver.js";
import {
  lifeText,
  parseTelemetry,
  type StreamLife,
  type TelemetryMessage,
  type TelemetryPack,
} from "../messages/telemetry.js";
import { MessageRefused, openIncoming, parseOpened, type RefusedReason } from "./inbound.js";
import type { Outbound } from "./outbound.js";
import { PlatformUnavailable, type Incoming, type Platform, type ResumeState } from "./platform.js";
import { Receipts } from "./receipts.js";
import { StreamOrder } from "./stream-order.js";
import { MAX_LIVES, type Stored, type StreamStore } from "./stream-store.js";

export type WatchEvent =
  /** Readings, once each, in the order of their stream unless an earlier message took over 2 s longer. */
  | { readonly type: "readings"; readonly pack: TelemetryPack }
  /** Readings that the device accepted and will not send. */
  | { readonly type: "gap"; readonly life: StreamLife; readonly gap: Gap; readonly lost: number | null }
  /** Messages that were receipted in our name, but are not here. */
  | { readonly type: "forgone"; readonly life: StreamLife; readonly ranges: readonly SeqRange[] }
  /** The device began anew; what was missing of the life before does not come under its old numbers. */
  | { readonly type: "new-life"; readonly life: StreamLife; readonly ended: ReceiverState }
  /** Something in the owner's name that cannot be trusted. */
  | { readonly type: "refused"; readonly reason: RefusedReason; readonly message: string };

export interface WatchOptions {
  readonly platform: Platform;
  readonly trust: PeerTrust;
  readonly owner: string;
  readonly address: DeviceAddress;
  readonly store: StreamStore;
  /** Given, we are a consumer: receipts go out under this name. The store must then be durable. */
  readonly consumer?: { readonly name: string; readonly outbound: Outbound; readonly resume: ResumeState };
  /** Called in order, one at a time; a slow one slows the receiving. */
  readonly onEvent: (event: WatchEvent) => void | Promise<void>;
  readonly clock?: Clock;
  readonly log: Log;
}

/** How long the last receipts may take when it ends. */
const FAREWELL_MS = 2_000;

/**
 * Follows the telemetry of one device as one of its readers, until `signal` aborts.
 *
 * Only what the pinned owner sealed for us is taken; the rest becomes a `refused` event. A watch without a consumer
 * sends nothing at all.
 *
 * @throws {PeerKeyChanged} when the owner's public key is not the pinned one: a human must decide.
 */
export async function watch(options: WatchOptions, signal: AbortSignal): Promise<void> {
  await pinOwner(options, signal);
  await using tasks = new TaskGroup(signal);
  const watching = new Watching(options);
  tasks.start((signal) => watching.receive(signal));
  tasks.start((signal) => watching.keepTime(signal));
  try {
    await tasks.join();
  } finally {
    await watching.close();
  }
}

/** Waits for as long as the platform is away. */
async function pinOwner({ trust, owner, log, clock = systemClock }: WatchOptions, signal: AbortSignal): Promise<void> {
  for (const waitMs of backoff({ firstMs: 1000, maxMs: 60_000 })) {
    try {
      await trust.keyOf(owner, signal);
      return;
    } catch (error) {
      if (!(error instanceof PlatformUnavailable)) throw error;
      log.warn({ error: error.message, waitMs }, "the platform is away; trying again");
    }
    await clock.sleep(waitMs, signal);
  }
}

class Watching {
  readonly #options: WatchOptions;
  readonly #clock: Clock;
  readonly #receipts: Receipts | undefined;
  readonly #orders = new Map<string, { order: StreamOrder; state: ReceiverState }>();
  /** Gaps are told with what they really lost, which is known when they are stored. */
  readonly #lost = new WeakMap<TelemetryMessage, number | null>();
  #wake: (() => void) | undefined;
  #lastEvent: Promise<void> = Promise.resolve();

  constructor(options: WatchOptions) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    const { consumer, store, address, log } = options;
    const clock = this.#clock;
    if (consumer) {
      const { name, outbound } = consumer;
      this.#receipts = new Receipts({ outbound, address, consumer: name, clock, log }, store.lives());
    }
    for (const state of store.lives()) this.#orders.set(lifeText(state), { order: new StreamOrder(state.have), state });
  }

  async receive(signal: AbortSignal): Promise<void> {
    const { platform, owner, address, consumer } = this.#options;
    const begin = consumer ? { resume: consumer.resume } : ({ since: "live" } as const);
    const source = { regex: readerRegex(address), ...begin };
    for await (const incoming of platform.notifications(source, signal)) {
      // The expression finds more than this device's telemetry, and anybody may send us anything.
      if (incoming.from === owner && incoming.key === telemetryKey(address)) await this.#take(incoming, signal);
    }
  }

  /** Receipts and messages that wait for earlier ones, when their time has come. */
  async keepTime(signal: AbortSignal): Promise<void> {
    for (;;) {
      await this.#sleepUntilDue(signal);
      await this.#receipts?.sendDue(signal);
      for (const { order, state } of this.#orders.values()) {
        if ((order.dueMs ?? Infinity) <= this.#clock.monotonicMs()) await this.#tell(order.expire(state));
      }
    }
  }

  /** Reports what was received since the last receipt; a platform that is away does not hold us up. */
  async close(): Promise<void> {
    await this.#receipts?.sendAll(AbortSignal.timeout(FAREWELL_MS)).catch(() => undefined);
  }

  async #take(incoming: Incoming, signal: AbortSignal): Promise<void> {
    const { store } = this.#options;
    try {
      const body = await openIncoming(incoming, { trust: this.#options.trust, clock: this.#clock }, signal);
      const message = parseOpened(() => parseTelemetry(body));
      const stored = await store.take(message, this.#clock.now());
      this.#receipts?.stored(stored);
      await this.#stored(message, stored);
    } catch (error) {
      if (!(error instanceof MessageRefused)) throw error;
      await this.#emit({ type: "refused", reason: error.reason, message: error.message });
    }
    this.#wake?.();
  }

  async #stored(message: TelemetryMessage, { state, news, lost, forgone, ended }: Stored): Promise<void> {
    const life = { stream: message.stream, inc: message.inc };
    if (ended) {
      await this.#emit({ type: "new-life", life, ended });
      const last = this.#orders.get(lifeText(ended));
      if (last) await this.#tell(last.order.expire(last.state));
      this.#orders.delete(lifeText(ended));
    }
    if (news === "duplicate") return;
    if (forgone.length > 0) await this.#emit({ type: "forgone", life, ranges: forgone });
    if (lost !== undefined) this.#lost.set(message, lost);
    const known = this.#orders.get(lifeText(life)) ?? { order: new StreamOrder(state.have), state };
    this.#orders.set(lifeText(life), known);
    const [oldest] = this.#orders.keys();
    if (oldest !== undefined && this.#orders.size > MAX_LIVES) this.#orders.delete(oldest);
    known.state = state;
    await this.#tell(known.order.push(message, state, this.#clock.monotonicMs()));
  }

  async #tell(messages: readonly TelemetryMessage[]): Promise<void> {
    for (const message of messages) {
      if (message.type === "pack") await this.#emit({ type: "readings", pack: message });
      else {
        const life = { stream: message.stream, inc: message.inc };
        const lost = this.#lost.get(message) ?? null;
        await this.#emit({ type: "gap", life, gap: message.gap, lost });
      }
    }
  }

  /** One at a time, whichever task has it. */
  #emit(event: WatchEvent): Promise<void> {
    this.#lastEvent = this.#lastEvent.then(() => this.#options.onEvent(event));
    return this.#lastEvent;
  }

  async #sleepUntilDue(signal: AbortSignal): Promise<void> {
    const due = [...this.#orders.values()].map(({ order }) => order.dueMs ?? Infinity);
    const waitMs = Math.min(this.#receipts?.dueMs ?? Infinity, ...due) - this.#clock.monotonicMs();
    if (waitMs <= 0) return;
    await using nap = new ChildSignal(signal);
    this.#wake = () => nap.abort();
    // At most a minute: timers of Node take no longer waits than 24 days, and `Infinity` is none.
    await this.#clock.sleep(Math.min(waitMs, 60_000), nap.signal).catch(() => undefined);
    this.#wake = undefined;
    signal.throwIfAborted();
  }
}
