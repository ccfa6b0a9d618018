/** The verbs an atServer knows, named after how their lines begin. */
export type VerbName =
  | "from"
  | "cram"
  | "pkam"
  | "pol"
  | "update"
  | "update:meta"
  | "llookup"
  | "lookup"
  | "plookup"
  | "scan"
  | "delete"
  | "stats"
  | "config"
  | "monitor"
  | "stream"
  | "notify"
  | "notify:list"
  | "notify:status"
  | "notify:fetch"
  | "notify:remove"
  | "notify:all"
  | "batch"
  | "sync:from"
  | "info"
  | "noop"
  | "enroll"
  | "otp"
  | "keys";

/** First match wins, so the longer ones come first (atserver.md, 2.8). */
const PREFIXES: readonly (readonly [prefix: string, verb: VerbName])[] = [
  ["from:", "from"],
  ["cram:", "cram"],
  ["pkam:", "pkam"],
  ["update:meta:", "update:meta"],
  ["update:", "update"],
  ["llookup:", "llookup"],
  ["plookup:", "plookup"],
  ["lookup:", "lookup"],
  ["scan", "scan"],
  ["delete:", "delete"],
  ["stats", "stats"],
  ["config:", "config"],
  ["monitor", "monitor"],
  ["stream", "stream"],
  ["notify:list", "notify:list"],
  ["notify:status:", "notify:status"],
  ["notify:fetch:", "notify:fetch"],
  ["notify:remove:", "notify:remove"],
  ["notify:all:", "notify:all"],
  ["notify:", "notify"],
  ["batch:", "batch"],
  ["sync:from", "sync:from"],
  ["noop:", "noop"],
  ["enroll:", "enroll"],
  ["otp:", "otp"],
  ["keys:", "keys"],
];

const WHOLE_LINES: ReadonlyMap<string, VerbName> = new Map([
  ["pol", "pol"],
  ["info", "info"],
  ["info:brief", "info"],
]);
const LONGEST = "notify:status:".length;

/** What ends a session, on atServer and atDirectory alike; no verb. */
export const EXIT = "@exit";

/**
 * The line as the parsers expect it: trimmed, the leading verb word in lower case, no blanks before its colon.
 *
 * The reference atServer lower-cases all up to the first colon, and lines without one whole; that turns `\D` in the
 * expression of a `scan` into `\d`. Here the argument keeps its case.
 */
export function normaliseCommand(line: string): string {
  const trimmed = line.trim();
  const word = /^[a-z]+/iu.exec(trimmed)?.[0].toLowerCase() ?? "";
  const rest = trimmed.slice(word.length);
  // For these two, what follows a blank is an expression, which may begin with a colon.
  const takesExpression = word === "scan" || word === "monitor";
  return word + (takesExpression ? rest : rest.replace(/^\s+:/u, ":"));
}

/** The verb of a normalised line; `undefined` has the answer AT0003, `invalid command`. */
export function verbOf(line: string): VerbName | undefined {
  const start = line.slice(0, LONGEST).toLowerCase();
  const whole = line.length <= LONGEST ? WHOLE_LINES.get(start) : undefined;
  return whole ?? PREFIXES.find(([prefix]) => start.startsWith(prefix))?.[1];
}
