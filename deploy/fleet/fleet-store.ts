import Database from "better-sqlite3";
import { createHash } from "node:crypto";
import { chmodSync, closeSync, openSync } from "node:fs";
import { join } from "node:path";
import type { AtSign } from "../../atplatform/protocol/at-sign.js";
import { EdgeError } from "../../core/errors.js";
import { makeFolder } from "../../core/make-folder.js";
import { Secret } from "../../core/secret.js";

/**
 * `planned`: has no bundle that is good. `bundled`: waits for its board. `enrolled`: in. `retired`: out for good.
 * `compromised`: its atSign needs new keys before any device of it is let in again.
 */
export type DeviceState = "planned" | "bundled" | "enrolled" | "retired" | "compromised";

export interface DeviceRow {
  readonly name: string;
  readonly serial: string;
  readonly atSign: AtSign;
  readonly state: DeviceState;
  readonly enrollmentId: string | null;
}

export interface BundleRow {
  /** 16 hexadecimal digits. */
  readonly id: string;
  readonly device: string;
  readonly atSign: AtSign;
  readonly serial: string;
  readonly secret: Secret;
  readonly expiresAtMs: number;
  /** `made` once its file is whole; `used` by the enrolment that proved it; `void` when another took its place. */
  readonly state: "begun" | "made" | "used" | "void";
  readonly enrollmentId: string | null;
}

export interface AuditRow {
  readonly seq: number;
  readonly atMs: number;
  readonly what: string;
  readonly device: string;
  readonly detail: string;
  readonly hash: string;
}

const SCHEMA = `
  CREATE TABLE device (
    name TEXT NOT NULL PRIMARY KEY, serial TEXT NOT NULL, at_sign TEXT NOT NULL, state TEXT NOT NULL,
    enrollment_id TEXT
  );
  CREATE TABLE bundle (
    id TEXT NOT NULL PRIMARY KEY, device TEXT NOT NULL, at_sign TEXT NOT NULL, serial TEXT NOT NULL,
    secret TEXT NOT NULL, expires_at INTEGER NOT NULL, state TEXT NOT NULL, enrollment_id TEXT
  );
  CREATE INDEX bundle_device ON bundle (device);
  -- What was done, each entry with the hash of all before it.
  CREATE TABLE audit (
    seq INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, what TEXT NOT NULL, device TEXT NOT NULL, detail TEXT NOT NULL,
    hash TEXT NOT NULL
  );
  -- Fingerprint of the encryption key that an atSign had when it was first used, or when its keys were renewed.
  CREATE TABLE at_sign (name TEXT NOT NULL PRIMARY KEY, key_fingerprint TEXT NOT NULL, compromised INTEGER NOT NULL);
`;

const DEVICE = "name, serial, at_sign AS atSign, state, enrollment_id AS enrollmentId";
const BUNDLE = `id, device, at_sign AS atSign, serial, secret, expires_at AS expiresAtMs, state,
  enrollment_id AS enrollmentId`;

/** How long one run waits for a write of another, such as `status` while `approve --watch` goes on. */
const BUSY_MS = 10_000;

/** The fleet file was written by a later version. */
export class FleetStoreUnusable extends EdgeError {
  override readonly code: string = "FLEET_STORE_UNUSABLE";
}

/**
 * What the operator's machine knows of a fleet, in one SQLite file that holds the secrets of bundles. Each method is one
 * durable transaction, so a run that is killed at any point is taken up by the next.
 */
export class FleetStore {
  readonly #db: Database.Database;
  readonly #nowMs: () => number;

  private constructor(db: Database.Database, nowMs: () => number) {
    this.#db = db;
    this.#nowMs = nowMs;
  }

  /** @throws {FleetStoreUnusable}, or a system error. */
  static async open(folder: string, nowMs: () => number = Date.now): Promise<FleetStore> {
    await makeFolder(folder);
    const path = join(folder, "fleet.db");
    closeSync(openSync(path, "a", 0o600));
    chmodSync(path, 0o600);
    const db = new Database(path, { timeout: BUSY_MS });
    try {
      db.pragma("journal_mode = WAL");
      db.pragma("synchronous = FULL");
      const version = Number(db.pragma("user_version", { simple: true }));
      if (version > 1) throw new FleetStoreUnusable(`${path} was written by a later version of atedge`);
      if (version === 0) {
        db.transaction(() => {
          // Another run may have been first.
          if (Number(db.pragma("user_version", { simple: true })) > 0) return;
          db.exec(SCHEMA);
          db.pragma("user_version = 1");
        }).exclusive();
      }
      return new FleetStore(db, nowMs);
    } catch (error) {
      db.close();
      throw error;
    }
  }

  close(): void {
    this.#db.close();
  }

  devices(): readonly DeviceRow[] {
    return this.#db.prepare<[], DeviceRow>(`SELECT ${DEVICE} FROM device ORDER BY name`).all();
  }

  device(name: string): DeviceRow | undefined {
    return this.#db.prepare<[string], DeviceRow>(`SELECT ${DEVICE} FROM device WHERE name = ?`).get(name);
  }

  /** Takes a device in, or changes its serial number, atSign or state. */
  putDevice(device: DeviceRow, what: string, detail = ""): void {
    this.#change(what, device.name, detail, () => {
      this.#db
        .prepare(
          `INSERT OR REPLACE INTO device (name, serial, at_sign, state, enrollment_id)
           VALUES (@name, @serial, @atSign, @state, @enrollmentId)`,
        )
        .run(device);
    });
  }

  bundle(id: string): BundleRow | undefined {
    return this.#bundles("WHERE id = ?", id)[0];
  }

  /** Those of a device that are neither used nor void, the newest last. */
  openBundles(device: string): readonly BundleRow[] {
    return this.#bundles("WHERE device = ? AND state IN ('begun', 'made') ORDER BY rowid", device);
  }

  #bundles(where: string, value: string): readonly BundleRow[] {
    return this.#db
      .prepare<[string], Omit<BundleRow, "secret"> & { secret: string }>(`SELECT ${BUNDLE} FROM bundle ${where}`)
      .all(value)
      .map((row) => ({ ...row, secret: new Secret(row.secret) }));
  }

  /** A new bundle in the place of those that the device had. */
  beginBundle(bundle: Omit<BundleRow, "state" | "enrollmentId">): void {
    this.#change("bundle begun", bundle.device, bundle.id, () => {
      this.#voidBundles(bundle.device);
      this.#db
        .prepare(
          `INSERT INTO bundle (id, device, at_sign, serial, secret, expires_at, state)
           VALUES (@id, @device, @atSign, @serial, @secret, @expiresAtMs, 'begun')`,
        )
        .run({ ...bundle, secret: bundle.secret.reveal() });
    });
  }

  /** Its file is whole: the device waits for its board. */
  bundleMade(id: string, device: string): void {
    this.#change("bundle made", device, id, () => {
      this.#db.prepare("UPDATE bundle SET state = 'made' WHERE id = ?").run(id);
      this.#db.prepare("UPDATE device SET state = 'bundled' WHERE name = ?").run(device);
    });
  }

  /**
   * Before the approval is sent: of two that prove one bundle only one gets in, whatever is killed meanwhile. False when
   * another run was first.
   */
  claimBundle(id: string, device: string, enrollmentId: string): boolean {
    return this.#change("enrolment claimed", device, `${id} ${enrollmentId}`, () => {
      const claim = this.#db.prepare(
        "UPDATE bundle SET state = 'used', enrollment_id = ? WHERE id = ? AND state = 'made'",
      );
      return claim.run(enrollmentId, id).changes === 1;
    });
  }

  /** The approval was answered. */
  deviceEnrolled(device: string, enrollmentId: string): void {
    this.#change("enrolled", device, enrollmentId, () => {
      this.#db
        .prepare("UPDATE device SET state = 'enrolled', enrollment_id = ? WHERE name = ?")
        .run(enrollmentId, device);
    });
  }

  voidBundles(device: string, why: string): void {
    this.#change("bundles void", device, why, () => this.#voidBundles(device));
  }

  #voidBundles(device: string): void {
    this.#db
      .prepare("UPDATE bundle SET state = 'void', secret = '' WHERE device = ? AND state IN ('begun', 'made')")
      .run(device);
  }

  /** Of an atSign's encryption key as it was first seen, and whether its devices must not be let in with it. */
  atSign(name: AtSign): { readonly keyFingerprint: string; readonly compromised: boolean } | undefined {
    const row = this.#db
      .prepare<[string], { keyFingerprint: string; compromised: number }>(
        "SELECT key_fingerprint AS keyFingerprint, compromised FROM at_sign WHERE name = ?",
      )
      .get(name);
    return row && { keyFingerprint: row.keyFingerprint, compromised: row.compromised !== 0 };
  }

  putAtSign(name: AtSign, keyFingerprint: string, compromised: boolean): void {
    this.#change(compromised ? "atSign compromised" : "atSign keys known", name, keyFingerprint, () => {
      this.#db
        .prepare("INSERT OR REPLACE INTO at_sign (name, key_fingerprint, compromised) VALUES (?, ?, ?)")
        .run(name, keyFingerprint, compromised ? 1 : 0);
    });
  }

  /** For what changed nothing here, such as a request that was denied. */
  note(what: string, device: string, detail: string): void {
    this.#change(what, device, detail, () => undefined);
  }

  *audit(): Generator<AuditRow> {
    yield* this.#db
      .prepare<[], AuditRow>("SELECT seq, at_ms AS atMs, what, device, detail, hash FROM audit ORDER BY seq")
      .iterate();
  }

  /** With its entry in the trail, unless `work` says that there was nothing to do. */
  #change(what: string, device: string, detail: string, work: () => unknown): boolean {
    return this.#db
      .transaction(() => {
        if (work() === false) return false;
        const last = this.#db
          .prepare<[], { seq: number; hash: string }>("SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1")
          .get();
        const entry = { seq: (last?.seq ?? 0) + 1, atMs: this.#nowMs(), what, device, detail };
        this.#db
          .prepare("INSERT INTO audit (seq, at_ms, what, device, detail, hash) VALUES (?, ?, ?, ?, ?, ?)")
          .run(entry.seq, entry.atMs, what, device, detail, auditHash(last?.hash ?? "", entry));
        return true;
      })
      .immediate();
  }
}

/** The first entry that does not follow from those before it, or `undefined` when the trail is whole. */
export function firstBroken(trail: Iterable<AuditRow>): AuditRow | undefined {
  let hash = "";
  let seq = 0;
  for (const entry of trail) {
    seq += 1;
    if (entry.seq !== seq || entry.hash !== auditHash(hash, entry)) return entry;
    hash = entry.hash;
  }
  return undefined;
}

const auditHash = (before: string, { seq, atMs, what, device, detail }: Omit<AuditRow, "hash">): string =>
  createHash("sha256")
    .update(JSON.stringify([before, seq, atMs, what, device, detail]))
    .digest("hex");
