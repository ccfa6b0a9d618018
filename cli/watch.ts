import { once } from "node:events";
import type { Command } from "commander";
import type { SenmlReading } from "../messages/senml.js";
import type { WatchEvent } from "../remote/watch.js";
import { interruption, openRemote, withRemoteOptions, type RemoteOptions } from "./remote-options.js";

interface WatchCliOptions extends RemoteOptions {
  readonly keep?: string;
  readonly consumer: string;
}

const EXAMPLES = `
Examples:
  atedge watch @greenhouse/north --as @grower
  atedge watch @greenhouse/north --as @grower --json | jq .value
  atedge watch @greenhouse/north --as @grower --keep north.db
  atedge watch @greenhouse/north --as @grower --directory localhost:6464 --ca platform/ca.pem --key sha256:3f9a…

With --keep the readings are stored in a SQLite file, and the device is told which are safe; it keeps all others for
you. That needs the device to name you as a [[reader]] with this --consumer. Read the file when watch has ended:
  sqlite3 north.db 'select * from readings'`;

export function register(program: Command): void {
  withRemoteOptions(program.command("watch"))
    .description("print the readings of a device as they come")
    .argument("<@owner/device>", "whose device, and which")
    .option("--keep <file>", "store the readings and give receipts for them")
    .option("--consumer <name>", "the name on the receipts", "watch --keep")
    .addHelpText("after", EXAMPLES)
    .action(async (subject: string, options: WatchCliOptions) => {
      const signal = interruption();
      const { parseConsumer } = await import("../messages/receipt.js");
      const { watch } = await import("../remote/watch.js");
      const { MemoryStreamStore } = await import("../remote/stream-store.js");
      const { session: opened, log } = await openRemote(subject, options, signal);
      await using session = opened;
      const { owner, address, platform, trust, outbound } = session;
      const name = parseConsumer(options.consumer);
      const keep = options.keep === undefined ? undefined : await openKeep(options.keep, session, name);
      await using store = keep ?? new MemoryStreamStore();
      const textOf = options.json ? jsonOf : linesOf;
      if (!options.json) say(`${owner}/${address.device}: waiting for readings, Ctrl-C ends`);
      await watch(
        {
          ...{ platform, trust, owner, address, store, log },
          ...(keep && { consumer: { name, outbound, resume: keep.resume } }),
          // A pipe that is not read slows the receiving down, instead of filling the memory.
          async onEvent(event) {
            const text = textOf(event);
            if (text !== "" && !process.stdout.write(text)) await once(process.stdout, "drain", { signal });
          },
        },
        signal,
      );
    });
}

async function openKeep(path: string, session: Awaited<ReturnType<typeof openRemote>>["session"], consumer: string) {
  const { openKeepFile } = await import("../remote/keep-file.js");
  const { owner, address, platform } = session;
  return openKeepFile(path, { owner, ...address, reader: platform.atSign, consumer });
}

function linesOf(event: WatchEvent): string {
  switch (event.type) {
    case "readings":
      return event.pack.readings.map((reading) => readingLine(reading, event.pack.undated !== undefined)).join("");
    case "gap": {
      const count = event.lost === null ? "an unknown number of readings is" : `${event.lost} readings are`;
      return `-- gap: ${count} lost at the device (${event.gap.reason})\n`;
    }
    case "forgone":
      return `-- some messages were receipted elsewhere and are not here: ${rangesText(event.ranges)}\n`;
    case "new-life":
      return `-- the device began stream ${event.life.stream} anew (life ${event.life.inc})\n`;
    case "refused":
      say(`refused a message in the device's name: ${event.reason} (${event.message})`);
      return "";
  }
}

/** One object a reading: what a pipe wants. Other events are objects of their own type. */
function jsonOf(event: WatchEvent): string {
  if (event.type !== "readings") return `${JSON.stringify(event)}\n`;
  const { class: readingClass, stream, inc, seq, undated, readings } = event.pack;
  const nowMs = Date.now();
  const lines = readings.map(({ name, unit, value, timeMs }) => {
    const time = new Date(timeMs).toISOString();
    const reading = { type: "reading", name, value, ...(unit !== undefined && { unit }), time, timeMs };
    const position = { class: readingClass, stream, inc, seq, ...(undated && { undated }) };
    return `${JSON.stringify({ ...reading, ageMs: nowMs - timeMs, ...position })}\n`;
  });
  return lines.join("");
}

function readingLine({ name, unit, value, timeMs }: SenmlReading, isUndated: boolean): string {
  const time = isUndated ? "not before " : "";
  // As JSON, a text cannot move the cursor or change the colours of a terminal.
  const shown = typeof value === "string" ? JSON.stringify(value) : String(value);
  const quantity = unit === undefined ? shown : `${shown} ${unit}`;
  const when = new Date(timeMs).toISOString().slice(11, 23);
  return `${time}${when}  ${name.padEnd(28)} ${quantity.padEnd(16)} ${ageText(Date.now() - timeMs)} old\n`;
}

/** The clocks of two machines differ, so a small negative age is as good as none. */
function ageText(ms: number): string {
  if (Math.abs(ms) < 10_000) return `${(ms / 1000).toFixed(2)} s`;
  if (Math.abs(ms) < 120_000) return `${Math.round(ms / 1000)} s`;
  return Math.abs(ms) < 7_200_000 ? `${Math.round(ms / 60_000)} min` : `${Math.round(ms / 3_600_000)} h`;
}

const rangesText = (ranges: readonly (readonly [number, number])[]): string =>
  ranges.map(([from, to]) => (from === to ? String(from) : `${from} to ${to}`)).join(", ");

const say = (line: string): void => void process.stderr.write(`${line}\n`);
