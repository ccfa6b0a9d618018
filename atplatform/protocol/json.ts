import { SyntaxInvalid } from "../../core/errors.js";

/** JSON text of a peer. @throws {SyntaxInvalid} naming what it should have been. */
export function parseJson(text: string, what: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch (cause) {
    throw new SyntaxInvalid(`${what}: expected JSON`, { cause });
  }
}

/** The members of a JSON object, safe to look up whatever their names. @throws {SyntaxInvalid} */
export function membersOf(value: unknown, what: string): ReadonlyMap<string, unknown> {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new SyntaxInvalid(`${what}: expected a JSON object`);
  }
  return new Map(Object.entries(value));
}

/** @throws {SyntaxInvalid} */
export function arrayOf(value: unknown, what: string): readonly unknown[] {
  if (!Array.isArray(value)) throw new SyntaxInvalid(`${what}: expected a JSON array`);
  return value;
}

/** A string member; `undefined` when it is absent, null or the text `null`, which Dart servers send for it. */
export function textIn(members: ReadonlyMap<string, unknown>, name: string): string | undefined {
  const value = members.get(name);
  return typeof value === "string" && value !== "null" ? value : undefined;
}

/** A safe integer, as number or as text. */
export function integerIn(members: ReadonlyMap<string, unknown>, name: string): number | undefined {
  const value = members.get(name);
  const number = typeof value === "string" && /^-?\d{1,16}$/u.test(value) ? Number(value) : value;
  return typeof number === "number" && Number.isSafeInteger(number) ? number : undefined;
}

/** A boolean, as such or as text. */
export function booleanIn(members: ReadonlyMap<string, unknown>, name: string): boolean | undefined {
  const value = members.get(name);
  if (typeof value === "boolean") return value;
  return value === "true" ? true : value === "false" ? false : undefined;
}

/** @throws {SyntaxInvalid} when there is none. */
export function required<Value>(value: Value | undefined, what: string): Value {
  if (value === undefined) throw new SyntaxInvalid(`${what}: missing, or of an unexpected kind`);
  return value;
}
