import { chmod, mkdir, open, readFile, rename } from "node:fs/promises";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import { codeOf, EdgeError } from "../core/errors.js";
import { type JsonField, parseJson } from "../messages/json-field.js";
import type { PinStore } from "../messages/peer-trust.js";
import { parseFingerprint } from "../messages/pins.js";

/** The file of pins cannot be read or written; the message says which and what to do. */
export class PinFileUnusable extends EdgeError {
  override readonly code = "PIN_FILE_UNUSABLE";
}

/** Where an operator's machine keeps what it must remember, unless told otherwise. */
export const defaultStateDir = (): string =>
  join(process.env["XDG_CONFIG_HOME"] ?? join(homedir(), ".config"), "atedge");

/**
 * The keys that were trusted on first use: a JSON object of atSigns and fingerprints, mode 0600. A file that cannot be
 * understood is an error: taking it for empty would trust any key anew.
 */
export async function openPinFile(path: string): Promise<PinStore> {
  const pins = await readPins(path);
  let writing: Promise<void> = Promise.resolve();
  return {
    get: (peer) => pins.get(peer),
    set(peer, fingerprint) {
      pins.set(peer, fingerprint);
      writing = writing.then(() => writePins(path, pins));
      return writing;
    },
  };
}

async function readPins(path: string): Promise<Map<string, string>> {
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (cause) {
    if (codeOf(cause) === "ENOENT") return new Map();
    throw new PinFileUnusable(`${path} cannot be read (${codeOf(cause) ?? "unknown error"})`, { cause });
  }
  try {
    const fields = parseJson(text, "pins").object();
    return new Map(fields.names().map((peer) => [peer, parseFingerprint(textOf(fields.at(peer)))]));
  } catch (cause) {
    const message = cause instanceof Error ? cause.message : String(cause);
    throw new PinFileUnusable(`${path} is damaged (${message}): repair it, or move it away to trust anew`, { cause });
  }
}

const textOf = (field: JsonField): string => field.text({ max: 80 });

async function writePins(path: string, pins: ReadonlyMap<string, string>): Promise<void> {
  const temporary = `${path}.${process.pid}.tmp`;
  try {
    await mkdir(dirname(path), { recursive: true, mode: 0o700 });
    const file = await open(temporary, "w", 0o600);
    try {
      await file.writeFile(`${JSON.stringify(Object.fromEntries(pins), null, 2)}\n`);
      await file.sync();
    } finally {
      await file.close();
    }
    await chmod(temporary, 0o600);
    await rename(temporary, path);
  } catch (cause) {
    throw new PinFileUnusable(`${path} cannot be written (${codeOf(cause) ?? "unknown error"})`, { cause });
  }
}
