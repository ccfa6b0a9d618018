import { createHash, randomBytes } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import * as v from "valibot";
import { writeFileDurably } from "../../core/durable-file.js";
import { codeOf } from "../../core/errors.js";

/**
 * Which outbox this is, beside the database: so that a database that was lost, copied or brought back from a backup is
 * not taken for the one that our readers know.
 */
export interface Identity {
  /** SHA-256 over the machine id; empty where the machine has none. */
  readonly machine: string;
  /** 128 random bits; stream ids are derived from it. */
  readonly outbox: string;
  /** How often the outbox was opened. The database counts too, and is older than us when it has less. */
  readonly opens: number;
  /** The latest life of each stream, by {@link streamName}. */
  readonly lives: Readonly<Record<string, number>>;
}

export type IdentityVerdict =
  /** As it was. */
  | "same"
  /** Neither file nor database: a new device. */
  | "new"
  /** The file is there, the database is not. */
  | "lost"
  /** The database is another one than the file speaks of, or an older state of it. */
  | "restored"
  /** Another machine: somebody copied the card. Nothing may be sent before it is enrolled anew. */
  | "cloned";

/** What the database knows of itself. */
export interface StoredIdentity {
  readonly outbox: string;
  readonly opens: number;
}

export function identityVerdict(
  file: Identity | undefined,
  stored: StoredIdentity | undefined,
  machine: string,
): IdentityVerdict {
  if (file && machine !== "" && file.machine !== "" && file.machine !== machine) return "cloned";
  if (!stored) return file ? "lost" : "new";
  if (!file || file.outbox !== stored.outbox || stored.opens < file.opens) return "restored";
  return "same";
}

/** How {@link Identity.lives} names a stream. */
export const streamName = (reader: string, readingClass: string): string => `${reader} ${readingClass}`;

/** 128 bits as 32 hex digits, the same for one reader and class of one outbox. */
export function streamIdOf(outbox: string, reader: string, readingClass: string): string {
  return sha256(`${outbox}\n${streamName(reader, readingClass)}`).slice(0, 32);
}

export const newOutboxId = (): string => randomBytes(16).toString("hex");

const FILE = "outbox-id.json";
const hex = (digits: number) => v.pipe(v.string(), v.regex(new RegExp(`^[0-9a-f]{${digits}}$`, "u")));
const count = v.pipe(v.number(), v.safeInteger(), v.minValue(0));
const identitySchema = v.object({
  machine: v.union([v.literal(""), hex(64)]),
  outbox: hex(32),
  opens: count,
  lives: v.record(v.string(), count),
});

/** `undefined` when there is none, or none that can be read: a new life is then the safe answer. */
export async function readIdentity(folder: string): Promise<Identity | undefined> {
  try {
    const parsed = v.safeParse(identitySchema, JSON.parse(await readFile(join(folder, FILE), "utf8")));
    return parsed.success ? parsed.output : undefined;
  } catch (error) {
    if (error instanceof SyntaxError || codeOf(error) === "ENOENT") return undefined;
    throw error;
  }
}

/** Resolves when it is on the disk; the old one is there until then. */
export async function writeIdentity(folder: string, identity: Identity): Promise<void> {
  await writeFileDurably(join(folder, FILE), `${JSON.stringify(identity)}\n`);
}

const sha256 = (text: string): string => createHash("sha256").update(text).digest("hex");
