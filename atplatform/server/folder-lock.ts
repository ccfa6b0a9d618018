import Database from "better-sqlite3";
import { join } from "node:path";
import { codeOf, EdgeError } from "../../core/errors.js";

/** Another process runs a platform from this folder. */
export class PlatformRunning extends EdgeError {
  override readonly code: string = "PLATFORM_RUNNING";
}

/** Whether a process runs a platform from this folder. */
export function platformRuns(stateDir: string): boolean {
  try {
    lockFolder(stateDir)();
    return false;
  } catch (error) {
    if (error instanceof PlatformRunning) return true;
    throw error;
  }
}

/** One platform a folder: an SQLite lock goes with the process, however it ends. */
export function lockFolder(stateDir: string): () => void {
  const lock = new Database(join(stateDir, "platform.lock"), { timeout: 0 });
  try {
    lock.exec("BEGIN EXCLUSIVE");
  } catch (cause) {
    lock.close();
    if (codeOf(cause) !== "SQLITE_BUSY") throw cause;
    throw new PlatformRunning(`another process runs a platform from ${stateDir}`, { cause });
  }
  return () => lock.close();
}
