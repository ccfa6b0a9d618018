import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { Database } from "better-sqlite3";
import t from "tap";
import { Whole } from "../fixtures/whole.js";

const KILLS = 20;
/** A run that did not hit both windows proves little: it goes on with more kills, up to this many. */
const MOST_KILLS = 60;

/** Park and Miller's generator: a run can be repeated by its seed. */
function random(seed: number): () => number {
  let state = seed % 2_147_483_647 || 1;
  return () => (state = (state * 48_271) % 2_147_483_647) / 2_147_483_647;
}

t.test("20 kills at random moments lose nothing that a sensor was told is safe", { timeout: 170_000 }, async (t) => {
  const seed = Number(process.env["ATEDGE_SEED"] ?? Date.now() % 1_000_000);
  t.comment(`seed ${seed} (ATEDGE_SEED=${seed} repeats it)`);
  const next = random(seed);
  await using whole = await Whole.start({ rateHz: 40 });

  let kills = 0;
  let unsent = 0;
  let unreceipted = 0;
  const enough = (): boolean => kills >= KILLS && unsent > 0 && unreceipted > 0;
  while (!enough() && kills < MOST_KILLS) {
    await sleep(300 + next() * 2700);
    await whole.children.end("agent", "SIGKILL");
    kills += 1;
    // What the next start finds tells where the kill fell.
    using outbox = await openOutbox(whole);
    if (hasUnsent(outbox.db, whole)) unsent += 1;
    if (hasUnreceipted(outbox.db, whole)) unreceipted += 1;
    whole.startAgent();
  }
  await whole.stopSensors();

  t.comment(`${kills} kills: ${unsent} with readings not sent, ${unreceipted} with sent ones not receipted`);
  t.ok(enough(), "kills fell between commit and send, and between send and receipt");
  for (const driver of ["board", "bench"] as const) {
    t.same(await whole.missing(driver, 40_000), [], `every acknowledged number of ${driver} arrived`);
    const acked = await whole.acknowledged(driver);
    t.ok(acked.size > 50, `${driver} had ${acked.size} readings acknowledged`);
  }
  const positions = whole.seen.map(
    ({ stream, inc, seq, name, value }) => `${stream}/${inc}/${seq}/${name}/${String(value)}`,
  );
  const board = whole.numbersSeen("board");
  t.equal(new Set(board).size, board.length, "the watcher printed no reading of the board twice");
  t.same(
    board,
    [...board].sort((a, b) => a - b),
    "and in the order in which the board sent them",
  );
  t.ok(
    await resends(whole, new Set(positions.map((position) => position.split("/").slice(0, 3).join("/")))),
    "a message was sent again",
  );
  t.same(whole.deaths, []);
});

async function openOutbox(whole: Whole): Promise<{ db: Database; [Symbol.dispose](): void }> {
  const db = await whole.openCopy(join(whole.folder, "agent", "outbox.db"));
  return { db, [Symbol.dispose]: () => db.close() };
}

/** Readings that are in no message yet, or in one that the watcher has not seen. */
function hasUnsent(outbox: Database, whole: Whole): boolean {
  const waiting = outbox
    .prepare("SELECT count(*) AS n FROM reading JOIN stream USING (class) WHERE reading.id > stream.packedTo")
    .get() as { n: number };
  return waiting.n > 0 || messages(outbox).some((message) => !seenPositions(whole).has(message));
}

/** Messages that the watcher has seen while the agent still holds them. */
function hasUnreceipted(outbox: Database, whole: Whole): boolean {
  const seen = seenPositions(whole);
  return messages(outbox).some((message) => seen.has(message));
}

function messages(outbox: Database): string[] {
  return outbox
    .prepare("SELECT s.stream || '/' || s.inc || '/' || m.seq FROM message m JOIN stream s ON s.id = m.stream")
    .pluck()
    .all() as string[];
}

const seenPositions = (whole: Whole): Set<string> =>
  new Set(whole.seen.map(({ stream, inc, seq }) => `${stream}/${inc}/${seq}`));

/** More telemetry reached the reader's atServer than there are different messages. */
async function resends(whole: Whole, positions: ReadonlySet<string>): Promise<boolean> {
  const db = await whole.openCopy(join(whole.folder, "platform", "atsigns", "grower.db"));
  const received = db
    .prepare("SELECT count(DISTINCT id) FROM notification WHERE type = 'received' AND key LIKE '%:telemetry.%'")
    .pluck()
    .get() as number;
  db.close();
  return received > positions.size;
}
