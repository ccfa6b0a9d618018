import { describeCode } from "../../protocol/at-error.js";
import { normaliseCommand, verbOf } from "../../protocol/command-line.js";
import { batch, formatBatchResults, type BatchResult } from "../../protocol/verbs/batch.js";
import { invalidSyntax, Refusal } from "../refusal.js";
import { data, type Reply } from "../reply.js";
import type { Services } from "../services.js";
import { verb, type Call, type Handler } from "../verb.js";

/** Carries out one line; handed in, because it knows this verb, too. */
export type Dispatch = (line: string, call: Call, services: Services) => Promise<Reply>;

/** Verbs that make no sense inside. */
const REFUSED: ReadonlySet<string> = new Set(["batch", "monitor", "from", "cram", "pkam", "pol"]);

/** `batch`: commands one after the other, each with its own result; clients push what changed while they were away. */
export const batchVerb = (dispatch: Dispatch): Handler =>
  verb(batch, true, async ({ commands }, call, services) => {
    const results: BatchResult[] = [];
    for (const { id, command } of commands) {
      call.signal.throwIfAborted();
      results.push(await runOne(id, command, (line) => dispatch(line, call, services)));
    }
    return data(formatBatchResults(results));
  });

async function runOne(id: number, command: string, dispatch: (line: string) => Promise<Reply>): Promise<BatchResult> {
  try {
    if (REFUSED.has(verbOf(normaliseCommand(command)) ?? "")) throw invalidSyntax("invalid command");
    const reply = await dispatch(command);
    return { id, data: reply.type === "data" ? reply.payload : null };
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    return { id, errorCode: error.code, message: describeCode(error.code) };
  }
}
