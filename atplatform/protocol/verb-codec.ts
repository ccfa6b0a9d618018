import { SyntaxInvalid } from "../../core/errors.js";

/**
 * One verb of the atProtocol for both ends: the client formats, the atServer parses, and the round trip is the identity.
 *
 * A line has no line end. `format` refuses a field that the grammar does not allow at its place, so no field can smuggle
 * in an option or a second command.
 */
export interface VerbCodec<Command> {
  /** What an atServer says after `Invalid syntax. ` (atserver.md, 7.3), newlines replaced by blanks. */
  readonly usage: string;
  /** @throws {SyntaxInvalid} */
  format(command: Command): string;
  /**
   * Takes a line as `normaliseCommand` gives it.
   *
   * @throws {CommandInvalid} whose message and `atCode` are what an atServer answers.
   * @throws {AtSignInvalid} AT0011.
   */
  parse(line: string): Command;
}

/** A command that an atServer refuses before it is carried out. */
export class CommandInvalid extends SyntaxInvalid {
  override readonly code: string = "COMMAND_INVALID";
  /** AT0003, unless the form is right and an argument is not. */
  readonly atCode: "AT0003" | "AT0022";

  constructor(message: string, atCode: "AT0003" | "AT0022" = "AT0003", options?: ErrorOptions) {
    super(message, options);
    this.atCode = atCode;
  }
}

/** The refusal of a line that does not follow the grammar of its verb. */
export const badSyntax = (usage: string, options?: ErrorOptions): CommandInvalid =>
  new CommandInvalid(`Invalid syntax. ${usage}`, "AT0003", options);

/** Passes a field on when it fits the grammar. @throws {SyntaxInvalid} */
export function field(name: string, text: string, grammar: RegExp): string {
  if (!grammar.test(text))
    throw new SyntaxInvalid(`${name}: ${JSON.stringify(text.slice(0, 40))} does not fit the grammar`);
  return text;
}

/** A number for the wire. @throws {SyntaxInvalid} on anything but a safe integer in the range. */
export function integer(name: string, value: number, min = 0, max: number = Number.MAX_SAFE_INTEGER): string {
  if (Number.isSafeInteger(value) && value >= min && value <= max) return String(value);
  throw new SyntaxInvalid(`${name}: expected an integer from ${min} to ${max}, got ${value}`);
}

/**
 * The last step of every `format`.
 *
 * @throws {SyntaxInvalid} on a line end inside, and on white space at the end, which an atServer would take off.
 */
export function oneLine(line: string): string {
  if (/[\r\n]/u.test(line)) throw new SyntaxInvalid("a command must not contain a line end");
  if (line !== line.trimEnd())
    throw new SyntaxInvalid("a command must not end in white space: an atServer takes it off");
  return line;
}

/** The `str` of the grammars: no colon, no `@`, no white space. */
export const WORD = /^[^:@\s]+$/u;
