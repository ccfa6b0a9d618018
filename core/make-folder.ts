import { mkdir, stat } from "node:fs/promises";
import { dirname } from "node:path";
import { codeOf } from "./errors.js";

/**
 * Makes a folder and those above it, for the owner's eyes only unless told otherwise. Not with Node's own `recursive`:
 * where the kernel answers ENOENT although the folder above is there (under /proc), that tries for ever.
 *
 * @throws the system error: `EACCES`, `ENOENT`, `ENOTDIR`, `EEXIST` when a file is in the way.
 */
export async function makeFolder(path: string, mode = 0o700): Promise<void> {
  if (await isMade(path, mode)) return;
  const above = dirname(path);
  if (above !== path) await makeFolder(above, mode);
  await mkdir(path, { mode }).catch(async (error: unknown) => {
    // Another process may have made it meanwhile.
    if (codeOf(error) !== "EEXIST" || !(await stat(path)).isDirectory()) throw error;
  });
}

/** False when the folder above is missing. */
async function isMade(path: string, mode: number): Promise<boolean> {
  try {
    await mkdir(path, { mode });
    return true;
  } catch (error) {
    if (codeOf(error) === "ENOENT") return false;
    if (codeOf(error) === "EEXIST" && (await stat(path)).isDirectory()) return true;
    throw error;
  }
}
