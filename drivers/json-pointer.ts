import { SyntaxInvalid } from "../core/errors.js";

/** A parsed JSON pointer (RFC 6901): the names on the way in; none means the whole value. */
export type JsonPointer = readonly string[];

/** @throws {SyntaxInvalid} unless the text is empty or begins with `/` and escapes `~` properly (RFC 6901, 3). */
export function parsePointer(text: string): JsonPointer {
  if (text === "") return [];
  if (!text.startsWith("/") || /~(?![01])/u.test(text)) throw new SyntaxInvalid('expected a JSON pointer such as "/t"');
  return text
    .slice(1)
    .split("/")
    .map((name) => name.replaceAll("~1", "/").replaceAll("~0", "~"));
}

/** What the pointer points at, or `undefined` when there is nothing. Inherited properties are not there. */
export function valueAt(value: unknown, pointer: JsonPointer): unknown {
  let at = value;
  for (const name of pointer) {
    if (typeof at !== "object" || at === null || !Object.hasOwn(at, name)) return undefined;
    at = (at as Record<string, unknown>)[name];
  }
  return at;
}
