import { JsonField, type JsonObject } from "./json-field.js";
import { MAX_SEQ, parseLife, type StreamLife } from "./telemetry.js";

/** First and last sequence number of a hole, both included. */
export type SeqRange = readonly [from: number, to: number];

/** What a reader says it has made safe: everything up to `have`, but for what is `missing`. */
export interface Receipt extends StreamLife {
  /** Which of the reader's programs speaks; only the configured one moves the sender's cursor. */
  readonly consumer: string;
  /** 0: nothing yet. */
  readonly have: number;
  /** Ascending, apart from one another by at least one number, none beyond `have`. */
  readonly missing: readonly SeqRange[];
}

export const RECEIPT_VERSION = 1;
/** More holes cannot be in a window of 64 messages. */
export const MAX_MISSING_RANGES = 64;

const CONSUMER = /^[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}$/u;

/** @throws {SyntaxInvalid} */
export function parseConsumer(text: string): string {
  return consumerOf(new JsonField(text, "consumer"));
}

/** Body of the notification `receipt.<device>.<ns>`, to be sealed. */
export function formatReceipt({ consumer, stream, inc, have, missing }: Receipt): JsonObject {
  return { v: RECEIPT_VERSION, consumer, stream, inc, have, missing };
}

/** @param value what `openSealed` gave. @throws {SyntaxInvalid} @throws {LimitExceeded} */
export function parseReceipt(value: unknown): Receipt {
  const fields = new JsonField(value, "receipt").object();
  fields.at("v").exactly(RECEIPT_VERSION);
  const have = fields.at("have").integer(0, MAX_SEQ);
  let lowest = 1;
  const missing = fields
    .at("missing")
    .array({ max: MAX_MISSING_RANGES })
    .map((range): SeqRange => {
      const [from, to] = range.array({ min: 2, max: 2 });
      if (!from || !to) return range.refuse("[from, to]");
      const first = from.integer(lowest, have);
      const last = to.integer(first, have);
      lowest = last + 2;
      return [first, last];
    });
  return { ...parseLife(fields), consumer: consumerOf(fields.at("consumer")), have, missing };
}

const consumerOf = (field: JsonField): string =>
  field.text({ max: 64, pattern: CONSUMER, expected: "a consumer name (letters, digits, blank . _ -)" });
