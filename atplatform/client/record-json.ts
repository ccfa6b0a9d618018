import { AtServerError } from "../protocol/at-error.js";
import { AnswerInvalid } from "./errors.js";

/** Metadata of a record as an atServer tells it; absent and `null` are the same, unknown members are left out. */
export interface RecordMetadata {
  readonly createdAt?: Date;
  readonly updatedAt?: Date;
  readonly availableAt?: Date;
  readonly expiresAt?: Date;
  readonly refreshAt?: Date;
  readonly version?: number;
  readonly ttlMs?: number;
  readonly ttbMs?: number;
  readonly ttrSeconds?: number;
  readonly ccd?: boolean;
  readonly isBinary?: boolean;
  readonly isEncrypted?: boolean;
  readonly dataSignature?: string;
  readonly sharedKeyEnc?: string;
  readonly pubKeyCS?: string;
  readonly encoding?: string;
  readonly encKeyName?: string;
  readonly encAlgo?: string;
  readonly ivNonce?: string;
  readonly skeEncKeyName?: string;
  readonly skeEncAlgo?: string;
}

export interface RecordJson {
  /** As the atServer names it, `cached:` included. */
  readonly key: string;
  /** `null`: there is metadata only. */
  readonly data: string | null;
  readonly metadata: RecordMetadata;
}

/** The answer, or `undefined` when there is no such record: AT0015 or, when it has expired, `null`. */
export async function answerOrNone(answer: Promise<string>): Promise<string | undefined> {
  try {
    const body = await answer;
    return body === "null" ? undefined : body;
  } catch (error) {
    if (error instanceof AtServerError && error.code === "AT0015") return undefined;
    throw error;
  }
}

/** What `llookup:all:` and its like answer. @throws {AnswerInvalid} */
export function parseRecordJson(answer: string): RecordJson {
  const { key, data, metaData } = jsonObject(answer);
  if (typeof key !== "string" || (typeof data !== "string" && data !== null && data !== undefined)) {
    throw new AnswerInvalid("expected a record with key and data");
  }
  const metadata = typeof metaData === "object" && metaData !== null ? metaData : {};
  return { key, data: data ?? null, metadata: metadataFrom(new Map(Object.entries(metadata))) };
}

/** What `llookup:meta:` and its like answer. @throws {AnswerInvalid} */
export const parseMetadata = (answer: string): RecordMetadata =>
  metadataFrom(new Map(Object.entries(jsonObject(answer))));

/** @throws {AnswerInvalid} */
export function jsonObject(text: string): Readonly<Record<string, unknown>> {
  const value = json(text);
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new AnswerInvalid("expected a JSON object");
  }
  return value as Readonly<Record<string, unknown>>;
}

/** @throws {AnswerInvalid} */
export function json(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new AnswerInvalid("expected JSON", { cause });
  }
}

/** `2024-10-24 10:00:00.000Z`, with a blank where ISO 8601 has a `T`; the text `null` means none. */
export function parseDate(value: unknown): Date | undefined {
  if (typeof value !== "string") return undefined;
  const date = new Date(value.replace(" ", "T"));
  return Number.isNaN(date.getTime()) ? undefined : date;
}

function metadataFrom(members: ReadonlyMap<string, unknown>): RecordMetadata {
  const found = new Map<string, unknown>();
  const take = (name: keyof RecordMetadata, wire: string, parse: (value: unknown) => unknown): void => {
    const value = parse(members.get(wire));
    if (value !== undefined) found.set(name, value);
  };
  for (const name of ["createdAt", "updatedAt", "availableAt", "expiresAt", "refreshAt"] as const) {
    take(name, name, parseDate);
  }
  take("version", "version", parseNumber);
  take("ttlMs", "ttl", parseNumber);
  take("ttbMs", "ttb", parseNumber);
  take("ttrSeconds", "ttr", parseNumber);
  for (const name of ["ccd", "isBinary", "isEncrypted"] as const) take(name, name, parseBoolean);
  for (const name of [
    ...(["dataSignature", "sharedKeyEnc", "pubKeyCS", "encoding", "encKeyName", "encAlgo"] as const),
    ...(["ivNonce", "skeEncKeyName", "skeEncAlgo"] as const),
  ]) {
    take(name, name, parseText);
  }
  return Object.fromEntries(found);
}

// `sync:from` has all of them as texts.
const parseNumber = (value: unknown): number | undefined => {
  const number = typeof value === "string" && /^-?\d+$/u.test(value) ? Number(value) : value;
  return typeof number === "number" && Number.isSafeInteger(number) ? number : undefined;
};
const parseBoolean = (value: unknown): boolean | undefined =>
  typeof value === "boolean" ? value : value === "true" ? true : value === "false" ? false : undefined;
const parseText = (value: unknown): string | undefined =>
  typeof value === "string" && value !== "null" && value !== "" ? value : undefined;
