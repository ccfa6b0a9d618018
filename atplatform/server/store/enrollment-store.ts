import type { Statement } from "better-sqlite3";
import type { Db } from "./database.js";

export type EnrollmentState = "pending" | "approved" | "denied" | "revoked";
export type Access = "r" | "rw";

/** An app or device that may log in with a key of its own, to some namespaces. */
export interface Enrollment {
  readonly id: string;
  /** Of the connection that asked. */
  readonly sessionId: string;
  readonly appName: string;
  readonly deviceName: string;
  readonly namespaces: Readonly<Record<string, Access>>;
  readonly apkamPublicKey: string;
  readonly state: EnrollmentState;
  readonly encryptedApkamSymmetricKey: string | undefined;
  /** How long an approval lasts; 0: for ever. */
  readonly apkamKeysExpiryMs: number;
  /** The passcode that the request came with, for a request that is repeated. */
  readonly otp: string | undefined;
  readonly requestedAtMs: number;
  readonly expiresAtMs: number | undefined;
}

interface Row {
  readonly id: string;
  readonly sessionId: string;
  readonly appName: string;
  readonly deviceName: string;
  readonly namespaces: string;
  readonly apkamPublicKey: string;
  readonly state: EnrollmentState;
  readonly encryptedApkamSymmetricKey: string | null;
  readonly apkamKeysExpiryMs: number;
  readonly otp: string | null;
  readonly requestedAtMs: number;
  readonly expiresAtMs: number | null;
}

const COLUMNS = `id, session_id AS sessionId, app_name AS appName, device_name AS deviceName, namespaces,
  apkam_public_key AS apkamPublicKey, state, encrypted_apkam_symmetric_key AS encryptedApkamSymmetricKey,
  apkam_keys_expiry_ms AS apkamKeysExpiryMs, otp, requested_at AS requestedAtMs, expires_at AS expiresAtMs`;

const KNOWN_MAX = 1_000;

/** Enrolments, apart from the keys. Methods that change something are to be called inside a write of the group commit. */
export class EnrollmentStore {
  readonly #get: Statement<[string, number], Row>;
  readonly #list: Statement<[number], Row>;
  readonly #sameApp: Statement<[string, string, number], Row>;
  readonly #put: Statement<[Row]>;
  readonly #remove: Statement<[string]>;
  readonly #expired: Statement<[number], Row>;
  readonly #db: Db;
  /** Of those in use: every command of an enrolled device is checked against its enrolment. */
  readonly #known = new Map<string, Enrollment>();

  constructor(db: Db) {
    this.#db = db;
    const live = "(expires_at IS NULL OR expires_at > ?)";
    this.#get = db.prepare(`SELECT ${COLUMNS} FROM enrollment WHERE id = ? AND ${live}`);
    this.#list = db.prepare(`SELECT ${COLUMNS} FROM enrollment WHERE ${live} ORDER BY requested_at, id`);
    this.#sameApp = db.prepare(`SELECT ${COLUMNS} FROM enrollment
      WHERE app_name = ? AND device_name = ? AND state IN ('pending', 'approved') AND ${live}`);
    this.#put = db.prepare(`INSERT OR REPLACE INTO enrollment (id, session_id, app_name, device_name, namespaces,
      apkam_public_key, state, encrypted_apkam_symmetric_key, apkam_keys_expiry_ms, otp, requested_at, expires_at)
      VALUES (@id, @sessionId, @appName, @deviceName, @namespaces, @apkamPublicKey, @state,
      @encryptedApkamSymmetricKey, @apkamKeysExpiryMs, @otp, @requestedAtMs, @expiresAtMs)`);
    this.#remove = db.prepare("DELETE FROM enrollment WHERE id = ?");
    this.#expired = db.prepare(`SELECT ${COLUMNS} FROM enrollment WHERE expires_at <= ?`);
  }

  /** `undefined` also when it has expired. */
  get(id: string, nowMs: number): Enrollment | undefined {
    const known = this.#known.get(id);
    if (known) return (known.expiresAtMs ?? Infinity) > nowMs ? known : undefined;
    const row = this.#get.get(id, nowMs);
    const enrollment = row && parseRow(row);
    // What an open transaction shows may yet be undone.
    if (enrollment && !this.#db.inTransaction) this.#know(enrollment);
    return enrollment;
  }

  #know(enrollment: Enrollment): void {
    const [oldest] = this.#known.keys();
    if (oldest !== undefined && this.#known.size >= KNOWN_MAX) this.#known.delete(oldest);
    this.#known.set(enrollment.id, enrollment);
  }

  list(nowMs: number): readonly Enrollment[] {
    return this.#list.all(nowMs).map(parseRow);
  }

  /** The pending or approved one of this app on this device. */
  activeOf(appName: string, deviceName: string, nowMs: number): Enrollment | undefined {
    const row = this.#sameApp.get(appName, deviceName, nowMs);
    return row && parseRow(row);
  }

  put(enrollment: Enrollment): void {
    this.#known.delete(enrollment.id);
    this.#put.run({
      ...enrollment,
      namespaces: JSON.stringify(enrollment.namespaces),
      encryptedApkamSymmetricKey: enrollment.encryptedApkamSymmetricKey ?? null,
      otp: enrollment.otp ?? null,
      expiresAtMs: enrollment.expiresAtMs ?? null,
    });
  }

  remove(id: string): void {
    this.#known.delete(id);
    this.#remove.run(id);
  }

  expired(nowMs: number): readonly Enrollment[] {
    return this.#expired.all(nowMs).map(parseRow);
  }
}

/** Only {@link EnrollmentStore.put} writes the column. */
const parseRow = (row: Row): Enrollment => ({
  ...row,
  namespaces: JSON.parse(row.namespaces) as Record<string, Access>,
  encryptedApkamSymmetricKey: row.encryptedApkamSymmetricKey ?? undefined,
  otp: row.otp ?? undefined,
  expiresAtMs: row.expiresAtMs ?? undefined,
});
