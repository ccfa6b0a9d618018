import { createHash } from "node:crypto";
import type { Notification } from "./notification.js";

/** Where a subscription goes on: kept by the application, which makes it survive a restart. */
export interface ResumePoint {
  /** The latest time of a notification that was handled, by the atServer's clock. */
  readonly epochMillis: number;
  /** What was handled lately, oldest first, so that a replay brings nothing twice. */
  readonly seen: readonly (readonly [digest: string, epochMillis: number])[];
}

/**
 * How far behind the latest one a replay begins, as live notifications can be lost or overtaken (client.md, 7.6). Not
 * further than so many: on a link that breaks often, nothing but repeats would get through.
 */
const OVERLAP_MS = 10_000;
const OVERLAP_COUNT = 20;
const KEPT_MS = 600_000;
const MAX_SEEN = 2_000;
/** Of them, those that a replay after a restart could bring again, and some more: it is written often, to small cards. */
const MAX_SAVED = 64;

/** Remembers what was handled, in a bounded window, and says from when to ask for more. */
export class SeenWindow {
  readonly #seen = new Map<string, number>();
  #latestMs: number | undefined;
  /** Of those that are not remembered any more; a replay must begin after it. */
  #forgottenMs = -1;

  constructor(point?: ResumePoint) {
    if (!point) return;
    this.#latestMs = point.epochMillis;
    for (const [digest, epochMillis] of point.seen.slice(-MAX_SEEN)) this.#seen.set(digest, epochMillis);
    const oldest = point.seen[0];
    // There were older ones, perhaps of the same millisecond.
    if (oldest && point.seen.length >= MAX_SAVED) this.#forgottenMs = oldest[1];
  }

  /** The argument of `monitor`: all later than this comes again. `undefined`: nothing is known yet. */
  get resumeFromMs(): number | undefined {
    if (this.#latestMs === undefined) return undefined;
    const lately = [...this.#seen.values()].at(-OVERLAP_COUNT) ?? 0;
    const wanted = Math.max(this.#latestMs - OVERLAP_MS, Math.min(lately, this.#latestMs) - 1);
    return Math.max(0, wanted, this.#forgottenMs);
  }

  /** Of those up to this time it is not known any more which have come. */
  get forgottenMs(): number {
    return Math.max(0, this.#forgottenMs);
  }

  get point(): ResumePoint | undefined {
    if (this.#latestMs === undefined) return undefined;
    return { epochMillis: this.#latestMs, seen: [...this.#seen].slice(-MAX_SAVED) };
  }

  has(notification: Notification): boolean {
    return this.#seen.has(digestOf(notification));
  }

  add(notification: Notification): void {
    this.#seen.set(digestOf(notification), notification.epochMillis);
    this.reached(notification.epochMillis);
    for (const [digest, epochMillis] of this.#seen) {
      const isOld = epochMillis < notification.epochMillis - KEPT_MS;
      if (!isOld && this.#seen.size <= MAX_SEEN) break;
      this.#seen.delete(digest);
      this.#forgottenMs = Math.max(this.#forgottenMs, epochMillis);
    }
  }

  /** Everything up to this time was handled. */
  reached(epochMillis: number): void {
    this.#latestMs = Math.max(this.#latestMs ?? 0, epochMillis);
  }
}

/**
 * The same notification, live or replayed or sent twice by its server, has the same of all four. The id alone would not
 * do: Python sends different ones under one id (client.md, trap 30).
 */
function digestOf({ id, from, key, value }: Notification): string {
  const text = JSON.stringify([id, from, key, value]);
  return createHash("sha256").update(text).digest("base64").slice(0, 22);
}
