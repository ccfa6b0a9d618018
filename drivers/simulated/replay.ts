import { createReadStream } from "node:fs";
import { fromUtf8 } from "../../core/bytes.js";
import type { DriverDeps, OpenDriver, Reading, ReadingDescription } from "../../core/driver.js";
import { codeOf, EdgeError } from "../../core/errors.js";
import { LineFramer } from "../../core/line-framer.js";
import { commandNamed } from "../configured-command.js";
import { readingValue } from "../field-readings.js";
import { cellsOf } from "../serial/csv-lines.js";
import { scalar } from "../serial/line-codec.js";
import type { SimulatedConfig } from "./config.js";

/** The recording cannot be replayed; the message says in which line and why. */
export class ReplayInvalid extends EdgeError {
  override readonly code: string = "REPLAY_INVALID";
}

export type ReplayConfig = SimulatedConfig & { readonly file: string };

interface Row {
  /** Of the recording's own clock; `undefined` without a column for it. */
  readonly recordedMs: number | undefined;
  readonly readings: readonly Reading[];
}

/** What a header cell says: `temperature (Cel)`. */
type Column = { readonly kind: "time" } | ({ readonly kind: "reading" } & ReadingDescription);

const MAX_LINE_BYTES = 65_536;
const HEADER_CELL =
  /^(?<name>[A-Za-z0-9][-A-Za-z0-9:./_]{0,99})(?:\s*\((?<unit>[A-Za-z0-9%/][A-Za-z0-9%/-]{0,11})\))?$/u;

/** Replays a recording. The whole file is read through once before, so that what is wrong with it is told at once. */
export const openReplay: OpenDriver<ReplayConfig> = async (config, deps, signal) => {
  let columns: readonly Column[] = [];
  let rows = 0;
  let values = 0;
  for await (const { readings } of rowsOf(config, (header) => (columns = header))) {
    signal.throwIfAborted();
    rows += 1;
    values += readings.length;
  }
  if (values === 0) throw new ReplayInvalid(`${config.file}: expected a header and at least one value`);
  let replayed = 0;
  return {
    id: config.id,
    readings: columns.flatMap((column) => (column.kind === "reading" ? [descriptionOf(column)] : [])),
    commands: [],
    counters: () => ({ rows, replayed }),

    async run(stop) {
      do {
        await replayOnce(config, deps, stop, () => (replayed += 1));
      } while (config.loop && !stop.aborted);
      // Over, and nothing is wrong: a driver that returned would be opened again.
      while (!stop.aborted) await deps.clock.sleep(86_400_000, stop).catch(() => undefined);
    },

    async call(command) {
      return commandNamed([], command);
    },

    async [Symbol.asyncDispose]() {},
  };
};

async function replayOnce(config: ReplayConfig, deps: DriverDeps, stop: AbortSignal, onRow: () => void): Promise<void> {
  const { clock } = deps;
  const startMs = clock.monotonicMs();
  let first: number | undefined;
  let rows = 0;
  for await (const { recordedMs, readings } of rowsOf(config)) {
    first ??= recordedMs;
    const offsetMs = recordedMs === undefined || first === undefined ? rows * config.intervalMs : recordedMs - first;
    const waitMs = config.speed === 0 ? 0 : startMs + offsetMs / config.speed - clock.monotonicMs();
    if (waitMs > 0) await clock.sleep(waitMs, stop).catch(() => undefined);
    if (stop.aborted) return;
    const timeMs = clock.now();
    if (readings.length > 0) await deps.publish(readings.map((reading) => ({ ...reading, timeMs })));
    rows += 1;
    onRow();
  }
  // The last row lasts as long as any: a file of one row must not spin.
  const lastMs = config.speed === 0 ? 0 : config.intervalMs / config.speed;
  await clock.sleep(Math.max(1, lastMs), stop).catch(() => undefined);
}

/** @throws {ReplayInvalid} with the number of the line. */
async function* rowsOf(
  { file, separator, timeColumn, class: readingClass }: ReplayConfig,
  onHeader?: (columns: readonly Column[]) => void,
): AsyncGenerator<Row> {
  let columns: readonly Column[] | undefined;
  let before = -Infinity;
  for await (const { number, text } of linesOf(file)) {
    if (text.trim() === "") continue;
    const fail = (expected: string): never => {
      throw new ReplayInvalid(`${file}, line ${number}: ${expected}`);
    };
    const cells = cellsOf(text, separator) ?? fail("expected quotes that match");
    if (!columns) {
      columns = cells.map((cell) => columnOf(cell, timeColumn, fail));
      if (timeColumn !== undefined && !columns.some(({ kind }) => kind === "time")) {
        fail(`expected a column ${JSON.stringify(timeColumn)}, got ${cells.join(separator).slice(0, 200)}`);
      }
      onHeader?.(columns);
      continue;
    }
    if (cells.length !== columns.length) fail(`expected ${columns.length} cells, got ${cells.length}`);
    let recordedMs: number | undefined;
    const readings: Reading[] = [];
    for (const [at, column] of columns.entries()) {
      const cell = cells[at] ?? "";
      if (column.kind === "time") {
        recordedMs = timeOf(cell) ?? fail(`expected seconds or a date, got ${JSON.stringify(cell.slice(0, 40))}`);
        if (recordedMs < before) fail("expected a time that is not before that of the row above");
        before = recordedMs;
        continue;
      }
      const value = cell === "" ? undefined : readingValue(scalar(cell));
      if (value !== undefined) readings.push({ ...descriptionOf(column), value, class: readingClass });
    }
    yield { recordedMs, readings };
  }
}

function columnOf(cell: string, timeColumn: string | undefined, fail: (expected: string) => never): Column {
  if (cell === timeColumn) return { kind: "time" };
  const { name, unit } = HEADER_CELL.exec(cell)?.groups ?? {};
  if (name === undefined)
    return fail(`expected a name such as "temperature (Cel)", got ${JSON.stringify(cell.slice(0, 40))}`);
  return { kind: "reading", name, ...(unit === undefined ? {} : { unit }) };
}

function descriptionOf({ name, unit }: ReadingDescription): ReadingDescription {
  return { name, ...(unit === undefined ? {} : { unit }) };
}

/** Milliseconds of a time given in seconds or as a date. */
function timeOf(cell: string): number | undefined {
  const ms = /^-?\d{1,15}(?:\.\d{1,9})?$/u.test(cell) ? Number(cell) * 1000 : Date.parse(cell);
  return Number.isFinite(ms) ? ms : undefined;
}

async function* linesOf(file: string): AsyncGenerator<{ readonly number: number; readonly text: string }> {
  const framer = new LineFramer({ maxBytes: MAX_LINE_BYTES });
  let number = 0;
  const text = (line: Buffer): string => {
    number += 1;
    try {
      return fromUtf8(line);
    } catch (cause) {
      throw new ReplayInvalid(`${file}, line ${number}: expected UTF-8 text`, { cause });
    }
  };
  try {
    for await (const chunk of createReadStream(file)) {
      for (const line of framer.push(chunk as Buffer)) yield { text: text(line), number };
    }
    yield* framer.push(Buffer.from("\n")).map((line) => ({ text: text(line), number })); // a last line without its end
  } catch (cause) {
    if (cause instanceof ReplayInvalid) throw cause;
    const code = codeOf(cause);
    const what =
      code === "LIMIT_EXCEEDED"
        ? `has a longer line after line ${number} than ${MAX_LINE_BYTES} bytes`
        : `cannot be read (${code ?? "unknown error"})`;
    throw new ReplayInvalid(`${file} ${what}`, { cause });
  }
}
