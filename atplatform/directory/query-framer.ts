import { LimitExceeded, SyntaxInvalid } from "../../core/errors.js";

/** UTF-16 units that may wait for their newline (spec D13). */
const MAX_QUERY_UNITS = 255;

/** A query is a name, perhaps empty, or the wish to leave. */
export type Query = { readonly type: "name"; readonly name: string } | { readonly type: "exit" };

/**
 * Cuts what a client of the atDirectory sends into queries (spec 1.3). Bytes are decoded incrementally, so a character
 * may be split over two chunks; `@exit` counts without a newline.
 */
export class QueryFramer {
  readonly #decoder = new TextDecoder("utf-8", { fatal: true });
  #held = "";

  /** @throws {SyntaxInvalid} on bytes that are not UTF-8, {@link LimitExceeded} on a line that is too long. */
  push(chunk: Uint8Array): Query[] {
    const lines = (this.#held + this.#decode(chunk)).split("\n");
    this.#held = lines.pop() ?? "";
    const queries: Query[] = [];
    for (const line of lines) {
      if (line.length > MAX_QUERY_UNITS) throw tooLong();
      queries.push(toQuery(line));
    }
    if (this.#held.length > MAX_QUERY_UNITS) throw tooLong();
    if (isExit(this.#held)) queries.push({ type: "exit" });
    return queries;
  }

  #decode(chunk: Uint8Array): string {
    try {
      return this.#decoder.decode(chunk, { stream: true });
    } catch (cause) {
      throw new SyntaxInvalid("a query must be UTF-8 text", { cause });
    }
  }
}

const isExit = (text: string): boolean => text.trim().toLowerCase() === "@exit";
const tooLong = (): LimitExceeded => new LimitExceeded(`a query has at most ${MAX_QUERY_UNITS} characters`);

/** The canonical name: lower case, without one leading `@` and without dots, which no atSign has (D8 to D10). */
function toQuery(line: string): Query {
  if (isExit(line)) return { type: "exit" };
  return { type: "name", name: line.trim().toLowerCase().replace(/^@/u, "").replaceAll(".", "") };
}
