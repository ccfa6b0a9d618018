/**
 * Processor time a line that the serial driver takes for JSON lines, over that of JSON.parse alone in the same run, at
 * chunks as a tty gives them. Limit: 3 (issue 6).
 */
import * as v from "valibot";
import type { DriverDeps } from "../../core/driver.js";
import type { Port } from "../../core/port.js";
import { serialSchema } from "../../drivers/serial/config.js";
import { openSerial } from "../../drivers/serial/serial-driver.js";
import { recordingDeps } from "../contracts/driver.js";

const LINES = 300_000;
const CHUNK_BYTES = 4096;

const lines = Array.from({ length: 1000 }, (_, n) =>
  JSON.stringify({ t: 21.5 + n / 1000, rh: 40.25, p: 101_325, n, ok: true, sensor: "north wall", unit: "Cel" }),
);
const bytes = Buffer.from(lines.map((line) => `${line}\n`).join(""));

/** A port that gives the lines again and again, without a kernel in between. */
function memoryPort(): Port {
  return {
    path: "memory",
    async *read() {
      for (let round = 0; round < LINES / lines.length; round += 1) {
        for (let at = 0; at < bytes.length; at += CHUNK_BYTES) yield bytes.subarray(at, at + CHUNK_BYTES);
      }
    },
    write: async () => undefined,
    async [Symbol.asyncDispose]() {},
  };
}

function microsecondsALine(start: NodeJS.CpuUsage): number {
  const { user, system } = process.cpuUsage(start);
  return (user + system) / LINES;
}

function parseAlone(): number {
  const start = process.cpuUsage();
  let sum = 0;
  for (let round = 0; round < LINES / lines.length; round += 1) {
    for (const line of lines) sum += (JSON.parse(line) as { n: number }).n;
  }
  if (sum === 0) throw new Error("nothing parsed");
  return microsecondsALine(start);
}

async function throughDriver(): Promise<number> {
  await using recording = await recordingDeps();
  let readings = 0;
  const deps: DriverDeps = {
    ...recording,
    publish: async (batch) => void (readings += batch.length),
    openPort: async () => memoryPort(),
  };
  const config = v.parse(serialSchema, {
    id: "bench",
    type: "serial",
    path: "memory",
    reading: [
      { pointer: "/t", name: "temperature", unit: "Cel" },
      { pointer: "/rh", name: "humidity", unit: "%RH" },
    ],
  });
  const driver = await openSerial(config, deps, new AbortController().signal);
  const start = process.cpuUsage();
  await driver.run(new AbortController().signal).catch(() => undefined);
  const taken = microsecondsALine(start);
  if (readings !== LINES * 2) throw new Error(`${readings} readings of ${LINES} lines`);
  return taken;
}

for (let warmUp = 0; warmUp < 2; warmUp += 1) {
  parseAlone();
  await throughDriver();
}
for (let run = 0; run < 3; run += 1) {
  const alone = parseAlone();
  const driver = await throughDriver();
  process.stdout.write(
    `serial JSON lines: ${driver.toFixed(2)} µs of processor time a line, JSON.parse alone ${alone.toFixed(2)} µs: ` +
      `${(driver / alone).toFixed(2)} times (limit 3)\n`,
  );
}
