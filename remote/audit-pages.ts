import { EdgeError } from "../core/errors.js";
import { JsonField } from "../messages/json-field.js";
import type { CallOutcome } from "./call.js";

/** The device did not give a page of its audit log; the message says why. */
export class AuditRefused extends EdgeError {
  override readonly code = "AUDIT_REFUSED";
}

/** Where a chain of lines ends: the number of the last and its hash. */
export interface AuditEnd {
  readonly n: number;
  readonly hash: string;
}

export interface AuditPage {
  readonly from: number;
  readonly lines: readonly string[];
  readonly first: number;
  readonly head: AuditEnd;
}

const MAX_PAGE_CHARS = 262_144;

/**
 * The lines of a device's audit log from number `from` on, page by page, up to what was its end when asked first: each
 * page that is asked for makes the log longer.
 *
 * @param ask sends the command `agent/audit` with these arguments.
 * @throws {AuditRefused} @throws {SyntaxInvalid} for an answer of another form.
 */
export async function* auditPages(
  ask: (args: { readonly from: number }) => Promise<CallOutcome>,
  from: number,
): AsyncGenerator<AuditPage, void> {
  let next = from;
  let end: number | undefined;
  do {
    const outcome = await ask({ from: next });
    if (outcome.kind !== "success") throw new AuditRefused(`${outcome.kind}: ${outcome.message}`);
    const page = parsePage(outcome.result);
    end ??= page.head.n;
    yield { ...page, lines: page.lines.slice(0, Math.max(0, end - page.from + 1)) };
    if (page.lines.length === 0 || page.from < next) return;
    next = page.from + page.lines.length;
  } while (next <= end);
}

function parsePage(value: unknown): AuditPage {
  const fields = new JsonField(value, "audit").object();
  const head = fields.at("head").object();
  const number = (field: JsonField): number => field.integer(0, Number.MAX_SAFE_INTEGER);
  return {
    from: number(fields.at("from")),
    first: number(fields.at("first")),
    head: { n: number(head.at("n")), hash: head.at("hash").text({ max: 64 }) },
    lines: fields
      .at("lines")
      .array({ max: 10_000 })
      .map((line) => line.text({ max: MAX_PAGE_CHARS })),
  };
}
