import type { Metadata } from "../../protocol/metadata.js";
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

type Opaque = (typeof OPAQUE)[number];

/** What the server keeps about a record; of what it tells, `hash` and its like are left out. */
export type StoredMetadata = Metadata & {
  readonly createdBy: string;
  readonly updatedBy: string;
  readonly createdAtMs: number;
  readonly updatedAtMs: number;
  readonly status: "active";
  readonly version: number;
} & { readonly [Name in Opaque]?: string };

/**
 * The metadata of a record after a write (spec 4.5). What is left out stays and is armed again, but for `isBinary` and
 * `isEncrypted`, which go back to false: clients rely on either.
 */
export function mergeMetadata(
  old: StoredMetadata | undefined,
  options: MetadataOptions,
  writer: string,
  nowMs: number,
): StoredMetadata {
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
    status: "active",
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

function mergeOpaque(
  old: StoredMetadata | undefined,
  options: MetadataOptions,
): { readonly [Name in Opaque]?: string } {
  const merged: { [Name in Opaque]?: string } = {};
  for (const name of OPAQUE) {
    const value = options[name] === undefined ? old?.[name] : options[name];
    if (value !== undefined && value !== null) merged[name] = value;
  }
  return merged;
}

/** What of a record's metadata a client could have said, e.g. for the notification of a shared record. */
export function optionsOf(metadata: StoredMetadata): MetadataOptions {
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

/** The value without some of its members. */
export const omit = <T extends object, Name extends keyof T>(value: T, ...names: readonly Name[]): Omit<T, Name> =>
  Object.fromEntries(Object.entries(value).filter(([name]) => !(names as readonly string[]).includes(name))) as Omit<
    T,
    Name
  >;
