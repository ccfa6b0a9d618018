import * as v from "valibot";
import type { Reading } from "../../core/driver.js";
import type { SenmlReading } from "../../messages/senml.js";
import type { ReadingRow } from "./stream-rows.js";

/** `[name, unit or null, value]`, a third shorter than an object. */
export function bodyOf({ name, unit, value }: Reading): string {
  return JSON.stringify([name, unit ?? null, value]);
}

const bodySchema = v.tuple([v.string(), v.nullable(v.string()), v.union([v.number(), v.string(), v.boolean()])]);

/** @param bootMs the earliest that the boot of a reading without a date can have begun. */
export function readingOf({ body, timeMs, monotonicMs }: ReadingRow, bootMs: number): SenmlReading {
  const [name, unit, value] = v.parse(bodySchema, JSON.parse(body));
  return { name, ...(unit !== null && { unit }), value, timeMs: timeMs ?? bootMs + (monotonicMs ?? 0) };
}
