import { setMaxListeners } from "node:events";
import { backoff } from "../../core/backoff.js";
import type { Clock } from "../../core/clock.js";
import type { GroupCommit } from "../../core/group-commit.js";
import type { Log } from "../../core/log.js";
import { ChildSignal } from "../../core/scope.js";
import type { AtSign } from "../protocol/at-sign.js";
import { notify } from "../protocol/verbs/notify.js";
import { PeerRefused } from "./outbound/peer-connection.js";
import { NOTIFY_TIMEOUT_MS, type Peers } from "./outbound/peers.js";
import type { NotificationStore, StoredNotification } from "./store/notification-store.js";

export interface DeliveryOptions {
  readonly self: AtSign;
  readonly notifications: NotificationStore;
  readonly commits: GroupCommit;
  readonly peers: Pick<Peers, "request">;
  readonly clock: Clock;
  readonly log: Log;
  /** A notification that the peer has rejected so often is given up. */
  readonly attemptsMax: number;
  readonly backoffFirstMs: number;
  readonly backoffMaxMs: number;
}

/** Answers that blame the login, not the notification: a new connection may do. */
const BLAMES_CONNECTION: ReadonlySet<string> = new Set(["AT0012", "AT0013", "AT0024", "AT0401"]);

/**
 * Brings queued notifications to the atServers of their receivers (spec 5.7): in order for each destination, one at a
 * time, with a back-off that grows while a destination does not answer, until a notification expires. One that the peer
 * rejects is put aside and tried again later; those behind it go on. Nothing is lost by a restart: the queue is the table.
 */
export class Delivery {
  readonly #options: DeliveryOptions;
  readonly #workers = new Map<AtSign, Worker>();
  readonly #stop: ChildSignal;

  constructor(options: DeliveryOptions, signal: AbortSignal) {
    this.#options = options;
    this.#stop = new ChildSignal(signal);
    setMaxListeners(0, this.#stop.signal); // one a destination
  }

  /** Takes up what a former life of this server left. */
  start(): void {
    const { notifications, clock } = this.#options;
    for (const to of notifications.destinations(clock.now())) this.wake(to);
  }

  /** Something was queued for this atSign. */
  wake(to: AtSign): void {
    if (this.#stop.signal.aborted) return;
    let worker = this.#workers.get(to);
    if (!worker) {
      worker = new Worker(to, this.#options, this.#stop.signal);
      this.#workers.set(to, worker);
      void worker.run().then(() => this.#ended(to));
    }
    worker.wake();
  }

  #ended(to: AtSign): void {
    const missed = this.#workers.get(to)?.isWoken();
    this.#workers.delete(to);
    if (missed) this.wake(to); // it came between the last look and the end
  }

  /** Destinations that something waits for. */
  get busy(): number {
    return this.#workers.size;
  }

  async close(): Promise<void> {
    const running = [...this.#workers.values()].map((worker) => worker.done);
    await this.#stop[Symbol.asyncDispose]();
    await Promise.allSettled(running);
  }
}

/** Lives as long as something waits for its destination. */
class Worker {
  readonly #to: AtSign;
  readonly #options: DeliveryOptions;
  readonly #signal: AbortSignal;
  /** The last one that this worker has gone past, delivered or put aside. */
  #passedSeq = 0;
  #interrupt: (() => void) | undefined;
  #woken = false;
  done: Promise<void> = Promise.resolve();

  constructor(to: AtSign, options: DeliveryOptions, signal: AbortSignal) {
    this.#to = to;
    this.#options = options;
    this.#signal = signal;
  }

  wake(): void {
    this.#woken = true;
    this.#interrupt?.();
  }

  /** Something came since the last look. */
  isWoken(): boolean {
    return this.#woken;
  }

  run(): Promise<void> {
    this.done = this.#run().catch((error: unknown) => {
      this.#woken = false;
      if (!this.#signal.aborted) this.#options.log.error({ to: this.#to, err: error }, "delivery stopped");
    });
    return this.done;
  }

  async #run(): Promise<void> {
    const { backoffFirstMs: firstMs, backoffMaxMs: maxMs, clock } = this.#options;
    let waits = backoff({ firstMs, maxMs });
    const retries = backoff({ firstMs, maxMs });
    let putAside = false;
    for (;;) {
      this.#woken = false;
      const outcome = await this.#pass();
      if (outcome === "no-answer") {
        await clock.sleep(waits.next().value, this.#signal);
        continue;
      }
      waits = backoff({ firstMs, maxMs });
      putAside ||= outcome === "some-rejected";
      if (this.isWoken()) continue;
      if (!putAside) return;
      if (await this.#interrupted(retries.next().value)) continue;
      this.#passedSeq = 0;
      putAside = false;
    }
  }

  /** Waits; true when something new came before the time was over. */
  async #interrupted(ms: number): Promise<boolean> {
    await using rest = new ChildSignal(this.#signal);
    this.#interrupt = () => rest.abort();
    try {
      await this.#options.clock.sleep(ms, rest.signal);
      return false;
    } catch (error) {
      this.#signal.throwIfAborted();
      if (!rest.signal.aborted) throw error;
      return true;
    } finally {
      this.#interrupt = undefined;
    }
  }

  /** Through the rest of the queue, oldest first; ends early when the destination does not answer. */
  async #pass(): Promise<"all-delivered" | "some-rejected" | "no-answer"> {
    const { notifications, clock, attemptsMax } = this.#options;
    let rejected = false;
    for (;;) {
      this.#signal.throwIfAborted();
      const next = notifications.nextFor(this.#to, this.#passedSeq, attemptsMax, clock.now());
      if (!next) return rejected ? "some-rejected" : "all-delivered";
      const outcome = await this.#send(next);
      if (outcome === "no-answer") return outcome;
      rejected ||= outcome === "rejected";
      this.#passedSeq = next.seq;
    }
  }

  async #send(notification: StoredNotification): Promise<"delivered" | "rejected" | "no-answer"> {
    const { peers, log } = this.#options;
    const { id, seq, attempts } = notification;
    try {
      const reply = await peers.request(this.#to, "notify", notifyLine(notification), NOTIFY_TIMEOUT_MS);
      if (reply === "success") {
        await this.#mark(seq, "delivered", attempts);
        return "delivered";
      }
      log.warn({ to: this.#to, id }, "a peer answered a notification with something else than success");
      await this.#mark(seq, "errored", attempts + 1);
      return "rejected";
    } catch (error) {
      if (this.#signal.aborted) throw error;
      const blamed = error instanceof PeerRefused && !BLAMES_CONNECTION.has(error.code);
      log.debug({ to: this.#to, id, blamed, reason: String(error) }, "notification not delivered");
      if (blamed) {
        await this.#mark(seq, "errored", attempts + 1);
        return "rejected";
      }
      await this.#markAllErrored();
      return "no-answer";
    }
  }

  /** What waits behind it could not be delivered either. */
  #markAllErrored(): Promise<void> {
    const { notifications, commits } = this.#options;
    return commits.write(() => notifications.setErrored(this.#to), "crash");
  }

  /** Not worth a sync of its own: a mark that a power cut takes costs one repeat, which the receiver recognises. */
  #mark(seq: number, status: "delivered" | "errored", attempts: number): Promise<void> {
    const { notifications, commits } = this.#options;
    return commits.write(() => notifications.setStatus(seq, status, attempts), "crash");
  }
}

/** The command for the peer. */
export function notifyLine(notification: StoredNotification): string {
  const { id, operation, messageType, notifier, ttlnMs, metadata, key, value, to } = notification;
  const { ttlMs, ttbMs, ttrSeconds, ccd, isEncrypted, sharedKeyEnc, pubKeyCS } = metadata;
  const { encKeyName, encAlgo, ivNonce, skeEncKeyName, skeEncAlgo } = metadata;
  const rest = key.startsWith(`${to}:`) ? key.slice(to.length + 1) : key;
  const at = messageType === "key" ? rest.lastIndexOf("@") : -1;
  const options = {
    ttlMs,
    ttbMs,
    ttrSeconds,
    // A receiver's grammar knows no `ccd:null`.
    ccd: ttrSeconds === undefined ? undefined : (ccd ?? false),
    ...{ isEncrypted, sharedKeyEnc, pubKeyCS, encKeyName, encAlgo, ivNonce, skeEncKeyName, skeEncAlgo },
  };
  const said = Object.fromEntries(
    Object.entries(options).filter(([, option]) => option !== undefined && option !== null),
  );
  return notify.format({
    ...{ id, operation, messageType, notifier, ttlnMs, to },
    options: said,
    key: at === -1 ? rest : rest.slice(0, at),
    ...(at !== -1 && { owner: notification.from }),
    ...(value !== null && { value }),
  });
}
