import type { Reading, ReadingClass } from "../core/driver.js";
import { valueAt, type JsonPointer } from "./json-pointer.js";

/** How one value of a decoded message becomes a reading. */
export interface Field {
  readonly pointer: JsonPointer;
  readonly name: string;
  readonly unit?: string | undefined;
  readonly class: ReadingClass;
  readonly scale: number;
  readonly offset: number;
}

const MAX_TEXT = 1024;

/** The readings that a message has; fields that are missing, or are no number, text or truth value, give none. */
export function fieldReadings(message: unknown, fields: readonly Field[], timeMs: number): Reading[] {
  return fields.flatMap((field) => {
    const value = readingValue(valueAt(message, field.pointer), field.scale, field.offset);
    return value === undefined ? [] : [fieldReading(field, value, timeMs)];
  });
}

function fieldReading(field: Field, value: Reading["value"], timeMs: number): Reading {
  return {
    name: field.name,
    value,
    timeMs,
    class: field.class,
    ...(field.unit === undefined ? {} : { unit: field.unit }),
  };
}

/** The value as readings have it, or `undefined`: numbers finite, texts of at most 1,024 characters. */
export function readingValue(value: unknown, scale = 1, offset = 0): Reading["value"] | undefined {
  if (typeof value === "boolean") return value;
  if (typeof value === "string") return value.length <= MAX_TEXT ? value : undefined;
  if (typeof value !== "number") return undefined;
  const scaled = value * scale + offset;
  return Number.isFinite(scaled) ? scaled : undefined;
}

/** Makes a text from outside fit to be part of a SenML name (RFC 8428, 4.5.1). */
export function namePart(text: string): string {
  const fitting = text.replaceAll(/[^-A-Za-z0-9:./_]/gu, "_").slice(0, 64);
  return /^[A-Za-z0-9]/u.test(fitting) ? fitting : `x${fitting}`;
}
