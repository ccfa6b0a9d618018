import { constants } from "node:fs";
import { open } from "node:fs/promises";
import { join } from "node:path";

/** Of the local control; see `local-control.ts`. */
export const LOCAL_LIMITS = {
  connections: 8,
  requestBytes: 65_536,
  answerBytes: 4 << 20,
  /** Without a request. */
  idleMs: 60_000,
} as const;

const NAME = "control.sock";
/** sun_path of unix(7) has 108 bytes, one of them its end. */
const MAX_PATH_BYTES = 107;

/** Calls `work` with a path to the socket that the kernel takes, however deep the state folder lies. */
export async function withSocketPath<T>(stateDir: string, work: (path: string) => Promise<T>): Promise<T> {
  const path = join(stateDir, NAME);
  if (Buffer.byteLength(path) <= MAX_PATH_BYTES) return work(path);
  const folder = await open(stateDir, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    return await work(`/proc/self/fd/${folder.fd}/${NAME}`);
  } finally {
    await folder.close();
  }
}
