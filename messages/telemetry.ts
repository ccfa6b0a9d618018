import type { ReadingClass } from "../core/driver.js";
import { deflated, inflated } from "./deflate.js";
import { formatGap, parseGap, type Gap } from "./gap.js";
import { JsonField, MAX_TIME_MS, type JsonFields, type JsonObject } from "./json-field.js";
import { formatPack, MIN_TIME_MS, parsePack, type SenmlReading } from "./senml.js";

/** One life of one stream. Order holds within it and no wider. */
export interface StreamLife {
  /** 128 random bits as 32 lower-case hex digits: one (reader, class) of one outbox. */
  readonly stream: string;
  /** Counts its lives, from 1. */
  readonly inc: number;
}

/** Where a message stands in its stream. */
export interface StreamPosition extends StreamLife {
  readonly class: ReadingClass;
  /** Counts the messages of this life, packs and gaps alike, from 1. */
  readonly seq: number;
  /**
   * The life that this one continues. Messages with `seq` up to 64 carry it: no later one is sent before the reader
   * has receipted an earlier.
   */
  readonly prev?: StreamLife;
}

/**
 * Readings of a boot that ended before the time was known. Their times are the earliest possible: all are too early by
 * one amount, the same for all of this boot, and none really was later than `timeTo`.
 */
export interface Undated {
  /** The boot id, 32 lower-case hex digits. */
  readonly boot: string;
  /** The bracket: the last known time before that boot, the first one after it; milliseconds since 1970. */
  readonly timeFrom: number;
  readonly timeTo: number;
}

export interface TelemetryPack extends StreamPosition {
  readonly type: "pack";
  readonly readings: readonly SenmlReading[];
  readonly undated?: Undated;
  /** These were declared by a gap before (`refused`), and a human had them sent once more. */
  readonly recovered?: true;
}

export interface TelemetryGap extends StreamPosition {
  readonly type: "gap";
  readonly gap: Gap;
}

export type TelemetryMessage = TelemetryPack | TelemetryGap;

export const READING_CLASSES = ["alarm", "event", "measurement"] as const;
export const MAX_SEQ = Number.MAX_SAFE_INTEGER;
/** How many messages of a life carry `prev`, and how far ahead of its first unreceipted message a sender may be. */
export const WINDOW_MESSAGES = 64;
export const TELEMETRY_VERSION = 1;
/** Of a message whose readings are deflated: who knows version 1 only says that it does not know this one. */
export const DEFLATED_VERSION = 2;

const ID = /^[0-9a-f]{32}$/u;

export interface TelemetryFormat {
  /** Deflates the readings where that saves bytes. */
  readonly deflate?: boolean;
}

/** Body of the notification `telemetry.<device>.<ns>`, to be sealed. @throws what {@link formatPack} throws. */
export function formatTelemetry(message: TelemetryMessage, { deflate = false }: TelemetryFormat = {}): JsonObject {
  const { stream, inc, class: readingClass, seq, prev } = message;
  const members = message.type === "gap" ? { gap: formatGap(message.gap) } : packMembers(message, deflate);
  return {
    v: Object.hasOwn(members, "deflate") ? DEFLATED_VERSION : TELEMETRY_VERSION,
    stream,
    inc,
    class: readingClass,
    seq,
    ...(prev && { prev: { stream: prev.stream, inc: prev.inc } }),
    ...members,
  };
}

/** @param value what `openSealed` gave. @throws {SyntaxInvalid} @throws {LimitExceeded} */
export function parseTelemetry(value: unknown): TelemetryMessage {
  const fields = new JsonField(value, "telemetry").object();
  const version = fields.at("v").integer(TELEMETRY_VERSION, DEFLATED_VERSION);
  const seq = fields.at("seq").integer(1, MAX_SEQ);
  const prev = fields.optional("prev");
  const position: StreamPosition = {
    ...parseLife(fields),
    class: fields.at("class").oneOf(READING_CLASSES),
    seq,
    ...(prev && { prev: parseLife(prev.object()) }),
  };
  const gap = fields.optional("gap");
  if (!gap) return { type: "pack", ...position, ...parsePackMembers(fields, version === DEFLATED_VERSION) };
  for (const name of ["senml", "deflate", "undated"]) fields.optional(name)?.refuse("either senml or gap, not both");
  return { type: "gap", ...position, gap: parseGap(gap, seq) };
}

/** `stream` and `inc`, as they stand in telemetry and in receipts. */
export function parseLife(fields: JsonFields): StreamLife {
  return { stream: parseId(fields.at("stream")), inc: fields.at("inc").integer(1, Number.MAX_SAFE_INTEGER) };
}

/** How a map or a log names a life. */
export const lifeText = ({ stream, inc }: StreamLife): string => `${stream}/${inc}`;

const parseId = (field: JsonField): string =>
  field.text({ max: 32, pattern: ID, expected: "32 lower-case hex digits" });

function packMembers({ readings, undated, recovered }: TelemetryPack, deflate: boolean): JsonObject {
  const senml = formatPack(readings);
  const text = deflate ? deflated(senml) : undefined;
  return {
    ...(undated && { undated: { boot: undated.boot, timeFrom: undated.timeFrom, timeTo: undated.timeTo } }),
    ...(recovered && { recovered }),
    ...(text === undefined ? { senml } : { deflate: text }),
  };
}

function parsePackMembers(
  fields: JsonFields,
  isDeflated: boolean,
): Pick<TelemetryPack, "readings" | "undated" | "recovered"> {
  const undated = fields.optional("undated");
  const recovered = fields.optional("recovered")?.boolean() ?? false;
  return {
    readings: parsePack(isDeflated ? inflated(fields.at("deflate"), `${fields.path}.senml`) : fields.at("senml")),
    ...(undated && { undated: parseUndated(undated.object()) }),
    ...(recovered && { recovered }),
  };
}

function parseUndated(fields: JsonFields): Undated {
  const timeFrom = fields.at("timeFrom").integer(MIN_TIME_MS, MAX_TIME_MS);
  return { boot: parseId(fields.at("boot")), timeFrom, timeTo: fields.at("timeTo").integer(timeFrom, MAX_TIME_MS) };
}
