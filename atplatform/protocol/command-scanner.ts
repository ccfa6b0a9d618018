import { badSyntax } from "./verb-codec.js";

const WORD_END = /[:@\s]/gu;
const LABEL_END = /[:\s]/gu;

/**
 * Walks once over a command, left to right, without backtracking: time is linear in the line, whatever a peer sends.
 * Literals are compared without regard to case, as the reference atServer does.
 */
export class CommandScanner {
  readonly #line: string;
  readonly #usage: string;
  #at = 0;

  /** @throws {CommandInvalid} on a line end inside: an atServer reads that as one command, and refuses it. */
  constructor(line: string, usage: string) {
    this.#line = line;
    this.#usage = usage;
    if (line.includes("\n") || line.includes("\r")) this.refuse();
  }

  isDone(): boolean {
    return this.#at === this.#line.length;
  }

  /** The next character, or `""`. */
  peek(): string {
    return this.#line.charAt(this.#at);
  }

  refuse(options?: ErrorOptions): never {
    throw badSyntax(this.#usage, options);
  }

  /** Steps over the text if it comes next. */
  skip(text: string): boolean {
    const found = this.#line.slice(this.#at, this.#at + text.length);
    if (found.toLowerCase() !== text.toLowerCase()) return false;
    this.#at += text.length;
    return true;
  }

  /** @throws {CommandInvalid} if the text does not come next. */
  expect(text: string): void {
    if (!this.skip(text)) this.refuse();
  }

  /** One of the choices if it comes next and ends there: at the end, or before one of `:`, `@` and white space. */
  choice<Choice extends string>(prefix: string, choices: readonly Choice[]): Choice | undefined {
    return this.#attempt(() => {
      if (!this.skip(prefix)) return undefined;
      const word = this.word().toLowerCase();
      return choices.find((choice) => choice.toLowerCase() === word);
    });
  }

  /** The same, but only if a colon follows: otherwise the word is the name of a key. */
  choiceBeforeColon<Choice extends string>(prefix: string, choices: readonly Choice[]): Choice | undefined {
    return this.#attempt(() => {
      const choice = this.choice(prefix, choices);
      return this.peek() === ":" ? choice : undefined;
    });
  }

  /** Steps over the text if it comes next and a colon follows. */
  skipBeforeColon(text: string): boolean {
    return this.#attempt(() => (this.skip(text) && this.peek() === ":" ? true : undefined)) ?? false;
  }

  /** The value of an option `:name:value`, as {@link takeIf}. */
  option(name: string, accept: (value: string) => boolean): string | undefined {
    return this.takeIf(`:${name}:`, accept);
  }

  /** The word after the prefix, if that comes next and the word is accepted; otherwise nothing is read. */
  takeIf(prefix: string, accept: (word: string) => boolean): string | undefined {
    return this.#attempt(() => {
      if (!this.skip(prefix)) return undefined;
      const word = this.word();
      return word !== "" && accept(word) ? word : undefined;
    });
  }

  /** Characters up to a colon, an `@` or white space; may be empty. */
  word(): string {
    return this.#upTo(WORD_END);
  }

  /** Characters up to a colon or white space; may be empty. */
  label(): string {
    return this.#upTo(LABEL_END);
  }

  /** @throws {CommandInvalid} if no such character comes next. */
  expectWord(): string {
    return this.word() || this.refuse();
  }

  /** Everything up to the text, which is stepped over, too; `undefined`, and nothing read, when it does not come. */
  until(text: string): string | undefined {
    const end = this.#line.indexOf(text, this.#at);
    if (end === -1) return undefined;
    const found = this.#line.slice(this.#at, end);
    this.#at = end + text.length;
    return found;
  }

  /** What is left; may be empty. */
  rest(): string {
    const rest = this.#line.slice(this.#at);
    this.#at = this.#line.length;
    return rest;
  }

  /** @throws {CommandInvalid} if anything is left. */
  end(): void {
    if (!this.isDone()) this.refuse();
  }

  #upTo(end: RegExp): string {
    const from = this.#at;
    end.lastIndex = from;
    this.#at = end.exec(this.#line)?.index ?? this.#line.length;
    return this.#line.slice(from, this.#at);
  }

  #attempt<Found>(read: () => Found | undefined): Found | undefined {
    const from = this.#at;
    const found = read();
    if (found === undefined) this.#at = from;
    return found;
  }
}

/** A decimal without sign. `undefined` also for one that a JavaScript number does not hold exactly. */
export function parseUint(text: string): number | undefined {
  if (!/^\d{1,16}$/u.test(text)) return undefined;
  const value = Number(text);
  return Number.isSafeInteger(value) ? value : undefined;
}

/** The same with an optional minus sign. */
export function parseInt10(text: string): number | undefined {
  const value = parseUint(text.startsWith("-") ? text.slice(1) : text);
  return value !== undefined && text.startsWith("-") ? 0 - value : value;
}
