import type { Statement } from "better-sqlite3";
import type { AtSign } from "../../protocol/at-sign.js";
import type { MetadataOptions } from "../../protocol/metadata-options.js";
import type { Db } from "./database.js";

export type NotificationType = "sent" | "received" | "self";
/** `errored` also while retries go on; `expired` is what readers see past `expiresAtMs`. */
export type NotificationStatus = "queued" | "delivered" | "errored";
export type Priority = "low" | "medium" | "high";

export interface NewNotification {
  readonly id: string;
  readonly type: NotificationType;
  readonly from: AtSign;
  readonly to: AtSign;
  /** As monitors show it: `@bob:phone.wavi@alice`, or `@bob:<text>`; case preserved. */
  readonly key: string;
  readonly value: string | null;
  readonly operation: "update" | "delete";
  readonly messageType: "key" | "text";
  readonly priority: Priority;
  readonly strategy: "all" | "latest";
  readonly latestN: number;
  readonly notifier: string;
  /** Of the key, as its sender gave it. */
  readonly metadata: MetadataOptions;
  /** How long the notification itself is kept, from `atMs`. */
  readonly ttlnMs: number;
  readonly status: NotificationStatus;
}

export interface StoredNotification extends NewNotification {
  /** Rises with every notification stored, and is never used twice. */
  readonly seq: number;
  /** When it was stored, by this server's clock; strictly rising among those that monitors see. */
  readonly atMs: number;
  readonly expiresAtMs: number;
  readonly attempts: number;
}

interface Row extends Omit<StoredNotification, "metadata"> {
  readonly metadata: string;
}

const COLUMNS = `seq, id, type, from_at_sign AS "from", to_at_sign AS "to", key, value, operation,
  message_type AS messageType, priority, strategy, latest_n AS latestN, notifier, metadata, at_ms AS atMs,
  ttln_ms AS ttlnMs, expires_at AS expiresAtMs, status, attempts`;

/**
 * Notifications, sent and received, apart from keys and commit log (spec 3.18). Methods that change something are to be
 * called inside a write of the group commit.
 */
export class NotificationStore {
  readonly #insert: Statement<[Record<string, string | number | null>]>;
  readonly #lastAt: Statement<[], { at: number | null }>;
  readonly #get: Statement<[string, string], Row>;
  readonly #any: Statement<[string], Row>;
  readonly #after: Statement<[number, number, number], Row>;
  readonly #seqAt: Statement<[number], { seq: number | null }>;
  readonly #lastSeq: Statement<[], { seq: number | null }>;
  readonly #received: Statement<[number, number, number], Row>;
  readonly #nextFor: Statement<[string, number, number, number], Row>;
  readonly #destinations: Statement<[number], { to: AtSign }>;
  readonly #setStatus: Statement<[string, number, number]>;
  readonly #setErrored: Statement<[string]>;
  readonly #replace: Statement<[string, string]>;
  readonly #supersede: Statement<[string, string, number]>;
  readonly #remove: Statement<[string]>;
  readonly #expire: Statement<[number]>;
  readonly #db: Db;

  constructor(db: Db) {
    this.#db = db;
    this.#insert = db.prepare(`INSERT INTO notification (id, type, from_at_sign, to_at_sign, key, value, operation,
      message_type, priority, strategy, latest_n, notifier, metadata, at_ms, ttln_ms, expires_at, status, attempts)
      VALUES (@id, @type, @from, @to, @key, @value, @operation, @messageType, @priority, @strategy, @latestN, @notifier,
      @metadata, @atMs, @ttlnMs, @expiresAtMs, @status, 0)`);
    this.#lastAt = db.prepare("SELECT max(at_ms) AS at FROM notification WHERE type <> 'sent'");
    this.#get = db.prepare(`SELECT ${COLUMNS} FROM notification WHERE id = ? AND from_at_sign = ?`);
    // Of two with one id, ours: it is the one that a client asks after.
    this.#any = db.prepare(`SELECT ${COLUMNS} FROM notification WHERE id = ? ORDER BY type = 'sent' DESC LIMIT 1`);
    this.#after = db.prepare(
      `SELECT ${COLUMNS} FROM notification WHERE seq > ? AND type <> 'sent' AND expires_at > ? ORDER BY seq LIMIT ?`,
    );
    this.#seqAt = db.prepare("SELECT min(seq) AS seq FROM notification WHERE type <> 'sent' AND at_ms > ?");
    this.#lastSeq = db.prepare("SELECT max(seq) AS seq FROM notification");
    this.#received = db.prepare(
      `SELECT ${COLUMNS} FROM notification WHERE type = 'received' AND expires_at > ? AND at_ms BETWEEN ? AND ? ORDER BY at_ms`,
    );
    this.#nextFor = db.prepare(`SELECT ${COLUMNS} FROM notification
      WHERE type = 'sent' AND status <> 'delivered' AND to_at_sign = ? AND seq > ? AND attempts < ? AND expires_at > ?
      ORDER BY seq LIMIT 1`);
    this.#destinations = db.prepare(`SELECT DISTINCT to_at_sign AS "to" FROM notification
      WHERE type = 'sent' AND status <> 'delivered' AND expires_at > ?`);
    this.#setStatus = db.prepare("UPDATE notification SET status = ?, attempts = ? WHERE seq = ?");
    this.#setErrored = db.prepare(
      "UPDATE notification SET status = 'errored' WHERE type = 'sent' AND status = 'queued' AND to_at_sign = ?",
    );
    this.#replace = db.prepare("DELETE FROM notification WHERE id = ? AND from_at_sign = ?");
    this.#supersede = db.prepare(`DELETE FROM notification WHERE seq IN (
      SELECT seq FROM notification WHERE type = 'sent' AND status <> 'delivered' AND strategy = 'latest'
      AND to_at_sign = ? AND notifier = ? ORDER BY seq DESC LIMIT -1 OFFSET ?)`);
    this.#remove = db.prepare("DELETE FROM notification WHERE id = ?");
    this.#expire = db.prepare(
      "DELETE FROM notification WHERE seq IN (SELECT seq FROM notification WHERE expires_at <= ? LIMIT 1000)",
    );
  }

  /**
   * Stores one, in place of one of the same sender and id, and drops undelivered ones that it supersedes (strategy `latest`).
   * Its time is `nowMs`, or a millisecond after the last when the clock stood still or went back: clients resume from the
   * last time they saw, and must not miss the second of two that share one.
   */
  add(notification: NewNotification, nowMs: number): StoredNotification {
    const last = notification.type === "sent" ? null : (this.#lastAt.get()?.at ?? null);
    const atMs = last === null ? nowMs : Math.max(nowMs, last + 1);
    const expiresAtMs = Math.min(atMs + notification.ttlnMs, Number.MAX_SAFE_INTEGER);
    this.#replace.run(notification.id, notification.from);
    const { lastInsertRowid } = this.#insert.run({
      ...notification,
      metadata: JSON.stringify(notification.metadata),
      atMs,
      expiresAtMs,
    });
    if (notification.strategy === "latest") {
      this.#supersede.run(notification.to, notification.notifier, notification.latestN);
    }
    return { ...notification, seq: Number(lastInsertRowid), atMs, expiresAtMs, attempts: 0 };
  }

  get(id: string, from: AtSign): StoredNotification | undefined {
    return parse(this.#get.get(id, from));
  }

  /** By id alone, as clients ask. */
  find(id: string): StoredNotification | undefined {
    return parse(this.#any.get(id));
  }

  /** For monitors: what was received after `seq` and is not expired, oldest first. */
  receivedAfter(seq: number, nowMs: number, limit: number): readonly StoredNotification[] {
    return this.#after.all(seq, nowMs, limit).map(parseRow);
  }

  /** The `seq` after which a monitor begins that has seen all up to `epochMs`; `undefined`: only what is yet to come. */
  cursorAt(epochMs: number | undefined): number {
    const first = epochMs === undefined ? undefined : this.#seqAt.get(epochMs)?.seq;
    return typeof first === "number" ? first - 1 : (this.#lastSeq.get()?.seq ?? 0);
  }

  /** For `notify:list`: oldest first. */
  received(fromMs: number, toMs: number, nowMs: number): readonly StoredNotification[] {
    return this.#received.all(nowMs, fromMs, toMs).map(parseRow);
  }

  /** The oldest one that waits for this destination, after `seq`, and was not rejected too often. */
  nextFor(to: AtSign, seq: number, maxAttempts: number, nowMs: number): StoredNotification | undefined {
    return parse(this.#nextFor.get(to, seq, maxAttempts, nowMs));
  }

  /** Where something waits to be sent to. */
  destinations(nowMs: number): readonly AtSign[] {
    return this.#destinations.all(nowMs).map(({ to }) => to);
  }

  setStatus(seq: number, status: NotificationStatus, attempts: number): void {
    this.#setStatus.run(status, attempts, seq);
  }

  /** Everything that waits for this destination. */
  setErrored(to: AtSign): void {
    this.#setErrored.run(to);
  }

  remove(id: string): void {
    this.#remove.run(id);
  }

  /** Drops up to 1,000 expired ones and tells how many they were. */
  expire(nowMs: number): number {
    return this.#expire.run(nowMs).changes;
  }

  get size(): number {
    return this.#db.prepare<[], number>("SELECT count(*) FROM notification").pluck().get() ?? 0;
  }

  /** How many there are by a column, for `stats:11`. */
  countBy(column: "type" | "status" | "operation" | "message_type"): ReadonlyMap<string, number> {
    const rows = this.#db.prepare(`SELECT ${column} AS name, count(*) AS count FROM notification GROUP BY 1`).all();
    return new Map((rows as { name: string; count: number }[]).map(({ name, count }) => [name, count]));
  }
}

const parse = (row: Row | undefined): StoredNotification | undefined => (row ? parseRow(row) : undefined);

/** Only {@link NotificationStore.add} writes the column. */
const parseRow = (row: Row): StoredNotification => ({ ...row, metadata: JSON.parse(row.metadata) as MetadataOptions });
