import type { MetadataOptions } from "../../protocol/metadata-options.js";

/** Opaque to the server: kept and given back as they are. */
const OPAQUE = [
  "dataSignature",
  "sharedKeyEnc",
  "pubKeyCS",
  "hash",
  "algo",
  "pubKeyHash",
  "hashingAlgo",
  "encoding",
  "encKeyName",
  "encAlgo",
  "ivNonce",
  "skeEncKeyName",
  "skeEncAlgo",
] as const satisfies readonly (keyof MetadataOptions)[];

/** Accepted from clients, but a Java client fails on fields it does not know (spec 3.10.1). */
const HIDDEN: ReadonlySet<string> = new Set(["hash", "algo", "pubKeyHash", "hashingAlgo"]);

type Opaque = (typeof OPAQUE)[number];

/** What the server keeps about a record. Times are milliseconds since 1970. */
export type Metadata = {
  readonly createdBy: string;
  readonly updatedBy: string;
  readonly createdAtMs: number;
  readonly updatedAtMs: number;
  readonly availableAtMs?: number;
  readonly expiresAtMs?: number;
  readonly refreshAtMs?: number;
  /** 0, then one more a write. */
  readonly version: number;
  readonly ttlMs?: number;
  readonly ttbMs?: number;
  readonly ttrSeconds?: number;
  readonly ccd?: boolean;
  readonly isBinary?: boolean;
  readonly isEncrypted?: boolean;
} & { readonly [Name in Opaque]?: string };

/**
 * The metadata of a record after a write (spec 4.5). What is left out stays and is armed again, but for `isBinary` and
 * `isEncrypted`, which go back to false: clients rely on either.
 */
export function mergeMetadata(
  old: Metadata | undefined,
  options: MetadataOptions,
  writer: string,
  nowMs: number,
): Metadata {
  const ttlMs = options.ttlMs ?? old?.ttlMs;
  const ttbMs = options.ttbMs ?? old?.ttbMs;
  const ttrSeconds =
    options.ttrSeconds === undefined || options.ttrSeconds === 0 ? old?.ttrSeconds : options.ttrSeconds;
  const ccd = ttrSeconds === undefined ? old?.ccd : (options.ccd ?? old?.ccd ?? false);
  return {
    createdBy: old?.createdBy ?? writer,
    updatedBy: writer,
    createdAtMs: old?.createdAtMs ?? nowMs,
    updatedAtMs: nowMs,
    ...(ttbMs !== undefined && { availableAtMs: later(nowMs, ttbMs) }),
    ...(ttlMs !== undefined && ttlMs > 0 && { expiresAtMs: later(nowMs, ttlMs + (ttbMs ?? 0)) }),
    ...(ttrSeconds !== undefined && ttrSeconds > 0 && { refreshAtMs: later(nowMs, ttrSeconds * 1000) }),
    version: old ? old.version + 1 : 0,
    ...(ttlMs !== undefined && { ttlMs }),
    ...(ttbMs !== undefined && { ttbMs }),
    ...(ttrSeconds !== undefined && { ttrSeconds }),
    ...(ccd !== undefined && { ccd }),
    isBinary: options.isBinary ?? false,
    isEncrypted: options.isEncrypted ?? false,
    ...mergeOpaque(old, options),
  };
}

/** The last millisecond that a date of four-digit year can say. */
const END_OF_TIME_MS = Date.UTC(9999, 11, 31, 23, 59, 59, 999);

const later = (nowMs: number, byMs: number): number => Math.min(nowMs + byMs, END_OF_TIME_MS);

function mergeOpaque(old: Metadata | undefined, options: MetadataOptions): { readonly [Name in Opaque]?: string } {
  const merged: { [Name in Opaque]?: string } = {};
  for (const name of OPAQUE) {
    const value = options[name] === undefined ? old?.[name] : options[name];
    if (value !== undefined && value !== null) merged[name] = value;
  }
  return merged;
}

/** What of a record's metadata a client could have said, e.g. for the notification of a shared record. */
export function optionsOf(metadata: Metadata): MetadataOptions {
  const { ttlMs, ttbMs, ttrSeconds, ccd, isBinary, isEncrypted } = metadata;
  return {
    ...(ttlMs !== undefined && { ttlMs }),
    ...(ttbMs !== undefined && { ttbMs }),
    ...(ttrSeconds !== undefined && { ttrSeconds }),
    ...(ccd !== undefined && { ccd }),
    ...(isBinary !== undefined && { isBinary }),
    ...(isEncrypted !== undefined && { isEncrypted }),
    ...mergeOpaque(metadata, {}),
  };
}

/** `2024-05-01 10:11:12.345Z`, which is what Java clients parse. */
export const dateText = (epochMs: number): string =>
  new Date(Math.min(epochMs, END_OF_TIME_MS)).toISOString().replace("T", " ");

/** As `llookup:meta` shows it; the order of fields is part of the protocol, absent ones are left out. */
export function metadataJson(metadata: Metadata): Readonly<Record<string, string | number | boolean>> {
  const { availableAtMs, expiresAtMs, refreshAtMs, ttlMs, ttbMs, ttrSeconds, ccd, isBinary, isEncrypted } = metadata;
  return {
    createdBy: metadata.createdBy,
    updatedBy: metadata.updatedBy,
    createdAt: dateText(metadata.createdAtMs),
    updatedAt: dateText(metadata.updatedAtMs),
    ...(availableAtMs !== undefined && { availableAt: dateText(availableAtMs) }),
    ...(expiresAtMs !== undefined && { expiresAt: dateText(expiresAtMs) }),
    ...(refreshAtMs !== undefined && { refreshAt: dateText(refreshAtMs) }),
    status: "active",
    version: metadata.version,
    ...(ttlMs !== undefined && { ttl: ttlMs }),
    ...(ttbMs !== undefined && { ttb: ttbMs }),
    ...(ttrSeconds !== undefined && { ttr: ttrSeconds }),
    ...(ccd !== undefined && { ccd }),
    ...(isBinary !== undefined && { isBinary }),
    ...(isEncrypted !== undefined && { isEncrypted }),
    ...shownOpaque(metadata),
  };
}

function shownOpaque(metadata: Metadata): Readonly<Record<string, string>> {
  const shown: Record<string, string> = {};
  for (const name of OPAQUE) {
    const value = metadata[name];
    if (value !== undefined && !HIDDEN.has(name)) shown[name] = value;
  }
  return shown;
}

/** As `sync` shows it: every value a string. */
export const metadataStrings = (metadata: Metadata): Readonly<Record<string, string>> =>
  Object.fromEntries(Object.entries(metadataJson(metadata)).map(([name, value]) => [name, String(value)]));
