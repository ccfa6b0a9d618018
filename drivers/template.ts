import { CommandRefused } from "../core/command-errors.js";
import { SyntaxInvalid } from "../core/errors.js";

const PLACEHOLDER = /\{(?<name>[A-Za-z0-9_]+)\}/gu;
const CONTROL = /[\u0000-\u001f\u007f]/u;

export type Values = Readonly<Record<string, unknown>>;

/**
 * What a command sends. A text that is JSON is filled as JSON: the string `"{on}"` becomes the argument with its type,
 * and nothing in an argument can leave its place. Any other text takes arguments as they print, without control
 * characters, so that an argument cannot begin a second line.
 */
export type Template =
  | { readonly kind: "text"; readonly text: string; readonly names: readonly string[] }
  | { readonly kind: "json"; readonly value: unknown; readonly names: readonly string[] };

/** @throws {SyntaxInvalid} on text that begins as JSON but is not JSON. */
export function parseTemplate(text: string): Template {
  const names = namesIn(text);
  if (!/^\s*[[{]\s*["{[\]}]/u.test(text)) return { kind: "text", text, names };
  try {
    return { kind: "json", value: JSON.parse(text) as unknown, names };
  } catch (cause) {
    throw new SyntaxInvalid('expected JSON with placeholders in quotes, such as {"on":"{on}"}', { cause });
  }
}

/** The names of a text's placeholders. */
export function namesIn(text: string): string[] {
  return [...new Set(Array.from(text.matchAll(PLACEHOLDER), (match) => match.groups?.["name"] ?? ""))];
}

/** @throws {CommandRefused} when a value is missing or does not fit into a text. */
export function fill(template: Template, values: Values): string {
  return template.kind === "text" ? fillText(template.text, values) : JSON.stringify(fillJson(template.value, values));
}

/** @throws {CommandRefused} when a value is missing, is no scalar, or has control characters. */
export function fillText(text: string, values: Values): string {
  return text.replace(PLACEHOLDER, (_, name: string) => {
    const value = valueOf(name, values);
    if (typeof value !== "string" && typeof value !== "number" && typeof value !== "boolean") {
      throw new CommandRefused(`${name}: expected text, a number or true or false`);
    }
    const printed = String(value);
    if (CONTROL.test(printed)) throw new CommandRefused(`${name}: expected no control characters`);
    return printed;
  });
}

function fillJson(value: unknown, values: Values): unknown {
  if (typeof value === "string") {
    const whole = /^\{(?<name>[A-Za-z0-9_]+)\}$/u.exec(value)?.groups?.["name"];
    return whole === undefined ? fillText(value, values) : valueOf(whole, values);
  }
  if (Array.isArray(value)) return value.map((item: unknown) => fillJson(item, values));
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, fillJson(item, values)]));
}

function valueOf(name: string, values: Values): unknown {
  const value = Object.hasOwn(values, name) ? values[name] : undefined;
  if (value === undefined) throw new CommandRefused(`${name}: expected a value`);
  return value;
}
