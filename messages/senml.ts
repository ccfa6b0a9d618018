import { LimitExceeded, SyntaxInvalid } from "../core/errors.js";
import { JsonField, MAX_TIME_MS, type JsonFields, type JsonObject } from "./json-field.js";

/** A reading with its absolute time. */
export interface SenmlReading {
  readonly name: string;
  readonly unit?: string;
  readonly value: number | string | boolean;
  /** Milliseconds since 1970, a whole number. */
  readonly timeMs: number;
}

/** RFC 8428, 4.5.3: smaller SenML times (2^28 seconds, in 1978) would be relative to the reader's now. */
export const MIN_TIME_MS = 2 ** 28 * 1000;
export const MAX_PACK_RECORDS = 1024;
export const MAX_NAME_LENGTH = 128;
export const MAX_UNIT_LENGTH = 32;
export const MAX_VALUE_LENGTH = 8192;

const NAME = /^[A-Za-z0-9][A-Za-z0-9\-:./_]*$/u;
const NAME_PART = /^[A-Za-z0-9\-:./_]*$/u;
// Anything that can be printed: the registry's units are ASCII, but people configure their own.
const UNIT = /^[^\p{C}]+$/u;
const VERSION = 10;

/**
 * Refuses a reading that no pack can carry. To be asked before a reading is accepted: one that is in the outbox must
 * never turn out to be unsendable.
 *
 * @throws {SyntaxInvalid} @throws {LimitExceeded}
 */
export function checkReading({ name, unit, value, timeMs }: SenmlReading, path = "reading"): void {
  new JsonField(name, `${path}.name`).text({ max: MAX_NAME_LENGTH, pattern: NAME, expected: "a SenML name" });
  if (unit !== undefined) new JsonField(unit, `${path}.unit`).text(unitLimits);
  const field = new JsonField(value, `${path}.value`);
  if (typeof value === "number") field.number();
  else if (typeof value === "string") field.text({ max: MAX_VALUE_LENGTH });
  else field.boolean();
  new JsonField(timeMs, `${path}.timeMs`).integer(MIN_TIME_MS, MAX_TIME_MS);
}

/**
 * A SenML pack (RFC 8428) of the readings in their order. What all share goes into the first record where that is
 * shorter: `bn` the longest common start of the names, `bu` the unit, `bt` the first time.
 *
 * @throws what {@link checkReading} throws, or for none or too many readings.
 */
export function formatPack(readings: readonly SenmlReading[], path = "senml"): JsonObject[] {
  if (readings.length > MAX_PACK_RECORDS) throw new LimitExceeded(`${path}: more than ${MAX_PACK_RECORDS} readings`);
  readings.forEach((reading, index) => checkReading(reading, `${path}[${index}]`));
  const [first] = readings;
  if (!first) throw new SyntaxInvalid(`${path}: expected at least 1 reading`);

  const many = readings.length > 1;
  const start = commonStart(readings.map(({ name }) => name));
  // Each record but one saves the start; the base costs `"bn":"",` once.
  const baseName = start.length * (readings.length - 1) > 8 ? start : "";
  const baseUnit = many && readings.every(({ unit }) => unit === first.unit) ? first.unit : undefined;
  const baseMs = many ? first.timeMs : 0;

  return readings.map(({ name, unit, value, timeMs }, index) => {
    const rest = name.slice(baseName.length);
    const offsetMs = timeMs - baseMs;
    return {
      ...(index === 0 && baseName !== "" && { bn: baseName }),
      ...(index === 0 && many && { bt: baseMs / 1000 }),
      ...(index === 0 && baseUnit !== undefined && { bu: baseUnit }),
      ...(rest !== "" && { n: rest }),
      ...(baseUnit === undefined && unit !== undefined && { u: unit }),
      ...valueMember(value),
      ...(offsetMs !== 0 && { t: offsetMs / 1000 }),
    };
  });
}

/**
 * The readings of a pack, resolved (RFC 8428, 4.6): absolute names and times. Members that are not known are ignored,
 * unless their name ends in `_`, which means "must be understood" (4.4).
 *
 * Sums (`s`, `bs`) and binary values (`vd`) are refused: a reading has no place for them. Update times (`ut`) are read
 * over.
 *
 * @throws {SyntaxInvalid} @throws {LimitExceeded}
 */
export function parsePack(pack: JsonField): SenmlReading[] {
  const base: Base = { name: "", timeMs: 0, unit: undefined, value: undefined };
  return pack.array({ min: 1, max: MAX_PACK_RECORDS }).map((record) => resolve(record.object(), base));
}

/** The base members in force (4.1): each holds from the record that has it up to the next that has it again. */
interface Base {
  name: string;
  timeMs: number;
  unit: string | undefined;
  value: number | undefined;
}

const VALUES = ["v", "vs", "vb"];
const NOT_CARRIED = ["vd", "s", "bs"];
const unitLimits = { max: MAX_UNIT_LENGTH, pattern: UNIT, expected: "a unit" };

function resolve(fields: JsonFields, base: Base): SenmlReading {
  for (const name of fields.names()) {
    if (name.endsWith("_")) fields.at(name).refuse("only members that this version understands");
    if (NOT_CARRIED.includes(name)) fields.at(name).refuse("no sum and no binary value");
  }
  const version = fields.optional("bver");
  if (version && version.value !== VERSION) version.refuse(`SenML version ${VERSION}`);
  base.name = fields.optional("bn")?.text(namePartLimits) ?? base.name;
  base.unit = fields.optional("bu")?.text(unitLimits) ?? base.unit;
  base.value = fields.optional("bv")?.number() ?? base.value;
  const baseTime = fields.optional("bt");
  if (baseTime) base.timeMs = millisecondsOf(baseTime);

  const name = base.name + (fields.optional("n")?.text(namePartLimits) ?? "");
  if (name.length > MAX_NAME_LENGTH || !NAME.test(name)) new JsonField(name, `${fields.path}.n`).refuse("a SenML name");
  const unit = fields.optional("u")?.text(unitLimits) ?? base.unit;
  const time = fields.optional("t");
  const timeMs = base.timeMs + (time ? millisecondsOf(time) : 0);
  if (timeMs < MIN_TIME_MS || timeMs > MAX_TIME_MS)
    (time ?? baseTime ?? new JsonField(undefined, `${fields.path}.t`)).refuse("an absolute time from 2^28 seconds");
  return { name, ...(unit !== undefined && { unit }), value: valueOf(fields, base), timeMs };
}

const namePartLimits = { max: MAX_NAME_LENGTH, pattern: NAME_PART, expected: "a part of a SenML name" };

function valueOf(fields: JsonFields, base: Base): SenmlReading["value"] {
  const given = VALUES.filter((name) => fields.optional(name));
  if (given.length > 1) fields.at(given[1] ?? "").refuse("one value in a record");
  const text = fields.optional("vs")?.text({ max: MAX_VALUE_LENGTH });
  if (text !== undefined) return text;
  const flag = fields.optional("vb")?.boolean();
  if (flag !== undefined) return flag;
  const value = fields.optional("v");
  if (!value && base.value === undefined) fields.at("v");
  const sum = (base.value ?? 0) + (value?.number() ?? 0);
  return new JsonField(sum, `${fields.path}.v`).number();
}

/** Milliseconds are exact both ways: a double holds every millisecond of these years, and three digits come back. */
function millisecondsOf(seconds: JsonField): number {
  const ms = Math.round(seconds.number() * 1000);
  return Math.abs(ms) <= MAX_TIME_MS ? ms + 0 : seconds.refuse("a time before the year 10000");
}

function valueMember(value: SenmlReading["value"]): JsonObject {
  if (typeof value === "string") return { vs: value };
  return typeof value === "boolean" ? { vb: value } : { v: value };
}

function commonStart(names: readonly string[]): string {
  const [first = "", ...others] = names;
  let length = first.length;
  for (const other of others) {
    let same = 0;
    while (same < length && other[same] === first[same]) same += 1;
    length = same;
  }
  return first.slice(0, length);
}
