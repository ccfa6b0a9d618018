import type { Database } from "better-sqlite3";
import { EdgeError } from "../../core/errors.js";
import * as schema from "../../core/schema.js";

/** The file was written by a newer version; nothing was changed. */
export class StoreTooNew extends EdgeError {
  override readonly code = "STORE_TOO_NEW";
}

/** One a version, never changed once released; from the second on each says how to go back. */
export const MIGRATIONS: readonly schema.Migration[] = [
  {
    up: `
  CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;

  -- Readings in the order of their acceptance. timeMs is NULL until the clock is known: then monotonicMs counts, within
  -- that boot. body is JSON: [name, unit or null, value].
  CREATE TABLE reading (
    class INTEGER NOT NULL,
    id INTEGER NOT NULL,
    timeMs INTEGER,
    boot INTEGER,
    monotonicMs INTEGER,
    body TEXT NOT NULL,
    PRIMARY KEY (class, id)
  ) WITHOUT ROWID;
  CREATE INDEX undated ON reading (boot) WHERE timeMs IS NULL;

  -- Boots that have readings without a date. The bracket is known once the boot has ended.
  CREATE TABLE boot (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, fromMs INTEGER NOT NULL, toMs INTEGER);

  -- One a reader and class. packedTo: the last reading that is in a pack or given up.
  -- The gap columns: what was given up and is not yet declared in a message of its own (gapReason NULL: nothing).
  -- gapToSeq NULL: up to the number that the message gets.
  CREATE TABLE stream (
    id INTEGER PRIMARY KEY,
    reader TEXT NOT NULL,
    class INTEGER NOT NULL,
    stream TEXT NOT NULL,
    inc INTEGER NOT NULL,
    prevStream TEXT,
    prevInc INTEGER,
    lastSeq INTEGER NOT NULL DEFAULT 0,
    packedTo INTEGER NOT NULL,
    gapFromSeq INTEGER,
    gapToSeq INTEGER,
    gapReadings INTEGER,
    gapTimeFrom INTEGER,
    gapTimeTo INTEGER,
    gapReason TEXT,
    UNIQUE (reader, class)
  );

  -- Formed messages without a receipt. A pack has firstRow and lastRow, a gap has fromSeq, toSeq and reason.
  CREATE TABLE message (
    stream INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    firstRow INTEGER,
    lastRow INTEGER,
    readings INTEGER,
    fromSeq INTEGER,
    toSeq INTEGER,
    timeFrom INTEGER,
    timeTo INTEGER,
    reason TEXT,
    PRIMARY KEY (stream, seq)
  ) WITHOUT ROWID;

  -- Messages that can never be sent, for a human to look at.
  CREATE TABLE aside (
    id INTEGER PRIMARY KEY,
    atMs INTEGER NOT NULL,
    reader TEXT NOT NULL,
    class TEXT NOT NULL,
    why TEXT NOT NULL,
    content TEXT NOT NULL
  );

  CREATE TABLE command (
    caller TEXT NOT NULL,
    id TEXT NOT NULL,
    state TEXT NOT NULL,
    detail TEXT NOT NULL,
    acceptedMs INTEGER NOT NULL,
    expiresMs INTEGER NOT NULL,
    answer TEXT,
    PRIMARY KEY (caller, id)
  ) WITHOUT ROWID;
  CREATE INDEX commandExpiry ON command (expiresMs);

  CREATE TABLE answer (
    id INTEGER PRIMARY KEY,
    "to" TEXT NOT NULL,
    name TEXT NOT NULL,
    body TEXT NOT NULL,
    sealed INTEGER NOT NULL,
    expiresMs INTEGER NOT NULL,
    notificationId TEXT
  );

  CREATE TABLE pin (atSign TEXT PRIMARY KEY, fingerprint TEXT NOT NULL, how TEXT NOT NULL, sinceMs INTEGER NOT NULL)
    WITHOUT ROWID;
  CREATE TABLE notified (id TEXT PRIMARY KEY, epochMillis INTEGER NOT NULL) WITHOUT ROWID;
  CREATE TABLE counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
  `,
  },
  {
    // JSON of the readings of a pack that was set aside and is sent once more; such a pack has no rows.
    up: "ALTER TABLE message ADD COLUMN content TEXT",
    // The version before knows what is set aside, and packs of rows.
    down: `
  INSERT INTO aside (atMs, reader, class, why, content)
    SELECT 0, stream.reader, CASE stream.class WHEN 0 THEN 'measurement' WHEN 1 THEN 'event' ELSE 'alarm' END,
      'to be sent once more', message.content
    FROM message JOIN stream ON stream.id = message.stream WHERE message.content IS NOT NULL;
  DELETE FROM message WHERE content IS NOT NULL;
  ALTER TABLE message DROP COLUMN content;
  `,
  },
];

/** Brings the tables to this version, all or nothing. @throws {StoreTooNew} */
export function migrate(db: Database, path: string): void {
  schema.migrate(
    db,
    MIGRATIONS,
    (version) =>
      new StoreTooNew(`${path} has version ${version}, this atedge knows up to ${MIGRATIONS.length}: update atedge`),
  );
}
