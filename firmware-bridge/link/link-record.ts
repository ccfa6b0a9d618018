import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import * as v from "valibot";
import { SyntaxInvalid } from "../../core/errors.js";
import { writeFileDurably } from "../../core/durable-file.js";

/** What the host keeps of one board: secrets, so the file is 0600. */
export interface LinkRecord {
  /** Our own X25519 secret for this board. */
  readonly hostSecret: Uint8Array;
  /** The board's public key, pinned at pairing. */
  readonly boardKey: Uint8Array;
  /** S of docs/reference/link.md, section 2. */
  readonly staticKey: Uint8Array;
  /** R with its index, the id of its chain and when that began; none before the first RENEW. */
  readonly root?: LinkRoot | undefined;
}

export interface LinkRoot {
  readonly key: Uint8Array;
  readonly id: Uint8Array;
  readonly index: number;
  readonly sinceMs: number;
}

const bytes = (length: number) =>
  v.pipe(
    v.string(),
    v.regex(/^(?:[0-9a-f]{2})*$/u),
    v.transform((text): Uint8Array => Buffer.from(text, "hex")),
    v.check((value) => value.length === length, `expected ${length} bytes in hex`),
  );

const recordSchema = v.strictObject({
  version: v.literal(1),
  hostSecret: bytes(32),
  boardKey: bytes(32),
  staticKey: bytes(32),
  root: v.optional(
    v.strictObject({
      key: bytes(32),
      id: bytes(4),
      index: v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(0xffffffff)),
      sinceMs: v.number(),
    }),
  ),
});

/** How people and reports name a board's key. */
export const fingerprintOf = (boardKey: Uint8Array): string =>
  `sha256:${createHash("sha256").update(boardKey).digest("hex")}`;

const fileOf = (folder: string): string => join(folder, "link.json");

/** The record in a driver's state folder, or `undefined` when the board was never paired. @throws {SyntaxInvalid} */
export async function loadLinkRecord(folder: string): Promise<LinkRecord | undefined> {
  const path = fileOf(folder);
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
  // The text holds secrets: neither it nor what a parser says about it goes into an error.
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch {
    throw new SyntaxInvalid(`${path} is not JSON; restore it, or pair the board again`);
  }
  const result = v.safeParse(recordSchema, parsed);
  if (!result.success) throw new SyntaxInvalid(`${path} is not a link record; restore it, or pair the board again`);
  return result.output;
}

/** Stores the record so that a power cut leaves the old one or the new one. */
export async function saveLinkRecord(folder: string, record: LinkRecord): Promise<void> {
  const hex = (value: Uint8Array): string => Buffer.from(value).toString("hex");
  const { root } = record;
  const json = {
    version: 1,
    hostSecret: hex(record.hostSecret),
    boardKey: hex(record.boardKey),
    staticKey: hex(record.staticKey),
    ...(root ? { root: { key: hex(root.key), id: hex(root.id), index: root.index, sinceMs: root.sinceMs } } : {}),
  };
  await writeFileDurably(fileOf(folder), `${JSON.stringify(json)}\n`);
}
