import type { Statement } from "better-sqlite3";
import type { Db } from "./database.js";

interface Row {
  readonly expiresAtMs: number | null;
}

/**
 * Passcodes that let a new device file an enrolment request: one-time ones, and the one that the owner chose. Kept apart
 * from the records, so that no other name passes for one (spec 3.25, hole). Case does not count. Methods that change
 * something are to be called inside a write.
 */
export class PasscodeStore {
  readonly #get: Statement<[string, string], Row>;
  readonly #put: Statement<[string, string, number | null]>;
  readonly #remove: Statement<[string, string]>;
  readonly #clear: Statement<[string]>;
  readonly #expire: Statement<[number]>;

  constructor(db: Db) {
    this.#get = db.prepare("SELECT expires_at AS expiresAtMs FROM passcode WHERE kind = ? AND code = ?");
    this.#put = db.prepare("INSERT OR REPLACE INTO passcode (kind, code, expires_at) VALUES (?, ?, ?)");
    this.#remove = db.prepare("DELETE FROM passcode WHERE kind = ? AND code = ?");
    this.#clear = db.prepare("DELETE FROM passcode WHERE kind = ?");
    this.#expire = db.prepare("DELETE FROM passcode WHERE expires_at <= ?");
  }

  addOneTime(code: string, expiresAtMs: number): void {
    this.#put.run("otp", code.toLowerCase(), expiresAtMs);
  }

  /** Replaces the one before. */
  setPermanent(code: string, expiresAtMs: number | undefined): void {
    this.#clear.run("spp");
    this.#put.run("spp", code.toLowerCase(), expiresAtMs ?? null);
  }

  /** Whether the code is good. A one-time code that is there is used up, whether or not it is still good. */
  use(code: string, nowMs: number): boolean {
    const name = code.toLowerCase();
    if (isGood(this.#get.get("spp", name), nowMs)) return true;
    const good = isGood(this.#get.get("otp", name), nowMs);
    this.#remove.run("otp", name);
    return good;
  }

  expire(nowMs: number): void {
    this.#expire.run(nowMs);
  }
}

const isGood = (row: Row | undefined, nowMs: number): boolean =>
  row !== undefined && (row.expiresAtMs === null || row.expiresAtMs > nowMs);
