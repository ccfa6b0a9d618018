import { booleanIn, integerIn, membersOf, textIn } from "./json.js";
import type { MetadataOptions } from "./metadata-options.js";

type TextField = "dataSignature" | "sharedKeyEnc" | "pubKeyCS" | "encoding" | "encKeyName" | "encAlgo" | "ivNonce";
type SkeField = "skeEncKeyName" | "skeEncAlgo";

/** What an atServer tells about a record. Times are milliseconds since 1970. */
export type Metadata = Pick<MetadataOptions, "ttlMs" | "ttbMs" | "ttrSeconds" | "ccd" | "isBinary" | "isEncrypted"> & {
  readonly createdBy?: string;
  readonly updatedBy?: string;
  readonly createdAtMs?: number;
  readonly updatedAtMs?: number;
  readonly availableAtMs?: number;
  readonly expiresAtMs?: number;
  readonly refreshAtMs?: number;
  /** `active`, as far as is known. */
  readonly status?: string;
  /** 0, then one more a write. */
  readonly version?: number;
} & { readonly [Name in TextField | SkeField]?: string };

type Kind = "text" | "date" | "integer" | "boolean";

/** In the order of the reference. Java clients fail on any further member (atserver.md, 3.10.1). */
const FIELDS: readonly (readonly [field: keyof Metadata, wire: string, kind: Kind])[] = [
  ["createdBy", "createdBy", "text"],
  ["updatedBy", "updatedBy", "text"],
  ["createdAtMs", "createdAt", "date"],
  ["updatedAtMs", "updatedAt", "date"],
  ["availableAtMs", "availableAt", "date"],
  ["expiresAtMs", "expiresAt", "date"],
  ["refreshAtMs", "refreshAt", "date"],
  ["status", "status", "text"],
  ["version", "version", "integer"],
  ["ttlMs", "ttl", "integer"],
  ["ttbMs", "ttb", "integer"],
  ["ttrSeconds", "ttr", "integer"],
  ["ccd", "ccd", "boolean"],
  ["isBinary", "isBinary", "boolean"],
  ["isEncrypted", "isEncrypted", "boolean"],
  ["dataSignature", "dataSignature", "text"],
  ["sharedKeyEnc", "sharedKeyEnc", "text"],
  ["pubKeyCS", "pubKeyCS", "text"],
  ["encoding", "encoding", "text"],
  ["encKeyName", "encKeyName", "text"],
  ["encAlgo", "encAlgo", "text"],
  ["ivNonce", "ivNonce", "text"],
  ["skeEncKeyName", "skeEncKeyName", "text"],
  ["skeEncAlgo", "skeEncAlgo", "text"],
];

type JsonValue = string | number | boolean;

/** As `llookup:meta` shows it: the members in their order, absent ones left out. */
export function metadataJson(metadata: Metadata): Readonly<Record<string, JsonValue>> {
  const shown: Record<string, JsonValue> = {};
  for (const [field, wire, kind] of FIELDS) {
    const value = metadata[field];
    if (value !== undefined) shown[wire] = kind === "date" && typeof value === "number" ? dateText(value) : value;
  }
  return shown;
}

/** As `sync` shows it: every value a string. */
export const metadataStrings = (metadata: Metadata): Readonly<Record<string, string>> =>
  Object.fromEntries(Object.entries(metadataJson(metadata)).map(([name, value]) => [name, String(value)]));

/**
 * Reads either form. Members may be missing, null, the text `null` or unknown; one of an unexpected kind is left out:
 * most matter to no one, and an old record must not become unreadable.
 *
 * @throws {SyntaxInvalid} on what is no object.
 */
export function parseMetadata(value: unknown): Metadata {
  const members = membersOf(value, "metadata");
  const read: Record<string, JsonValue> = {};
  for (const [field, wire, kind] of FIELDS) {
    const member = READERS[kind](members, wire);
    if (member !== undefined) read[field] = member;
  }
  return read;
}

const READERS: Readonly<Record<Kind, (members: ReadonlyMap<string, unknown>, name: string) => JsonValue | undefined>> =
  {
    text: textIn,
    date: (members, name) => parseDateText(textIn(members, name) ?? ""),
    integer: integerIn,
    boolean: booleanIn,
  };

/** The last millisecond of the last year that has four digits. */
const END_OF_TIME_MS = Date.UTC(9999, 11, 31, 23, 59, 59, 999);

/** `2024-05-01 10:11:12.345Z`: a blank, three digits and `Z`, which is all that Java clients read. */
export const dateText = (epochMs: number): string =>
  new Date(Math.min(epochMs, END_OF_TIME_MS)).toISOString().replace("T", " ");

const DATE = /^(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?Z?$/u;

/** Milliseconds since 1970, or `undefined` for no date; also takes a `T`, fewer or more digits and a missing `Z`. */
export function parseDateText(text: string): number | undefined {
  const [, day, time, fraction = ""] = DATE.exec(text) ?? [];
  if (day === undefined || time === undefined) return undefined;
  const epochMs = Date.parse(`${day}T${time}.${fraction.slice(0, 3).padEnd(3, "0")}Z`);
  return Number.isNaN(epochMs) ? undefined : epochMs;
}
