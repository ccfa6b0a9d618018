import type { ReadingClass } from "../../core/driver.js";
import { SyntaxInvalid } from "../../core/errors.js";
import { type CborInput, type CborValue, decodeCbor, encodeCbor } from "../cbor.js";

/** docs/reference/link.md, section 4. */
export interface BoardReading {
  readonly name: string;
  readonly value: number | string | boolean;
  /** The board's uptime in ms, modulo 2^32, when it was taken. */
  readonly atMs: number;
  readonly unit: string | undefined;
  readonly class: ReadingClass;
}

export interface BoardCommand {
  readonly name: string;
  readonly idempotent: boolean;
  /** A JSON Schema, as text. */
  readonly argsSchema: string | undefined;
}

export type BoardMessage =
  | { readonly kind: "readings"; readonly id: number; readonly readings: readonly BoardReading[] }
  | {
      readonly kind: "answer";
      readonly id: number;
      readonly status: "done" | "refused" | "unknown";
      readonly result: CborValue;
    }
  | { readonly kind: "uptime"; readonly token: number; readonly uptimeMs: number }
  | { readonly kind: "log"; readonly level: number; readonly text: string }
  | {
      readonly kind: "info";
      readonly version: string;
      readonly hardware: string;
      readonly resetReason: number;
      readonly uptimeMs: number;
      readonly commands: readonly BoardCommand[];
    }
  | {
      readonly kind: "updated";
      readonly operation: number;
      readonly code: number;
      readonly result: readonly CborValue[];
    };

const CLASSES: readonly ReadingClass[] = ["measurement", "event", "alarm"];
const STATUSES = ["done", "refused", "unknown"] as const;
/** RFC 8428, 4.5.1. */
const READING_NAME = /^[A-Za-z0-9][-A-Za-z0-9:./_]{0,99}$/u;
const COMMAND_NAME = /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$/u;

/**
 * A message from the board; `undefined` when its kind is not known to this version.
 *
 * @throws {SyntaxInvalid} that says which element is wrong.
 */
export function parseBoardMessage(bytes: Uint8Array): BoardMessage | undefined {
  const [kind, ...elements] = list(decodeCbor(bytes), "message");
  const read = new Elements(elements);
  switch (kind) {
    case 1:
      return { kind: "readings", id: read.uint32("id"), readings: read.list("readings").map(reading) };
    case 3: {
      const id = read.uint32("id");
      return { kind: "answer", id, status: read.oneOf("status", STATUSES), result: read.next() ?? null };
    }
    case 6:
      return { kind: "uptime", token: read.uint32("token"), uptimeMs: read.uint32("uptime") };
    case 7:
      return { kind: "log", level: read.uint32("level"), text: read.text("text") };
    case 8:
      return {
        kind: "info",
        version: read.text("version"),
        hardware: read.text("hardware"),
        resetReason: read.uint32("reset reason"),
        uptimeMs: read.uint32("uptime"),
        commands: read.list("commands").map(command),
      };
    case 10:
      return { kind: "updated", operation: read.uint32("operation"), code: read.uint32("code"), result: read.rest() };
    default:
      return undefined;
  }
}

class Elements {
  readonly #items: CborValue[];

  constructor(items: readonly CborValue[]) {
    this.#items = [...items];
  }

  next(): CborValue | undefined {
    return this.#items.shift();
  }

  rest(): readonly CborValue[] {
    return this.#items.splice(0);
  }

  uint32(name: string): number {
    const value = this.next();
    if (typeof value === "number" && Number.isInteger(value) && value >= 0 && value <= 0xffffffff) return value;
    throw new SyntaxInvalid(`${name}: expected an integer of 0 to 2^32 - 1`);
  }

  text(name: string): string {
    const value = this.next();
    if (typeof value === "string") return value;
    throw new SyntaxInvalid(`${name}: expected a text`);
  }

  optionalText(name: string): string | undefined {
    const value = this.next() ?? undefined;
    if (value === undefined || typeof value === "string") return value;
    throw new SyntaxInvalid(`${name}: expected a text or null`);
  }

  boolean(name: string): boolean {
    const value = this.next();
    if (typeof value === "boolean") return value;
    throw new SyntaxInvalid(`${name}: expected true or false`);
  }

  list(name: string): readonly CborValue[] {
    return list(this.next(), name);
  }

  oneOf<T>(name: string, values: readonly T[]): T {
    const value = values[this.uint32(name)];
    if (value === undefined) throw new SyntaxInvalid(`${name}: expected 0 to ${values.length - 1}`);
    return value;
  }
}

function list(value: CborValue | undefined, name: string): readonly CborValue[] {
  if (Array.isArray(value)) return value as readonly CborValue[];
  throw new SyntaxInvalid(`${name}: expected an array`);
}

function reading(value: CborValue, index: number): BoardReading {
  const read = new Elements(list(value, `readings[${index}]`));
  const name = read.text(`readings[${index}] name`);
  if (!READING_NAME.test(name)) throw new SyntaxInvalid(`readings[${index}]: not a SenML name`);
  const taken = readingValue(read.next(), index);
  const atMs = read.uint32(`readings[${index}] at`);
  const unit = read.optionalText(`readings[${index}] unit`);
  return { name, value: taken, atMs, unit, class: read.oneOf(`readings[${index}] class`, CLASSES) };
}

function readingValue(value: CborValue | undefined, index: number): BoardReading["value"] {
  if (typeof value === "bigint") return Number(value);
  if (typeof value === "string" || typeof value === "boolean") return value;
  if (typeof value === "number" && Number.isFinite(value)) return value;
  throw new SyntaxInvalid(`readings[${index}]: a value is a finite number, a text, true or false`);
}

function command(value: CborValue, index: number): BoardCommand {
  const read = new Elements(list(value, `commands[${index}]`));
  const name = read.text(`commands[${index}] name`);
  if (!COMMAND_NAME.test(name)) throw new SyntaxInvalid(`commands[${index}]: not a command name`);
  const idempotent = read.boolean(`commands[${index}] idempotent`);
  return { name, idempotent, argsSchema: read.optionalText(`commands[${index}] schema`) };
}

export const formatCommand = (
  id: number,
  name: string,
  args: Readonly<Record<string, CborInput>>,
  deadlineMs: number,
) => encodeCbor([2, id, name, args, deadlineMs]);
export const formatReceipt = (id: number) => encodeCbor([4, id]);
export const formatTime = (epochMs: number, token: number) => encodeCbor([5, epochMs, token]);
export const formatUpdate = (operation: number, ...fields: readonly CborInput[]) =>
  encodeCbor([9, operation, ...fields]);

/** What a caller may send as JSON, as CBOR takes it. @throws {SyntaxInvalid} */
export function jsonToCbor(value: unknown, where = "args"): CborInput {
  if (value === null || typeof value === "string" || typeof value === "boolean" || typeof value === "number")
    return value;
  if (Array.isArray(value)) return value.map((item, index) => jsonToCbor(item, `${where}[${index}]`));
  if (typeof value === "object") {
    return new Map(Object.entries(value).map(([key, item]) => [key, jsonToCbor(item, `${where}.${key}`)]));
  }
  throw new SyntaxInvalid(`${where}: expected JSON`);
}

/** An answer as JSON: maps become objects, byte strings base64. */
export function cborToJson(value: CborValue): unknown {
  if (typeof value === "bigint") return Number(value);
  if (value instanceof Uint8Array) return Buffer.from(value).toString("base64");
  if (value instanceof Map) {
    return Object.fromEntries(
      [...(value as ReadonlyMap<string, CborValue>)].map(([key, item]) => [key, cborToJson(item)]),
    );
  }
  if (Array.isArray(value)) return (value as readonly CborValue[]).map(cborToJson);
  return value;
}
