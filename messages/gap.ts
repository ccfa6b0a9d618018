import type { JsonField, JsonObject } from "./json-field.js";

/**
 * Readings that were accepted and will not come: the sequence numbers `fromSeq` to `toSeq` of the stream, both
 * included, are given up.
 */
export interface Gap {
  readonly fromSeq: number;
  readonly toSeq: number;
  /** How many readings; `null` when nobody knows, which is never equal to any count. */
  readonly readings: number | null;
  /** When the first and the last of them were taken, milliseconds since 1970; `null` when unknown. */
  readonly timeFrom: number | null;
  readonly timeTo: number | null;
  /** Why, in one lower-case word or two: see {@link GAP_REASONS}. */
  readonly reason: string;
}

/** The reasons that this version declares; a reader takes others as they come. */
export const GAP_REASONS = {
  full: "outbox-full",
  age: "too-old",
  refused: "refused",
  disk: "disk-fault",
  lost: "outbox-lost",
} as const;

const REASON = /^[a-z][a-z0-9-]{0,31}$/u;

export function formatGap({ fromSeq, toSeq, readings, timeFrom, timeTo, reason }: Gap): JsonObject {
  return { fromSeq, toSeq, readings, timeFrom, timeTo, reason };
}

/** @param seq the sequence number of the message that declares the gap; a gap cannot reach beyond it. */
export function parseGap(field: JsonField, seq: number): Gap {
  const gap = field.object();
  const fromSeq = gap.at("fromSeq").integer(1, seq);
  return {
    fromSeq,
    toSeq: gap.at("toSeq").integer(fromSeq, seq),
    readings: gap.at("readings").orNull((readings) => readings.integer(0, Number.MAX_SAFE_INTEGER)),
    timeFrom: gap.at("timeFrom").orNull((time) => time.timeMs()),
    timeTo: gap.at("timeTo").orNull((time) => time.timeMs()),
    reason: gap.at("reason").text({ max: 32, pattern: REASON, expected: "a reason such as outbox-full" }),
  };
}
