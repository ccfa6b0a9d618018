/**
 * Seven days of 10 readings a second under a clock that is moved; the link is up for 5 % of them, and the agent is
 * restarted 20 times, every other time by a crash. A shorter form is test/faults/week.test.ts.
 *
 * `npm run lab -- week --hours 168 --seed 1` (the default, with a seed of its own).
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { liveThrough } from "../fixtures/week.js";

const { values } = parseArgs({
  options: {
    hours: { type: "string", default: "168" },
    seed: { type: "string", default: String(Date.now() % 1_000_000) },
  },
});
const MAX_BYTES = 16 << 20;
const BESIDE_BYTES = 12 << 20;

const parent = await mkdtemp(join(tmpdir(), "atedge-week-"));
const startMs = performance.now();
const week = await liveThrough({
  folder: join(parent, "agent"),
  hours: Number(values.hours),
  cycleHours: 21,
  upShare: 0.05,
  restarts: 20,
  maxBytes: MAX_BYTES,
  seed: Number(values.seed),
});
await rm(parent, { recursive: true });
const mb = (bytes: number): string => `${(bytes / 1e6).toFixed(1)} MB`;
const minutes = ((performance.now() - startMs) / 60_000).toFixed(1);
process.stdout.write(
  `${values.hours} hours in ${minutes} minutes (seed ${values.seed}): ${week.accepted} accepted, ${week.delivered}` +
    ` delivered, ${week.declared} declared as gaps, ${week.strange} strange, ${week.restarts} restarts;` +
    ` at most ${mb(week.peakBytes)} on the disk (limit of the outbox ${mb(MAX_BYTES)}), ${mb(week.endBytes)} in the end;` +
    ` heap ${mb(week.heapGrowthBytes)} more than after the first cycle\n`,
);
const isKept =
  week.delivered + week.declared === week.accepted &&
  week.strange === 0 &&
  week.failure === undefined &&
  week.peakBytes < MAX_BYTES + BESIDE_BYTES &&
  week.heapGrowthBytes < 8 << 20;
process.stdout.write(isKept ? "kept\n" : "MISSED\n");
if (week.failure !== undefined) console.error(week.failure);
if (!isKept) process.exitCode = 1;
