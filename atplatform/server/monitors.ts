import { bareAtSign, type AtSign } from "../protocol/at-sign.js";
import { formatNotification, statsNotification, type Notification } from "../protocol/notification.js";
import type { ClientRegex } from "./client-regex.js";
import type { NotificationStore, StoredNotification } from "./store/notification-store.js";

/** Stats notifications come at most this often. */
const STATS_MIN_INTERVAL_MS = 100;
/** Few, because each may be as long as a command. */
const PAGE = 4;

export interface MonitorOptions {
  readonly strict: boolean;
  readonly selfNotifications: boolean;
  /** Replay what came later; left out: only what is yet to come. */
  readonly epochMs: number | undefined;
  /** Left out: everything matches. */
  readonly regex: ClientRegex | undefined;
  /** Whether the connection's owner may see it. */
  readonly mayRead: (notification: StoredNotification) => boolean;
  /** Resolves when the line has left; rejects when the connection is gone. */
  readonly send: (line: string) => Promise<void>;
}

/** One `monitor` connection: reads the notification table at its own pace, so a slow one holds no memory. */
class Monitor {
  readonly options: MonitorOptions;
  readonly #hub: MonitorHub;
  #cursor: number;
  readonly #replayUntil: number;
  #pumping = false;
  #woken = false;
  #stats: string | undefined;
  ended = false;

  constructor(options: MonitorOptions, hub: MonitorHub, cursor: number, replayUntil: number) {
    this.options = options;
    this.#hub = hub;
    this.#cursor = cursor;
    this.#replayUntil = replayUntil;
  }

  isOver(): boolean {
    return this.ended;
  }

  wake(): void {
    this.#woken = true;
    if (!this.#pumping) void this.#pump();
  }

  /** The newest replaces one that has not left yet. */
  tell(stats: string): void {
    this.#stats = stats;
    this.wake();
  }

  async #pump(): Promise<void> {
    this.#pumping = true;
    try {
      while (this.#woken && !this.ended) {
        this.#woken = false;
        await this.#sendNew();
        const stats = this.#stats;
        this.#stats = undefined;
        if (stats !== undefined) await this.options.send(stats);
      }
    } catch {
      this.ended = true; // the connection is gone, and whoever serves it knows
    } finally {
      this.#pumping = false;
    }
  }

  async #sendNew(): Promise<void> {
    while (!this.isOver()) {
      const page = this.#hub.receivedAfter(this.#cursor, PAGE);
      for (const notification of page) {
        this.#cursor = notification.seq;
        const form = notification.seq <= this.#replayUntil ? "replay" : "live";
        if (this.#shows(notification)) await this.options.send(`${formatNotification(toWire(notification), form)}\n`);
        if (this.isOver()) return;
      }
      if (page.length < PAGE) return;
    }
  }

  #shows(notification: StoredNotification): boolean {
    const { selfNotifications, regex, mayRead } = this.options;
    if (notification.type === "self" && !selfNotifications) return false;
    return matches(notification, regex) && mayRead(notification);
  }
}

/** An expression is searched for in the key, or in the sender without `@`. One that takes too long matches nothing. */
export function matches({ key, from }: { key: string; from: AtSign }, regex: ClientRegex | undefined): boolean {
  if (!regex) return true;
  try {
    return regex.test(key) || regex.test(bareAtSign(from));
  } catch {
    return false;
  }
}

export function toWire(notification: StoredNotification): Notification {
  const { id, from, to, key, value, operation, atMs, messageType, metadata, expiresAtMs } = notification;
  const { encKeyName, encAlgo, ivNonce, skeEncKeyName, skeEncAlgo, sharedKeyEnc, isEncrypted, ttbMs, ttlMs } = metadata;
  const texts = { encKeyName, encAlgo, ivNonce, skeEncKeyName, skeEncAlgo, sharedKeyEnc };
  const said = Object.entries(texts).filter(([, text]) => typeof text === "string");
  return {
    ...{ id, from, to, key, value, operation, messageType },
    epochMillis: atMs,
    isEncrypted: isEncrypted ?? false,
    metadata: {
      ...Object.fromEntries(said),
      ...(ttbMs !== undefined && ttbMs > 0 && { availableAtMs: atMs + ttbMs }),
      expiresAtMs: ttlMs !== undefined && ttlMs > 0 ? atMs + ttlMs + (ttbMs ?? 0) : expiresAtMs,
    },
  };
}

export interface MonitorHubOptions {
  readonly self: AtSign;
  readonly notifications: NotificationStore;
  readonly lastCommitId: () => number;
  readonly now: () => number;
  /** How often every monitor gets a stats notification; negative: never. */
  readonly statsIntervalMs: number;
}

/** All monitors of one atServer (spec 3.21). */
export class MonitorHub {
  readonly #options: MonitorHubOptions;
  readonly #monitors = new Map<object, Monitor>();
  readonly #timer: NodeJS.Timeout | undefined;
  #pendingStats: NodeJS.Timeout | undefined;
  #lastStatsMs = -Infinity;
  #lastOperation: "update" | "delete" = "update";

  constructor(options: MonitorHubOptions) {
    this.#options = options;
    const { statsIntervalMs } = options;
    if (statsIntervalMs >= 0) this.#timer = setInterval(() => this.#tellStats("update"), statsIntervalMs).unref();
  }

  get size(): number {
    return this.#monitors.size;
  }

  /** Begins to send to a connection, in place of what it asked for before. First the replay, then what comes, each once. */
  subscribe(connection: object, options: MonitorOptions): void {
    this.unsubscribe(connection);
    const { notifications } = this.#options;
    const last = notifications.cursorAt(undefined);
    const monitor = new Monitor(options, this, notifications.cursorAt(options.epochMs), last);
    this.#monitors.set(connection, monitor);
    monitor.wake();
  }

  unsubscribe(connection: object): void {
    const monitor = this.#monitors.get(connection);
    if (monitor) monitor.ended = true;
    this.#monitors.delete(connection);
  }

  /** A notification was stored. */
  notify(): void {
    for (const monitor of this.#monitors.values()) monitor.wake();
  }

  /** A record was changed and logged: clients that sync must learn the new commit id soon. */
  changed(operation: "update" | "delete"): void {
    this.#lastOperation = operation;
    if (this.#monitors.size === 0 || this.#pendingStats) return;
    const waitMs = this.#lastStatsMs + STATS_MIN_INTERVAL_MS - performance.now();
    if (waitMs <= 0) return this.#tellStats(operation);
    this.#pendingStats = setTimeout(() => {
      this.#pendingStats = undefined;
      this.#tellStats(this.#lastOperation);
    }, waitMs);
  }

  receivedAfter(seq: number, limit: number): readonly StoredNotification[] {
    return this.#options.notifications.receivedAfter(seq, this.#options.now(), limit);
  }

  close(): void {
    clearInterval(this.#timer);
    clearTimeout(this.#pendingStats);
    for (const monitor of this.#monitors.values()) monitor.ended = true;
    this.#monitors.clear();
  }

  #tellStats(operation: "update" | "delete"): void {
    this.#lastStatsMs = performance.now();
    if (this.#monitors.size === 0) return;
    const { self, lastCommitId, now } = this.#options;
    const stats = statsNotification(self, lastCommitId(), now(), operation);
    const line = `${formatNotification(stats, "live")}\n`;
    for (const monitor of this.#monitors.values()) {
      if (!monitor.options.strict || matches(stats, monitor.options.regex)) monitor.tell(line);
    }
  }
}
