import t from "tap";
import { join } from "node:path";
import { liveThrough } from "../fixtures/week.js";
import { tempFolder } from "../fixtures/temp-folder.js";

const MAX_BYTES = 2 << 20;
/** The log of the database may grow to its limit and once more while it is emptied, and the reserve is twice that. */
const BESIDE_BYTES = 12 << 20;

// `npm run lab -- week` lives through seven days.
void t.test("eight hours of 10 readings a second, the link up for 5 % of them, 20 restarts", async (t) => {
  const seed = Number(process.env["ATEDGE_SEED"] ?? Date.now() % 1_000_000);
  t.comment(`seed ${seed} (ATEDGE_SEED=${seed} repeats it)`);
  const folder = join(tempFolder(t), "agent");
  const week = await liveThrough({
    folder,
    hours: 8,
    cycleHours: 2,
    upShare: 0.05,
    restarts: 20,
    maxBytes: MAX_BYTES,
    seed,
  });
  t.comment(JSON.stringify(week));
  t.equal(week.failure, undefined);
  t.equal(week.restarts, 20);
  t.equal(week.accepted, 288_000);
  t.equal(week.delivered + week.declared, week.accepted, "delivered + declared gaps = accepted");
  t.equal(week.strange, 0, "each reading came once");
  t.ok(week.declared > 10_000 && week.delivered > 50_000, "the outbox was too small, and most of it came");
  t.ok(week.peakBytes < MAX_BYTES + BESIDE_BYTES, `${week.peakBytes} bytes on the disk at most`);
  t.ok(week.endBytes <= week.peakBytes, `${week.endBytes} in the end`);
  t.ok(week.heapGrowthBytes < 8 << 20, `the heap grew by ${week.heapGrowthBytes} bytes`);
});
