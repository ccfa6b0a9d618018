import * as v from "valibot";
import { fromUtf8, utf8 } from "../../core/bytes.js";
import type { CommandDescription, Reading, ReadingDescription } from "../../core/driver.js";
import { SyntaxInvalid } from "../../core/errors.js";

const name = v.pipe(v.string(), v.regex(/^[A-Za-z0-9][-A-Za-z0-9:./_]{0,99}$/u));

const unit = v.pipe(v.string(), v.regex(/^[A-Za-z0-9%/][A-Za-z0-9%/-]{0,11}$/u));

const reading = v.strictObject({
  name,
  value: v.union([v.pipe(v.number(), v.finite()), v.boolean(), v.pipe(v.string(), v.maxLength(1024))]),
  unit: v.exactOptional(unit),
  timeMs: v.exactOptional(v.pipe(v.number(), v.finite(), v.minValue(0))),
  class: v.exactOptional(v.picklist(["alarm", "event", "measurement"])),
});

const command = v.strictObject({
  name: v.pipe(v.string(), v.regex(/^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$/u)),
  idempotent: v.optional(v.boolean(), false),
  argsSchema: v.exactOptional(v.record(v.string(), v.unknown())),
  readBack: v.exactOptional(v.string()),
});

/** A reading that the program may give; `*` stands for a part that is not known before. */
const declared = v.strictObject({
  name: v.pipe(v.string(), v.regex(/^[A-Za-z0-9*][-A-Za-z0-9:./_*]{0,99}$/u)),
  unit: v.exactOptional(unit),
  type: v.exactOptional(v.picklist(["number", "string", "boolean"])),
  class: v.exactOptional(v.picklist(["alarm", "event", "measurement"])),
});

const id = v.pipe(v.number(), v.safeInteger());

/** What a program may say, one of these a line. */
const message = v.union([
  v.strictObject({
    commands: v.pipe(v.array(command), v.maxLength(100)),
    gives: v.exactOptional(v.pipe(v.array(declared), v.maxLength(1000))),
  }),
  v.strictObject({ readings: v.pipe(v.array(reading), v.minLength(1), v.maxLength(1000)), n: v.exactOptional(id) }),
  v.strictObject({ answer: id, result: v.unknown() }),
  v.strictObject({ answer: id, refused: v.pipe(v.string(), v.maxLength(1000)) }),
  v.strictObject({ answer: id, uncertain: v.pipe(v.string(), v.maxLength(1000)) }),
  v.strictObject({ gone: v.pipe(v.string(), v.maxLength(1000)) }),
]);

export interface ExecAnswer {
  readonly answer: number;
  readonly result?: unknown;
  readonly refused?: string;
  readonly uncertain?: string;
}

/** What it takes and, when it says so, all that it may give. */
export interface ExecDeclaration {
  readonly commands: readonly CommandDescription[];
  readonly gives?: readonly ReadingDescription[];
}

export type ExecMessage =
  | ExecDeclaration
  | { readonly readings: readonly Reading[]; readonly n?: number }
  | ExecAnswer
  | { readonly gone: string };

/** @throws {SyntaxInvalid} on a line that is none of the messages. */
export function parseExecMessage(line: Uint8Array): ExecMessage {
  let value: unknown;
  try {
    value = JSON.parse(fromUtf8(line));
  } catch (cause) {
    throw new SyntaxInvalid("expected a JSON object a line", { cause });
  }
  const parsed = v.safeParse(message, value);
  if (parsed.success) return parsed.output;
  const keys = typeof value === "object" && value !== null ? Object.keys(value).slice(0, 5).join(", ") : "none";
  throw new SyntaxInvalid(`expected {"commands"}, {"readings"}, {"answer"} or {"gone"}, got an object with ${keys}`);
}

/** What a program is told. */
export type ExecRequest =
  | { readonly call: number; readonly command: string; readonly args: Readonly<Record<string, unknown>> }
  | { readonly ack: number };

export const formatExecRequest = (request: ExecRequest): Buffer => utf8(`${JSON.stringify(request)}\n`);
