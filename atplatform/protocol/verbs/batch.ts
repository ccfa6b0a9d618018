import { SyntaxInvalid } from "../../../core/errors.js";
import { CommandScanner } from "../command-scanner.js";
import { arrayOf, integerIn, membersOf, parseJson, required, textIn } from "../json.js";
import { CommandInvalid, oneLine, type VerbCodec } from "../verb-codec.js";

export interface BatchCommand {
  readonly id: number;
  /** A line that `normaliseCommand` has not seen. */
  readonly command: string;
}

export interface Batch {
  readonly commands: readonly BatchCommand[];
}

/** `batch:[{"id":1,"command":"…"},…]`: commands that are carried out one after the other. */
export const batch: VerbCodec<Batch> = {
  usage:
    'e.g batch:[{"id":1, "commmand":"update:location@alice newyork"},{"id":2, "commmand":"delete:location@alice"}]',

  format: ({ commands }) =>
    oneLine(`batch:${JSON.stringify(commands.map(({ id, command }) => ({ id, command: oneLine(command) })))}`),

  parse(line) {
    const scanner = new CommandScanner(line, batch.usage);
    scanner.expect("batch:");
    const json = scanner.rest() || scanner.refuse();
    try {
      return { commands: arrayOf(parseJson(json, "batch"), "batch").map(parseBatchCommand) };
    } catch (cause) {
      if (cause instanceof SyntaxInvalid) throw new CommandInvalid(cause.message, "AT0022", { cause });
      throw cause;
    }
  },
};

function parseBatchCommand(value: unknown, index: number): BatchCommand {
  const members = membersOf(value, `batch[${index}]`);
  return {
    id: required(integerIn(members, "id"), `batch[${index}].id`),
    command: required(textIn(members, "command"), `batch[${index}].command`),
  };
}

/** What became of a command. `message` is the generic description of the code. */
export type BatchResult =
  | { readonly id: number; readonly data: string | null }
  | { readonly id: number; readonly errorCode: string; readonly message: string };

export const formatBatchResults = (results: readonly BatchResult[]): string =>
  JSON.stringify(
    results.map((result) => ({
      id: result.id,
      response:
        "data" in result ? { data: result.data } : { error_code: result.errorCode, error_message: result.message },
    })),
  );

/** @throws {SyntaxInvalid} */
export const parseBatchResults = (text: string): readonly BatchResult[] =>
  arrayOf(parseJson(text, "batch"), "batch").map((entry, index) => {
    const members = membersOf(entry, `batch[${index}]`);
    const id = required(integerIn(members, "id"), `batch[${index}].id`);
    const response = membersOf(members.get("response"), `batch[${index}].response`);
    const errorCode = textIn(response, "error_code");
    if (errorCode !== undefined) return { id, errorCode, message: textIn(response, "error_message") ?? "" };
    const data = response.get("data");
    return { id, data: typeof data === "string" ? data : null };
  });
