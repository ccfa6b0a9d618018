import { mkdir } from "node:fs/promises";
import { dirname, join } from "node:path";
import { writeFileDurably } from "./durable-file.js";

/** A release that somebody wants installed: what the agent leaves for the update helper, which trusts none of it. */
export interface UpdateRequest {
  /** A name in the same folder. */
  readonly file: string;
  /** The release's description as JSON text, and its Ed25519 signature, base64. */
  readonly signed: string;
  readonly signature: string;
}

/** How the last update ended, for people and for the agent to tell. */
export interface UpdateOutcome {
  readonly outcome: "installed" | "returned" | "refused";
  readonly from: string;
  readonly to: string;
  /** In plain words; empty when all went well. */
  readonly why: string;
  readonly atMs: number;
}

/** Below the agent's state folder. A systemd path unit looks for {@link UPDATE_REQUEST} in it. */
export const UPDATE_FOLDER = "update";
export const UPDATE_REQUEST = "request.json";
/** Below the helper's folder, `/var/lib/atedge-update`. */
export const UPDATE_OUTCOME = "outcome.json";
/** In the agent's runtime folder: which version, as which process, has reached its atServer. */
export const CONNECTED_MARK = "connected.json";
export const MAX_RELEASE_BYTES = 32 << 20;

/** Asks for an update; `folder` holds the file already. The helper is started by that. */
export function requestUpdate(folder: string, request: UpdateRequest): Promise<void> {
  return writeWhole(join(folder, UPDATE_REQUEST), `${JSON.stringify(request)}\n`);
}

/** Writes a file that is there whole or as it was, also after a power cut. */
export async function writeWhole(path: string, text: string, mode = 0o600): Promise<void> {
  await mkdir(dirname(path), { recursive: true, mode: 0o700 });
  await writeFileDurably(path, text, mode);
}
