import { parseInt10, type CommandScanner } from "./command-scanner.js";
import { field, integer, WORD } from "./verb-codec.js";

/**
 * The metadata that a client can give in `update`, `update:meta` and `notify`. Absent: not said, so the atServer keeps
 * what it has, but for `isBinary` and `isEncrypted`, which it then sets to false. `null`: take the old value away.
 */
export interface MetadataOptions {
  /** Time to live; 0: for ever. */
  readonly ttlMs?: number;
  /** Time to birth. */
  readonly ttbMs?: number;
  /** How often the receiver's copy is refreshed; -1: never; 0 means not said. In seconds, unlike all others. */
  readonly ttrSeconds?: number;
  /** The receiver's copy goes when the original does. */
  readonly ccd?: boolean;
  readonly dataSignature?: string | null;
  /** Accepted and ignored by atServers. */
  readonly sharedKeyStatus?: string | null;
  readonly isBinary?: boolean;
  readonly isEncrypted?: boolean;
  /** The shared AES key, encrypted for the receiver. */
  readonly sharedKeyEnc?: string | null;
  /** Checksum of the public key that `sharedKeyEnc` was made with. */
  readonly pubKeyCS?: string | null;
  /** Hash of that public key, in two spellings; the reference atServer knows neither, so do not send them. */
  readonly hash?: string | null;
  readonly algo?: string | null;
  readonly pubKeyHash?: string | null;
  readonly hashingAlgo?: string | null;
  readonly encoding?: string | null;
  readonly encKeyName?: string | null;
  readonly encAlgo?: string | null;
  readonly ivNonce?: string | null;
  readonly skeEncKeyName?: string | null;
  readonly skeEncAlgo?: string | null;
}

type OptionField = keyof MetadataOptions;
type Kind = "integer" | "boolean" | "text";

/** Field, name on the wire and kind, in the one order that atServers accept (atserver.md, 3.0). */
const OPTIONS: readonly (readonly [field: OptionField, wire: string, kind: Kind])[] = [
  ["ttlMs", "ttl", "integer"],
  ["ttbMs", "ttb", "integer"],
  ["ttrSeconds", "ttr", "integer"],
  ["ccd", "ccd", "boolean"],
  ["dataSignature", "dataSignature", "text"],
  ["sharedKeyStatus", "sharedKeyStatus", "text"],
  ["isBinary", "isBinary", "boolean"],
  ["isEncrypted", "isEncrypted", "boolean"],
  ["sharedKeyEnc", "sharedKeyEnc", "text"],
  ["pubKeyCS", "pubKeyCS", "text"],
  ["hash", "hash", "text"],
  ["algo", "algo", "text"],
  ["pubKeyHash", "pubKeyHash", "text"],
  ["hashingAlgo", "hashingAlgo", "text"],
  ["encoding", "encoding", "text"],
  ["encKeyName", "encKeyName", "text"],
  ["encAlgo", "encAlgo", "text"],
  ["ivNonce", "ivNonce", "text"],
  ["skeEncKeyName", "skeEncKeyName", "text"],
  ["skeEncAlgo", "skeEncAlgo", "text"],
];

/** `:ttl:60000:isEncrypted:true`, or nothing. @throws {SyntaxInvalid} on a value with a colon, `@` or white space. */
export function formatMetadataOptions(options: MetadataOptions): string {
  let text = "";
  for (const [name, wire] of OPTIONS) {
    const value = options[name];
    if (value === undefined) continue;
    text += `:${wire}:${formatValue(name, value)}`;
  }
  return text;
}

function formatValue(name: OptionField, value: string | number | boolean | null): string {
  if (value === null) return "null";
  if (typeof value === "number") return integer(name, value, Number.MIN_SAFE_INTEGER);
  return typeof value === "boolean" ? String(value) : field(name, value, WORD);
}

/** Reads options in their order, as far as they come. An option out of order is left for the next part of the grammar. */
export function scanMetadataOptions(scanner: CommandScanner): MetadataOptions {
  const found: Record<string, string | number | boolean | null> = {};
  for (const [name, wire, kind] of OPTIONS) {
    let value: string | number | boolean | null | undefined;
    const text = scanner.option(wire, (word) => (value = parseValue(word, kind, name)) !== undefined);
    // Dart peers send `ccd:null` for "not said".
    if (text !== undefined && value !== undefined && !(name === "ccd" && value === null)) found[name] = value;
  }
  return found;
}

function parseValue(text: string, kind: Kind, name: OptionField): string | number | boolean | null | undefined {
  const word = text.toLowerCase();
  switch (kind) {
    case "integer":
      return parseInt10(text);
    case "boolean":
      if (word === "null" && name === "ccd") return null;
      return word === "true" ? true : word === "false" ? false : undefined;
    case "text":
      return text === "null" ? null : text;
  }
}

/**
 * Options given as JSON members, as `update:json` does. Members of another type, and texts that a command line could not
 * carry on to a peer, are left out.
 */
export function metadataOptionsFromJson(value: object): MetadataOptions {
  const members = new Map<string, unknown>(Object.entries(value));
  const found: Record<string, string | number | boolean | null> = {};
  for (const [name, wire, kind] of OPTIONS) {
    const member = members.get(wire);
    if (typeof member !== JSON_TYPES[kind] || (kind === "text" && !WORD.test(String(member)))) continue;
    const option = parseValue(String(member), kind, name);
    if (option !== undefined) found[name] = option;
  }
  return found;
}

const JSON_TYPES = { integer: "number", boolean: "boolean", text: "string" } as const;
