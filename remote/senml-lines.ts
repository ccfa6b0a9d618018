import { open, readdir, rm, type FileHandle } from "node:fs/promises";
import { join } from "node:path";
import { makeFolder } from "../core/make-folder.js";
import type { Disposable } from "../core/scope.js";
import type { TelemetryMessage } from "../messages/telemetry.js";

/** Where lines go; what it has resolved is as safe as it can make it. */
export interface LineSink extends Disposable {
  write(lines: string, nowMs: number): Promise<void>;
}

/**
 * A message as lines of SenML (RFC 8428), a record each, resolved but for the base name `owner/device/`. Its own labels
 * say where in the stream it stood: `stream`, `inc`, `seq` and `i` together are the same when a line comes twice.
 */
export function senmlLines(message: TelemetryMessage, owner: string, device: string): string {
  const { stream, inc, seq } = message;
  const position = { class: message.class, stream, inc, seq };
  const bn = `${owner.replace(/^@/u, "")}/${device}/`;
  if (message.type === "gap") return `${JSON.stringify({ bn, gap: message.gap, ...position })}\n`;
  const { undated } = message;
  const valueOf = (value: number | string | boolean) =>
    typeof value === "number" ? { v: value } : typeof value === "string" ? { vs: value } : { vb: value };
  const lines = message.readings.map(({ name, unit, value, timeMs }, i) => {
    const quantity = { n: name, ...(unit !== undefined && { u: unit }), ...valueOf(value), t: timeMs / 1000 };
    return `${JSON.stringify({ bn, ...quantity, ...position, i, ...(undated && { undated }) })}\n`;
  });
  return lines.join("");
}

/** One file a day (UTC), `2026-11-24.senml`, on the disk before it resolves; files older than `keepDays` are removed. */
export async function openDailyFiles(folder: string, keepDays: number): Promise<LineSink> {
  await makeFolder(folder);
  let day = "";
  let file: FileHandle | undefined;
  let turn: Promise<void> = Promise.resolve();
  const append = async (lines: string, nowMs: number): Promise<void> => {
    const today = dayOf(nowMs);
    if (today !== day || !file) {
      await file?.close();
      file = await open(join(folder, `${today}.senml`), "a", 0o640);
      day = today;
      const oldest = dayOf(nowMs - keepDays * 86_400_000);
      for (const name of await readdir(folder))
        if (/^\d{4}-\d\d-\d\d\.senml$/u.test(name) && name < oldest) await rm(join(folder, name), { force: true });
    }
    await file.writeFile(lines);
    await file.datasync();
  };
  return {
    write(lines, nowMs) {
      const done = turn.then(() => append(lines, nowMs));
      turn = done.catch(() => undefined); // whoever asked is told
      return done;
    },
    async [Symbol.asyncDispose]() {
      await turn;
      await file?.close();
    },
  };
}

/** Standard output: a pipe that is not read slows the receiving down. */
export function standardOutput(): LineSink {
  return {
    write: (lines) =>
      new Promise((resolve, reject) => {
        process.stdout.write(lines, (error) => (error ? reject(error) : resolve()));
      }),
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
}

const dayOf = (ms: number): string => new Date(ms).toISOString().slice(0, 10);
