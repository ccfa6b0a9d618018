import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { copyFile, lstat, mkdir, open, rm } from "node:fs/promises";
import { join, resolve } from "node:path";
import Database from "better-sqlite3";
import { codeOf } from "../core/errors.js";
import type { Pin } from "./store/pins.js";

/** A database is looked into through a copy in memory up to this size. */
const MAX_COPIED_BYTES = 64 << 20;

/**
 * A folder of this agent's own in memory, or `undefined` where there is none. It outlives the process and not the boot.
 * One that belongs to somebody else is not used.
 */
export async function memoryFolder(
  stateDir: string,
  env: NodeJS.ProcessEnv,
  how: "make" | "find",
): Promise<string | undefined> {
  const runtime = env["RUNTIME_DIRECTORY"]?.split(":")[0];
  const above = runtime !== undefined && runtime !== "" ? runtime : "/dev/shm";
  if (!existsSync(above)) return undefined;
  const folder = join(above, `atedge-${createHash("sha256").update(resolve(stateDir)).digest("hex").slice(0, 16)}`);
  if (how === "find" && !existsSync(folder)) return undefined;
  await mkdir(folder, { mode: 0o700 }).catch((error: unknown) => {
    if (codeOf(error) !== "EEXIST") throw error;
  });
  const { uid, mode } = await lstat(folder);
  return uid === process.getuid?.() && (mode & 0o170_077) === 0o040_000 ? folder : undefined;
}

/** Whether the disk takes a file and keeps it. */
export async function diskWorks(stateDir: string): Promise<boolean> {
  const path = join(stateDir, "outbox.probe");
  try {
    const file = await open(path, "w", 0o600);
    try {
      await file.writeFile(Buffer.alloc(65_536, 1));
      await file.sync();
    } finally {
      await file.close();
    }
    return true;
  } catch {
    return false;
  } finally {
    await rm(path, { force: true }).catch(() => undefined);
  }
}

/** The keys of peers that a database remembers which may not be written to; none when it cannot be read. */
export async function pinsOf(stateDir: string, memory: string): Promise<Pin[]> {
  const from = join(stateDir, "outbox.db");
  const to = join(memory, "look.db");
  try {
    if ((await lstat(from)).size > MAX_COPIED_BYTES) return [];
    await copyFile(from, to);
    if (existsSync(`${from}-wal`)) await copyFile(`${from}-wal`, `${to}-wal`);
    const db = new Database(to);
    try {
      return db.prepare<[], Pin>("SELECT * FROM pin").all();
    } finally {
      db.close();
    }
  } catch {
    return [];
  } finally {
    for (const end of ["", "-wal", "-shm"]) await rm(to + end, { force: true }).catch(() => undefined);
  }
}
