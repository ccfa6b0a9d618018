/** One line of a doctor's report. */
export interface Finding {
  /** What was looked at, e.g. `directory` or `driver vent`. */
  readonly check: string;
  /** `warn`: it works and may not be what was meant. `skipped`: something before it is wrong, or it is not needed. */
  readonly state: "ok" | "warn" | "bad" | "skipped";
  readonly text: string;
  /** What to do about it. */
  readonly todo?: string;
}

export const ok = (check: string, text: string): Finding => ({ check, state: "ok", text });
export const skipped = (check: string, text: string): Finding => ({ check, state: "skipped", text });
export const warn = (check: string, text: string, todo?: string): Finding => finding("warn", check, text, todo);
export const bad = (check: string, text: string, todo?: string): Finding => finding("bad", check, text, todo);

function finding(state: Finding["state"], check: string, text: string, todo: string | undefined): Finding {
  return { check, state, text, ...(todo !== undefined && { todo }) };
}

/** What an error says, without its stack: messages of ours are for people. */
export const said = (error: unknown): string => (error instanceof Error ? error.message : String(error));
