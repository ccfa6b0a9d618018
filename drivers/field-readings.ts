import type { Reading, ReadingClass, ReadingDescription } from "../core/driver.js";
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

/** What a driver declares of a field; its type is the device's. */
export function describeField({ name, unit, class: readingClass }: Field): ReadingDescription {
  return { name, class: readingClass, ...(unit === undefined ? {} : { unit }) };
}

const MAX_TEXT = 1024;

/** The readings that a message has; fields that are missing, or are no number, text or truth value, give none. */
export function fieldReadings(message: unknown, fields: readonly Field[], timeMs: number): Reading[] {
  const readings: Reading[] = [];
  for (const { pointer, name, unit, class: readingClass, scale, offset } of fields) {
    const value = readingValue(valueAt(message, pointer), scale, offset);
    if (value === undefined) continue;
    // Two literals: a spread would take half of the time of a line.
    if (unit === undefined) readings.push({ name, value, timeMs, class: readingClass });
    else readings.push({ name, value, timeMs, class: readingClass, unit });
  }
  return readings;
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
