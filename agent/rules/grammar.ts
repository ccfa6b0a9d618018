import { SyntaxInvalid } from "../../core/errors.js";

/**
 * A rule's one sentence:
 *
 *     when NAME OPERATOR VALUE [for DURATION] [until OPERATOR VALUE] then TARGET/COMMAND
 *
 * e.g. `when temperature.north > 30 for 60s until < 28 then vent/open`. OPERATOR is one of > >= < <= == !=, VALUE a
 * number, `true`, `false` or a text in double quotes, DURATION a number with ms, s, min or h.
 */
export interface Rule {
  /** Of a reading, as the device's readers see it. */
  readonly reading: string;
  readonly when: Comparison;
  /** How long it must hold without a break. */
  readonly forMs: number;
  /** What must be seen before the rule can fire again; left out: that `when` does not hold. */
  readonly until: Comparison | undefined;
  readonly target: string;
  readonly command: string;
}

export interface Comparison {
  readonly operator: Operator;
  readonly value: number | boolean | string;
}

const OPERATORS = [">=", "<=", "==", "!=", ">", "<"] as const;
export type Operator = (typeof OPERATORS)[number];

const UNIT_MS: Readonly<Record<string, number>> = { ms: 1, s: 1000, min: 60_000, h: 3_600_000 };
const MAX_FOR_MS = 7 * 24 * 3_600_000;

/** The rule does not follow the grammar; `column` counts from 1. */
export class RuleInvalid extends SyntaxInvalid {
  readonly column: number;

  constructor(expected: string, column: number, got: string) {
    super(`column ${column}: expected ${expected}, got ${got === "" ? "the end" : JSON.stringify(got.slice(0, 20))}`);
    this.column = column;
  }
}

/** @throws {RuleInvalid} */
export function parseRule(text: string): Rule {
  const words = new Words(text);
  words.keyword("when");
  const reading = words.take(/[A-Za-z0-9][-A-Za-z0-9:./_]*/uy, "the name of a reading");
  const when = words.comparison();
  const forMs = words.optional("for") ? words.duration() : 0;
  const until = words.optional("until") ? words.comparison() : undefined;
  words.keyword("then");
  const [target = "", command = ""] = words
    .take(/[A-Za-z0-9][A-Za-z0-9._-]*\/[A-Za-z0-9][A-Za-z0-9._-]*/uy, "target/command")
    .split("/");
  words.end();
  return { reading, when, forMs, until, target, command };
}

/** Reads word after word; blanks between them do not matter. */
class Words {
  readonly #text: string;
  #at = 0;

  constructor(text: string) {
    this.#text = text;
  }

  keyword(word: string): void {
    if (!this.optional(word)) this.#refuse(`"${word}"`);
  }

  optional(word: string): boolean {
    return this.#match(new RegExp(`${word}(?=\\s|$)`, "uy")) !== undefined;
  }

  take(pattern: RegExp, expected: string): string {
    return this.#match(pattern) ?? this.#refuse(expected);
  }

  comparison(): Comparison {
    const found = this.take(/[<>]=?|[=!]=/uy, "> >= < <= == or !=");
    const operator = OPERATORS.find((known) => known === found) ?? this.#refuse("an operator");
    const start = this.#skipBlanks();
    const text = this.take(
      /"(?:[^"\\]|\\.)*"|true|false|[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?/uy,
      "a number, true, false or a text",
    );
    const value: unknown = text.startsWith("+") ? Number(text) : jsonOf(text);
    if (typeof value !== "number" && typeof value !== "boolean" && typeof value !== "string")
      return this.#refuse("a number, true, false or a text", start);
    if (typeof value !== "number" && operator !== "==" && operator !== "!=")
      return this.#refuse("a number after this operator", start);
    return { operator, value };
  }

  duration(): number {
    const start = this.#skipBlanks();
    const text = this.take(/\d+(?:\.\d+)?(?:ms|min|s|h)(?![A-Za-z])/uy, "a duration such as 60s, 5min or 1h");
    const ms = parseFloat(text) * (UNIT_MS[text.replaceAll(/[\d.]/gu, "")] ?? NaN);
    return ms <= MAX_FOR_MS ? ms : this.#refuse("7 days at most", start);
  }

  end(): void {
    if (this.#skipBlanks() < this.#text.length) this.#refuse("the end");
  }

  #skipBlanks(): number {
    while (this.#at < this.#text.length && /\s/u.test(this.#text.charAt(this.#at))) this.#at += 1;
    return this.#at;
  }

  #match(pattern: RegExp): string | undefined {
    pattern.lastIndex = this.#skipBlanks();
    const found = pattern.exec(this.#text)?.[0];
    if (found !== undefined) this.#at += found.length;
    return found;
  }

  #refuse(expected: string, at = this.#skipBlanks()): never {
    throw new RuleInvalid(expected, at + 1, /^\S*/u.exec(this.#text.slice(at))?.[0] ?? "");
  }
}

function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined; // a number such as 007, a text with a wrong escape
  }
}
