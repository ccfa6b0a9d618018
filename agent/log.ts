import { fstatSync } from "node:fs";
import { isatty } from "node:tty";
import { type Logger, pino } from "pino";
import type { Log, LogFields } from "../core/log.js";

export type LogLevel = "debug" | "info" | "warn" | "error";
export type LogForm = "json" | "journal" | "terminal";

export interface LogOptions {
  readonly level?: LogLevel;
  /** Found out from standard error unless given. */
  readonly form?: LogForm;
  /** Takes whole lines; standard error unless given. */
  readonly write?: (line: string) => void;
  /** Sees each line as JSON, whatever the form. */
  readonly keep?: (line: string) => void;
}

export interface AgentLog extends Log {
  /** For this log and all its children. */
  setLevel(level: LogLevel): void;
}

/** Fields with such a name hold secrets, whatever their value. */
export const SECRET_NAME = /secret|passw|passphrase|private|cram|^otp$|^token$|aeskey|selfencryption|symmetric/iu;
/** The password in `mqtt://user:password@host`. */
const URL_PASSWORD = /(:\/\/[^:/@\s"]*):[^@/\s"]*@/gu;

/** sd-daemon(3): the priorities of syslog, by pino's level numbers. */
const PRIORITY: Readonly<Record<number, number>> = { 20: 7, 30: 6, 40: 4, 50: 3 };
const NAMES: Readonly<Record<number, string>> = { 20: "debug", 30: "info ", 40: "warn ", 50: "error" };

/**
 * The agent's log on standard error: JSON lines; with the `<n>` priority prefix where the journal reads them; readable
 * lines on a terminal. `bigint`s, bytes and errors are made fit to print, and secrets are left out by the name of their
 * field.
 */
export function openLog({
  level = "info",
  form = formOfStderr(),
  write = stderrWriter(),
  keep,
}: LogOptions = {}): AgentLog {
  const stream = {
    write(line: string) {
      keep?.(line);
      write(render(line, form));
    },
  };
  // An error is made printable here, before pino sees it.
  const serializers = { err: (value: unknown) => value };
  // pino's children would keep the level that they were made with.
  const logger = pino({ level: "debug", base: null, timestamp: pino.stdTimeFunctions.isoTime, serializers }, stream);
  const least = { level };
  return { ...wrap(logger, least), setLevel: (next) => void (least.level = next) };
}

const LEVELS: readonly LogLevel[] = ["debug", "info", "warn", "error"];

/** Makes fields printable; pino's own hooks for that leave out the context of children. */
function wrap(logger: Logger, least: { readonly level: LogLevel }): Log {
  const at =
    (level: LogLevel) =>
    (fields: LogFields, message: string): void => {
      if (LEVELS.indexOf(level) >= LEVELS.indexOf(least.level)) logger[level](printable(fields), message);
    };
  return {
    debug: at("debug"),
    info: at("info"),
    warn: at("warn"),
    error: at("error"),
    child: (context) => wrap(logger.child(printable(context)), least),
  };
}

function stderrWriter(): (line: string) => void {
  // Whoever read the log has gone, e.g. a journal that is restarted: no reason to end.
  process.stderr.on("error", ignore);
  return (line) => void process.stderr.write(line);
}

const ignore = (): void => {};

/** systemd.exec(5): `JOURNAL_STREAM` holds device and inode of the stream that the journal reads. */
function formOfStderr(): LogForm {
  if (isatty(2)) return "terminal";
  const journal = process.env.JOURNAL_STREAM;
  if (journal === undefined) return "json";
  const { dev, ino } = fstatSync(2);
  return journal === `${dev}:${ino}` ? "journal" : "json";
}

/** Fit to be shown: secrets are left out by the name of their field, and out of URLs. */
export function printable(fields: LogFields): Record<string, unknown> {
  return Object.fromEntries(Object.entries(fields).map(([name, value]) => [name, printableValue(name, value, 0)]));
}

function printableValue(name: string, value: unknown, depth: number): unknown {
  if (value === undefined || value === null || typeof value === "number" || typeof value === "boolean") return value;
  if (SECRET_NAME.test(name)) return "[secret]";
  if (typeof value === "string") return value.replace(URL_PASSWORD, "$1:[secret]@");
  if (typeof value === "bigint") return value.toString();
  if (value instanceof Uint8Array) return `[${value.byteLength} bytes]`;
  if (value instanceof Error) return errorFields(value, depth);
  if (depth >= 4) return "…";
  if (Array.isArray(value)) return value.map((item) => printableValue("", item, depth + 1));
  if (typeof value !== "object") return `[${typeof value}]`;
  if ("toJSON" in value && typeof value.toJSON === "function") return value;
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, printableValue(key, inner, depth + 1)]));
}

/** Name, code, message and causes; the stack only of what is no {@link EdgeError} or system error, a fault of ours. */
function errorFields(error: Error, depth: number): Record<string, unknown> {
  const code = "code" in error && typeof error.code === "string" ? error.code : undefined;
  return {
    name: error.name,
    ...(code === undefined ? {} : { code }),
    message: error.message.replace(URL_PASSWORD, "$1:[secret]@"),
    ...(code === undefined ? { stack: error.stack } : {}),
    ...(error.cause !== undefined && depth < 8 ? { cause: printableValue("cause", error.cause, depth + 1) } : {}),
  };
}

function render(line: string, form: LogForm): string {
  if (form === "json") return line;
  const { level, time, msg, ...fields } = JSON.parse(line) as {
    readonly level: number;
    readonly time: string;
    readonly msg: string;
    readonly [field: string]: unknown;
  };
  if (form === "journal") return `<${PRIORITY[level] ?? 6}>${line}`;
  const rest = Object.entries(fields).map(([name, value]) => ` ${name}=${brief(value)}`);
  return `${time.slice(11, 23)} ${NAMES[level] ?? level} ${msg}${rest.join("")}\n`;
}

function brief(value: unknown): string {
  if (typeof value === "string") return /^[^\s="]+$/u.test(value) ? value : JSON.stringify(value);
  if (typeof value === "object" && value !== null && "message" in value && typeof value.message === "string") {
    const cause = "cause" in value && value.cause !== undefined ? ` (${brief(value.cause)})` : "";
    const code = "code" in value && typeof value.code === "string" ? `${value.code}: ` : "";
    return `${JSON.stringify(`${code}${value.message}`)}${cause}`;
  }
  return JSON.stringify(value);
}
