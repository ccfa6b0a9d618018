import Database from "better-sqlite3";
import { copyFile, open, rename, rm } from "node:fs/promises";
import { dirname } from "node:path";
import { codeOf, EdgeError } from "../../core/errors.js";
import { parseAtSign, type AtSign } from "../protocol/at-sign.js";
import { openAtDatabase, type AtDatabase } from "./store/database.js";

/** The file cannot be written or read as the copy of an atSign; the message says why. */
export class TransferRefused extends EdgeError {
  override readonly code: string = "TRANSFER_REFUSED";
}

const STAMP = "exported_at_sign";

/**
 * Copies everything of an atSign, while it is in use, into one file of its own: records, keys, enrolments, queued
 * notifications, the log of changes, the signing key and what is left of CRAM. Whoever has the file is the atSign's
 * server, so it is for the owner's eyes only. It is on the disk when this resolves.
 *
 * @throws {TransferRefused} when the file is there already, or a system error.
 */
export async function exportDatabase({ db, commits }: AtDatabase, atSign: AtSign, path: string): Promise<void> {
  await makeEmpty(path);
  try {
    let copied = 0;
    // Nothing is copied while a write is open.
    while (copied === 0) {
      await commits.flush();
      copied = (await db.backup(path)).totalPages;
    }
    stamp(path, atSign);
    await syncFile(path);
  } catch (error) {
    await rm(path, { force: true });
    throw error;
  }
}

/** The same, of a file that no process has open. */
export async function exportFile(file: string, atSign: AtSign, path: string): Promise<void> {
  const database = await openAtDatabase(file);
  try {
    await exportDatabase(database, atSign, path);
  } finally {
    await database[Symbol.asyncDispose]();
  }
}

/**
 * The atSign that a file was exported of.
 *
 * @throws {TransferRefused} when it is no such file, or damaged.
 */
export function checkExported(path: string): AtSign {
  let db: Database.Database | undefined;
  try {
    db = new Database(path, { readonly: true, fileMustExist: true });
    const name = db.prepare<[string], { value: string }>("SELECT value FROM setting WHERE name = ?").get(STAMP)?.value;
    if (name === undefined) throw new TransferRefused(`${path} was not made by \`atedge platform export\``);
    const verdict = db.pragma("integrity_check", { simple: true });
    if (verdict !== "ok") throw new TransferRefused(`${path} is damaged: ${String(verdict)}`);
    return parseAtSign(name);
  } catch (cause) {
    if (cause instanceof TransferRefused) throw cause;
    throw new TransferRefused(`${path} cannot be read as the file of an atSign`, { cause });
  } finally {
    db?.close();
  }
}

/** Puts an exported file in its place, whole or not at all. */
export async function importDatabase(from: string, to: string): Promise<void> {
  const next = `${to}.new`;
  await rm(next, { force: true });
  await makeEmpty(next);
  try {
    await copyFile(from, next);
    await syncFile(next);
    await rename(next, to);
    await syncFolder(dirname(to));
  } catch (error) {
    await rm(next, { force: true });
    throw error;
  }
}

/** Says whose it is, and leaves no log beside the file. */
function stamp(path: string, atSign: AtSign): void {
  const db = new Database(path);
  try {
    db.pragma("journal_mode = DELETE");
    db.prepare("INSERT OR REPLACE INTO setting (name, value) VALUES (?, ?)").run(STAMP, atSign);
  } finally {
    db.close();
  }
}

async function makeEmpty(path: string): Promise<void> {
  try {
    await (await open(path, "wx", 0o600)).close();
  } catch (cause) {
    if (codeOf(cause) === "EEXIST") throw new TransferRefused(`${path} is there already`, { cause });
    throw cause;
  }
}

async function syncFile(path: string): Promise<void> {
  const file = await open(path, "r+");
  try {
    await file.sync();
  } finally {
    await file.close();
  }
  await syncFolder(dirname(path));
}

async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, "r");
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}
