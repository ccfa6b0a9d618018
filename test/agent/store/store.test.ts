import Database from "better-sqlite3";
import { copyFileSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Test } from "tap";
import t from "tap";
import { MAX_ASIDE_BYTES, type NewAside } from "../../../agent/store/set-aside.js";
import { openStore, type StoreOptions } from "../../../agent/store/store.js";
import type { Store } from "../../../agent/store/store.js";
import type { StreamInfo } from "../../../agent/store/stream-rows.js";
import type { TimeBase } from "../../../agent/store/time-base.js";
import type { Reading, ReadingClass } from "../../../core/driver.js";
import { silentLog } from "../../../core/log.js";
import { ManualClock } from "../../fixtures/manual-clock.js";
import { tempFolder } from "../../fixtures/temp-folder.js";

const MACHINE = "ab".repeat(32);
const LIMITS = { maxReadings: 100, maxBytes: 50_000 };
const START_MS = Date.UTC(2026, 5, 1);

class ManualTime implements TimeBase {
  known = true;
  ms = START_MS;
  mono = 0;
  boot = "0".repeat(31) + "1";
  nowMs = (): number => this.ms;
  monotonicMs = (): number => this.mono;
}

async function open(t: Test, folder: string, options: Partial<StoreOptions> = {}): Promise<Store> {
  const store = await openStore({
    folder,
    readers: ["@grower"],
    clock: new ManualClock(START_MS),
    log: silentLog,
    machineId: MACHINE,
    commitIntervalMs: 0,
    ...options,
  });
  t.teardown(() => store.close());
  return store;
}

const reading = (value: number, readingClass: ReadingClass = "measurement"): Reading => ({
  name: "n",
  value,
  class: readingClass,
});
const numbers = (from: number, to: number): Reading[] =>
  Array.from({ length: to - from + 1 }, (_, index) => reading(from + index));

function streamOf(store: Store, reader = "@grower", readingClass: ReadingClass = "measurement"): StreamInfo {
  const found = store.streams.list(reader).find((info) => info.class === readingClass);
  if (!found) throw new Error("no stream");
  return found;
}

/** Values of a pack, or the readings that a gap declares. */
function contentOf(store: Store, id: number, seq: number): unknown {
  const message = store.streams.load(id, seq);
  return message?.type === "pack" ? message.readings.map(({ value }) => value) : message;
}

t.test("the outbox", async (t) => {
  t.test("gives the readings of a class in order, in packs that keep their number and content", async (t) => {
    const folder = tempFolder(t);
    const store = await open(t, folder);
    await store.publish(numbers(1, 5));
    await store.publish([reading(99, "alarm"), ...numbers(6, 7)]);
    const { id, life, prev } = streamOf(store);
    t.match(life, { stream: /^[0-9a-f]{32}$/u, inc: 1 });
    t.equal(prev, undefined);
    t.equal(store.streams.waiting(id, 100), 7);
    t.same(await store.streams.form(id, { ...LIMITS, maxReadings: 4 }), { seq: 1, fromSeq: 1 });
    t.same(await store.streams.form(id, LIMITS), { seq: 2, fromSeq: 2 });
    t.equal(await store.streams.form(id, LIMITS), undefined);
    await store.close();

    const again = await open(t, folder);
    t.match(streamOf(again), { life, lastSeq: 2 }, "the same life goes on");
    t.same(again.streams.formed(id), [
      { seq: 1, fromSeq: 1 },
      { seq: 2, fromSeq: 2 },
    ]);
    t.same(contentOf(again, id, 1), [1, 2, 3, 4]);
    t.same(contentOf(again, id, 2), [5, 6, 7]);
    await again.publish(numbers(8, 8));
    t.same(await again.streams.form(id, LIMITS), { seq: 3, fromSeq: 3 });
    t.same(contentOf(again, id, 3), [8]);
  });

  t.test("keeps a reading until every reader has it, and never uses its row number again", async (t) => {
    const store = await open(t, tempFolder(t), { readers: ["@grower", "@boss"] });
    await store.publish(numbers(1, 3));
    const grower = streamOf(store, "@grower").id;
    const boss = streamOf(store, "@boss").id;
    await store.streams.form(grower, LIMITS);
    await store.streams.taken(grower, [1]);
    await store.streams.form(boss, LIMITS);
    t.same(contentOf(store, boss, 1), [1, 2, 3]);
    await store.streams.taken(boss, [1]);
    await store.publish(numbers(4, 4));
    await store.streams.form(grower, LIMITS);
    await store.streams.form(boss, LIMITS);
    t.same(contentOf(store, grower, 2), [4]);
    t.same(contentOf(store, boss, 2), [4]);
  });

  t.test("makes packs no larger than asked, but of one reading at least", async (t) => {
    const store = await open(t, tempFolder(t));
    await store.publish([1, 2, 3].map(() => ({ name: "text", value: "x".repeat(1000) })));
    const { id } = streamOf(store);
    await store.streams.form(id, { maxReadings: 10, maxBytes: 2200 });
    await store.streams.form(id, { maxReadings: 10, maxBytes: 10 });
    t.match(store.streams.load(id, 1), { readings: { length: 2 } });
    t.match(store.streams.load(id, 2), { readings: { length: 1 } });
  });

  t.test("refuses what no message can carry, all of a call or none", async (t) => {
    const store = await open(t, tempFolder(t));
    await t.rejects(store.publish([reading(1), { name: "bad name", value: 1 }]), {
      code: "SYNTAX_INVALID",
      message: /readings\[1\]\.name/u,
    });
    await t.rejects(store.publish([{ name: "n", value: Number.NaN }]), { code: "SYNTAX_INVALID" });
    t.equal(store.streams.waiting(streamOf(store).id, 10), 0);
    t.match(store.health, { accepted: 0, refused: 3, state: "ok" });
  });

  t.test("sets a message aside that cannot be sent, and declares the gap", async (t) => {
    const store = await open(t, tempFolder(t));
    await store.publish(numbers(1, 2));
    const { id } = streamOf(store);
    await store.streams.form(id, LIMITS);
    const keep = (entry: NewAside): void => store.setAside.add(entry);
    t.ok(await store.streams.setAside(id, 1, "AT0005: too long", START_MS, keep));
    t.match(store.setAside.list(), [{ id: 1, reader: "@grower", class: "measurement", why: /AT0005/u }]);
    t.match(store.setAside.get(1), { content: /"value":2/u });
    t.same(await store.streams.form(id, LIMITS), { seq: 2, fromSeq: 1 });
    t.match(contentOf(store, id, 2), { gap: { fromSeq: 1, toSeq: 1, readings: 2, reason: "refused" } });
    t.notOk(await store.streams.setAside(id, 2, "AT0005", START_MS, keep), "a gap is never given up");

    await store.setAside.retry(1, START_MS);
    t.same(store.setAside.list(), []);
    t.match(store.streams.formed(id), [{ seq: 2 }, { seq: 3, fromSeq: 3 }]);
    t.match(store.streams.load(id, 3), { type: "pack", recovered: true, readings: [{ value: 1 }, { value: 2 }] });
    await store.beginLife(id);
    t.match(store.streams.formed(id), [{ seq: 1 }], "also in a new life");
    t.match(store.streams.load(id, 1), { type: "pack", recovered: true });
    t.ok(
      await store.streams.setAside(id, 1, "AT0005", START_MS, keep),
      "set aside again, it is declared no second time",
    );
    t.match(await store.streams.form(id, LIMITS), { seq: 2 });
    t.match(contentOf(store, id, 2), { gap: { readings: 2, reason: "outbox-full" } }, "only the gap of the last life");
    t.equal(await store.streams.form(id, LIMITS), undefined);
    await store.setAside.drop(2);
    await t.rejects(store.setAside.drop(2), { code: "NOT_ASIDE" });
    await t.rejects(store.setAside.retry(2, START_MS), { code: "NOT_ASIDE" });
  });

  t.test("keeps a bounded number of bytes aside, the latest", async (t) => {
    const store = await open(t, tempFolder(t));
    const content = JSON.stringify([{ name: "n", value: "x".repeat(90_000), timeMs: START_MS }]);
    await store.publish(numbers(1, 1));
    await store.streams.form(streamOf(store).id, LIMITS);
    const keep = (): void => {
      for (let n = 1; n <= 100; n += 1)
        store.setAside.add({ atMs: n, reader: "@gone", class: "event", why: "AT0005", content });
    };
    await store.streams.setAside(streamOf(store).id, 1, "AT0005", START_MS, keep);
    const kept = store.setAside.list();
    t.ok(kept.reduce((sum, { bytes }) => sum + bytes, 0) <= MAX_ASIDE_BYTES);
    t.equal(kept.at(-1)?.atMs, 100);
    t.equal(store.setAside.counts.forgotten, 100 - kept.length);
    await t.rejects(store.setAside.retry(kept[0]?.id ?? 0, START_MS), { code: "NOT_ASIDE", message: /no reader/u });
  });

  t.test("dates readings of before the clock was right when it is, by their age", async (t) => {
    const time = new ManualTime();
    Object.assign(time, { known: false, ms: 1000, mono: 50_000 });
    const store = await open(t, tempFolder(t), { time });
    await store.publish([{ name: "n", value: 1, timeMs: 400 }]);
    const { id } = streamOf(store);
    t.equal(await store.streams.form(id, LIMITS), undefined, "it waits for its date");
    Object.assign(time, { known: true, ms: START_MS, mono: 60_000 });
    await store.publish([reading(2)]);
    await store.streams.form(id, LIMITS);
    t.match(store.streams.load(id, 1), {
      undated: undefined,
      readings: [
        { value: 1, timeMs: START_MS - 10_600 },
        { value: 2, timeMs: START_MS },
      ],
    });
  });

  t.test("brackets readings of a boot that ended before its time was known", async (t) => {
    const folder = tempFolder(t);
    const time = new ManualTime();
    const first = await open(t, folder, { time });
    await first.maintain();
    await first.close();
    const dark = new ManualTime();
    Object.assign(dark, { known: false, ms: 0, mono: 7000, boot: "d".repeat(32) });
    const second = await open(t, folder, { time: dark });
    await second.publish([reading(1)]);
    await second.close();
    const later = new ManualTime();
    Object.assign(later, { ms: START_MS + 900_000, boot: "e".repeat(32) });
    const third = await open(t, folder, { time: later });
    await third.publish([reading(2)]);
    const { id } = streamOf(third);
    await third.streams.form(id, LIMITS);
    await third.streams.form(id, LIMITS);
    t.match(third.streams.load(id, 1), {
      undated: { boot: "d".repeat(32), timeFrom: START_MS, timeTo: START_MS + 900_000 },
      readings: [{ value: 1, timeMs: START_MS + 7000 }],
    });
    t.match(third.streams.load(id, 2), { undated: undefined, readings: [{ value: 2, timeMs: START_MS + 900_000 }] });
  });

  t.test("keeps nothing when there is nobody to send it to", async (t) => {
    const store = await open(t, tempFolder(t), { readers: [] });
    let heard = 0;
    store.readings.listen((readings) => (heard += readings.length));
    await store.publish(numbers(1, 10));
    t.equal(heard, 10);
    t.match(store.health, { accepted: 10 });
  });
});

/** What a stream would deliver from here on: values, and readings in gaps. */
async function drain(
  store: Store,
  id: number,
  limits = LIMITS,
): Promise<{ values: number[]; lost: number; gaps: number }> {
  const values: number[] = [];
  let lost = 0;
  let gaps = 0;
  for (;;) {
    await store.streams.form(id, limits);
    const formed = store.streams.formed(id);
    if (formed.length === 0) return { values, lost, gaps };
    for (const { seq } of formed) {
      const message = store.streams.load(id, seq);
      if (message?.type === "pack") values.push(...message.readings.map(({ value }) => Number(value)));
      if (message?.type === "gap") {
        lost += message.gap.readings ?? Number.NaN;
        gaps += 1;
      }
    }
    await store.streams.taken(
      id,
      formed.map(({ seq }) => seq),
    );
  }
}

t.test("a full outbox", async (t) => {
  const space = { maxBytes: 1 << 20, minFreeBytes: 0 };

  t.test("gives up measurements before alarms, oldest first, and declares each of them", async (t) => {
    const folder = tempFolder(t);
    const store = await open(t, folder, { space, walLimitBytes: 200_000 });
    await store.publish(Array.from({ length: 500 }, (_, n) => reading(n, "alarm")));
    const measurement = streamOf(store).id;
    let accepted = 0;
    for (let round = 0; round < 200; round++) {
      await store.publish(numbers(accepted + 1, accepted + 300));
      accepted += 300;
      // Some are in messages when they are given up.
      if (round % 10 === 0) await store.streams.form(measurement, LIMITS);
    }
    t.ok(store.health.usedBytes <= space.maxBytes, `${store.health.usedBytes} bytes`);
    t.ok(statSync(join(folder, "outbox.db")).size < space.maxBytes * 1.5);
    t.ok(store.health.evicted > 0);
    const { values, lost, gaps } = await drain(store, measurement);
    t.equal(values.length + lost, accepted);
    t.equal(values.at(-1), accepted);
    t.same(
      values,
      [...values].sort((a, b) => a - b),
      "in order",
    );
    t.ok(gaps <= 21, `neighbours are merged while nothing is sent: ${gaps} gaps`);
    const alarms = await drain(store, streamOf(store, "@grower", "alarm").id);
    t.match(alarms, { values: { length: 500 }, lost: 0 });
    await store.maintain();
    t.ok(store.health.usedBytes < 100_000, "the space is free again");
  });

  t.test("never lets a measurement drive out an alarm", async (t) => {
    const store = await open(t, tempFolder(t), { space });
    for (let n = 0; store.health.evicted === 0; n += 100)
      await store.publish(Array.from({ length: 100 }, (_, index) => reading(n + index, "alarm")));
    const alarm = streamOf(store, "@grower", "alarm").id;
    const before = store.streams.waiting(alarm, 1_000_000);
    t.ok(before > 1000);
    let refused = 0;
    for (let n = 0; n < 50; n++) await store.publish(numbers(n * 100, n * 100 + 99)).catch(() => (refused += 1));
    t.equal(store.streams.waiting(alarm, 1_000_000), before);
    await store.publish([reading(1, "alarm")]);
    t.comment(`${refused} of 50 were refused, the others drove out their own kind`);
  });

  t.test("does not grow while the disk is below its floor", async (t) => {
    const folder = tempFolder(t);
    let free = 1 << 30;
    const store = await open(t, folder, { space: { maxBytes: 1 << 30, minFreeBytes: 1 << 20, freeBytes: () => free } });
    await store.publish(numbers(1, 10_000));
    await store.flush();
    const size = statSync(join(folder, "outbox.db")).size;
    free = 1000;
    for (let n = 0; n < 20; n++) await store.publish(numbers(10_001 + n * 500, 10_500 + n * 500));
    await store.close();
    t.ok(statSync(join(folder, "outbox.db")).size <= Math.max(size, store.health.usedBytes) + 500_000);
    const again = await open(t, folder);
    const { values, lost } = await drain(again, streamOf(again).id);
    t.equal(values.length + lost, 20_000);
    t.ok(lost > 0);
  });
});

t.test("a class of the outbox", async (t) => {
  t.test("takes no more than its share, and leaves the others alone", async (t) => {
    const space = { maxBytes: 4 << 20, minFreeBytes: 0, shares: { measurement: 0.25 } };
    const store = await open(t, tempFolder(t), { space });
    for (let n = 0; n < 40_000; n += 500) await store.publish(numbers(n + 1, n + 500));
    for (let n = 0; n < 40_000; n += 500)
      await store.publish(Array.from({ length: 500 }, (_, index) => reading(n + index, "event")));
    const events = await drain(store, streamOf(store, "@grower", "event").id, { maxReadings: 1000, maxBytes: 100_000 });
    t.match(events, { values: { length: 40_000 }, lost: 0 }, "room enough for the others");
    const used = store.health.usedBytes;
    t.ok(used < (1 << 20) * 1.5, `${used} bytes are measurements`);
    const measured = await drain(store, streamOf(store).id);
    t.equal(measured.values.length + measured.lost, 40_000);
    t.ok(measured.lost > 0 && measured.values.length > 10_000, `${measured.values.length} are kept`);
    t.equal(store.health.evicted, measured.lost);
  });

  t.test("gives up what is older than its age, wholly, by the time that never goes back", async (t) => {
    const time = new ManualTime();
    const store = await open(t, tempFolder(t), { time, maxAgeMs: { measurement: 3_600_000 } });
    const { id } = streamOf(store);
    await store.publish(numbers(1, 10));
    await store.streams.form(id, { maxReadings: 5, maxBytes: 100_000 });
    time.ms += 1_800_000;
    await store.publish(numbers(11, 15));
    await store.publish([reading(1, "event")]);
    time.ms += 1_700_000;
    await store.maintain();
    t.equal(store.health.expired, 0, "not before their time");
    time.ms += 200_000;
    await store.maintain();
    t.equal(store.health.expired, 10);
    await store.streams.form(id, LIMITS);
    t.match(contentOf(store, id, 2), {
      gap: { fromSeq: 1, toSeq: 2, readings: 10, timeFrom: START_MS, timeTo: START_MS, reason: "too-old" },
    });
    await store.streams.form(id, LIMITS);
    t.same(contentOf(store, id, 3), [11, 12, 13, 14, 15]);
    t.match(await drain(store, streamOf(store, "@grower", "event").id), { values: [1], lost: 0 });
  });

  t.test("gives up readings without a date when their whole boot is too old", async (t) => {
    const folder = tempFolder(t);
    const time = new ManualTime();
    time.known = false;
    const first = await open(t, folder, { time, maxAgeMs: { measurement: 3_600_000 } });
    await first.publish(numbers(1, 3));
    await first.close();
    time.boot = "0".repeat(31) + "2";
    time.known = true;
    const second = await open(t, folder, { time, maxAgeMs: { measurement: 3_600_000 } });
    await second.publish(numbers(4, 5));
    time.ms += 3_500_000;
    await second.maintain();
    t.equal(second.health.expired, 0);
    time.ms += 200_000;
    await second.maintain();
    t.equal(second.health.expired, 5);
    t.match(await drain(second, streamOf(second).id), { values: [], lost: 5 });
  });

  t.test("of answers is bounded too, the oldest go, and what was done is known all the same", async (t) => {
    const store = await open(t, tempFolder(t), { space: { maxBytes: 2 << 20, minFreeBytes: 0 } });
    const body = { text: "x".repeat(10_000) };
    for (let n = 0; n < 100; n += 1) {
      const id = String(n);
      await store.ledger.accept({ caller: "@boss", id, detail: null, acceptedMs: 1, expiresMs: 2 });
      await store.ledger.finish(
        "@boss",
        id,
        { n },
        { to: "@boss", name: `success.${n}`, body, sealed: true, expiresMs: 9 },
      );
    }
    const pending = store.answers.pending();
    t.ok(pending.length >= 10 && pending.length < 30, `${pending.length} of 100 wait`);
    t.equal(pending.at(-1)?.name, "success.99");
    t.match(store.ledger.find("@boss", "0"), { state: "done", answer: { n: 0 } });
  });

  t.test("of answers gives way to alarms, and drives out measurements", async (t) => {
    const space = { maxBytes: 1 << 20, minFreeBytes: 0, shares: { answer: 1 } };
    const store = await open(t, tempFolder(t), { space });
    const put = (n: number): Promise<void> =>
      store.answers.put({ to: "@boss", name: `a.${n}`, body: { text: "x".repeat(8_000) }, sealed: true, expiresMs: 9 });
    await store.publish(numbers(1, 10_000));
    for (let n = 0; n < 200; n += 1) await put(n);
    t.ok(store.health.evicted > 0);
    t.ok(store.health.usedBytes <= space.maxBytes);
    const alarm = (n: number): Reading => ({ name: "n", value: `${n} ${"!".repeat(4000)}`, class: "alarm" });
    for (let n = 0; n < 400; n += 1) await store.publish([alarm(n)]);
    t.equal(store.answers.pending().length, 0);
    const before = store.health.answersDropped;
    await put(201);
    t.ok(store.health.answersDropped > before || store.answers.pending().length === 1);
    t.ok(store.health.usedBytes <= space.maxBytes + 65_536);
  });
});

t.test("space that is free goes back to the file system", async (t) => {
  const folder = tempFolder(t);
  const store = await open(t, folder, { walLimitBytes: 200_000 });
  const long = { name: "n", value: "x".repeat(500) };
  for (let n = 0; n < 12_000; n += 1_000) await store.publish(Array.from({ length: 1_000 }, () => long));
  await store.flush();
  const full = statSync(join(folder, "outbox.db")).size;
  t.ok(full > 4 << 20, `${full} bytes`);
  await drain(store, streamOf(store).id, { maxReadings: 1000, maxBytes: 1_000_000 });
  await store.maintain();
  await store.close();
  const after = statSync(join(folder, "outbox.db")).size;
  t.ok(after < 2.5 * (1 << 20), `${after} bytes are left of ${full}`);
});

t.test("the identity of an outbox", async (t) => {
  t.test("survives restarts", async (t) => {
    const folder = tempFolder(t);
    const first = await open(t, folder);
    t.equal(first.identityVerdict, "new");
    await first.close();
    const second = await open(t, folder);
    t.equal(second.identityVerdict, "same");
    t.equal(second.health.identity, "same");
  });

  t.test("begins a new life when the outbox was lost, and says that nobody knows what was in it", async (t) => {
    const folder = tempFolder(t);
    const first = await open(t, folder);
    const { life } = streamOf(first);
    await first.close();
    rmSync(join(folder, "outbox.db"));
    const second = await open(t, folder);
    t.equal(second.identityVerdict, "lost");
    const stream = streamOf(second);
    t.match(stream, { life: { stream: life.stream, inc: 2 }, prev: life });
    await second.publish([reading(1)]);
    await second.streams.form(stream.id, LIMITS);
    t.match(second.streams.load(stream.id, 1), { gap: { readings: null, reason: "outbox-lost" } });
  });

  t.test("begins a new life when the database is an older one, and sends again what that has", async (t) => {
    const folder = tempFolder(t);
    const first = await open(t, folder);
    await first.publish(numbers(1, 3));
    await first.streams.form(streamOf(first).id, LIMITS);
    await first.close();
    copyFileSync(join(folder, "outbox.db"), join(folder, "backup"));
    await (await open(t, folder)).close();
    copyFileSync(join(folder, "backup"), join(folder, "outbox.db"));
    const restored = await open(t, folder);
    t.equal(restored.identityVerdict, "restored");
    const { id, life } = streamOf(restored);
    t.equal(life.inc, 2);
    const { values, lost } = await drain(restored, id);
    t.same(values, [1, 2, 3]);
    t.ok(Number.isNaN(lost), "a gap of unknown size");
  });

  t.test("changes nothing on a copied card until it is enrolled anew, and then takes another stream", async (t) => {
    const folder = tempFolder(t);
    const first = await open(t, folder);
    await first.publish(numbers(1, 2));
    const { life } = streamOf(first);
    await first.close();
    for (const round of [1, 2]) {
      const clone = await open(t, folder, { machineId: "cd".repeat(32) });
      t.equal(clone.identityVerdict, "cloned", `start ${round}`);
      await clone.publish(numbers(3, 3));
      await clone.close();
    }
    const anew = await open(t, folder, { machineId: "cd".repeat(32), enrolledAnew: true });
    const stream = streamOf(anew);
    t.not(stream.life.stream, life.stream);
    t.same(stream.prev, life);
    t.same((await drain(anew, stream.id)).values, [1, 2, 3, 3]);
    await anew.close();
    const second = await open(t, folder, { machineId: "cd".repeat(32) });
    t.equal(second.identityVerdict, "same");
  });

  t.test("begins a new life when a reader knows more than we do, on the disk before it is used", async (t) => {
    const folder = tempFolder(t);
    const store = await open(t, folder);
    await store.publish(numbers(1, 4));
    const { id, life } = streamOf(store);
    await store.streams.form(id, { ...LIMITS, maxReadings: 2 });
    await store.streams.form(id, LIMITS);
    await store.streams.taken(id, [1]);
    const next = await store.beginLife(id);
    t.match(next, { life: { stream: life.stream, inc: 2 }, prev: life, lastSeq: 0 });
    t.same((await drain(store, id)).values, [3, 4], "what has no receipt is sent under new numbers");
    await store.close();
    rmSync(join(folder, "outbox.db"));
    t.equal(streamOf(await open(t, folder)).life.inc, 3, "a life is never used twice, whatever is lost");
  });

  t.test("gives a reader who comes later what is accepted from then on", async (t) => {
    const folder = tempFolder(t);
    const first = await open(t, folder);
    await first.publish(numbers(1, 3));
    await first.close();
    const second = await open(t, folder, { readers: ["@grower", "@late"] });
    await second.publish(numbers(4, 4));
    t.same((await drain(second, streamOf(second, "@late").id)).values, [4]);
    t.same((await drain(second, streamOf(second).id)).values, [1, 2, 3, 4]);
    await second.close();
    const third = await open(t, folder, { readers: ["@late"] });
    t.equal(third.streams.list("@grower").length, 0);
    await third.close();
    const back = await open(t, folder, { readers: ["@grower"] });
    t.match(streamOf(back), { life: { inc: 2 } }, "one that was dismissed and comes back begins a new life");
  });
});

t.test("the ledger", async (t) => {
  t.test("takes a command once, over restarts, and keeps its answer", async (t) => {
    const folder = tempFolder(t);
    const command = { caller: "@boss", id: "c1", detail: { target: "vent" }, acceptedMs: 5, expiresMs: START_MS };
    const first = await open(t, folder);
    t.ok(Number(first.ledger.birthMs) > 0);
    t.same(await first.ledger.accept(command), { kind: "new" });
    t.match(await first.ledger.accept(command), { kind: "repeat", entry: { state: "accepted", answer: undefined } });
    t.same(await first.ledger.accept({ ...command, caller: "@other" }), { kind: "new" });
    const birth = first.ledger.birthMs;
    await first.close();

    const second = await open(t, folder);
    t.equal(second.ledger.birthMs, birth);
    t.match(second.ledger.unfinished(), [
      { caller: "@boss", detail: { target: "vent" } },
      { caller: "@other", id: "c1" },
    ]);
    const answer = {
      to: "@boss",
      name: "success.1.cmd.__rpcs.north.atedge",
      body: { a: 1 },
      sealed: true,
      expiresMs: 9,
    };
    let heard = 0;
    second.answers.listen(() => (heard += 1));
    await second.ledger.finish("@boss", "c1", { ok: true }, answer);
    t.equal(heard, 1);
    t.match(await second.ledger.accept(command), { kind: "repeat", entry: { state: "done", answer: { ok: true } } });
    t.match(second.answers.pending(), [{ ...answer, notificationId: undefined }]);
    t.equal(await second.ledger.prune(START_MS + 1000), 0, "clocks differ");
    t.equal(await second.ledger.prune(START_MS + 48 * 3_600_000), 1);
    t.equal(second.ledger.unfinished().length, 1, "what has no answer stays");
  });

  t.test("keeps answers until they are delivered", async (t) => {
    const folder = tempFolder(t);
    const first = await open(t, folder);
    await first.answers.put({ to: "@boss", name: "nack.2.x", body: {}, sealed: false, expiresMs: 7 });
    const [answer] = first.answers.pending();
    await first.answers.sent(answer?.id ?? 0, "server-id");
    await first.close();
    const second = await open(t, folder);
    t.match(second.answers.pending(), [{ notificationId: "server-id", sealed: false }]);
    await second.answers.done(answer?.id ?? 0);
    t.same(second.answers.pending(), []);
  });
});

t.test("what else must not be forgotten outlives a restart", async (t) => {
  const folder = tempFolder(t);
  const first = await open(t, folder);
  await first.pins.set("@boss", "sha256:aa");
  await first.pins.set("@boss", "sha256:bb", "accepted");
  t.equal(await first.monitor.load(), undefined);
  await first.monitor.save({
    epochMillis: 1001,
    seen: [
      ["a", 1000],
      ["b", 1001],
    ],
  });
  await first.monitor.save({
    epochMillis: 1002,
    seen: [
      ["b", 1001],
      ["c", 1002],
    ],
  });
  first.counters.add("refused.policy");
  first.counters.add("refused.policy", 2);
  await first.close();
  const second = await open(t, folder);
  t.equal(second.pins.get("@boss"), "sha256:bb");
  t.equal(second.pins.get("@nobody"), undefined);
  t.match(second.pins.all(), [{ atSign: "@boss", how: "accepted" }]);
  t.same(await second.monitor.load(), {
    epochMillis: 1002,
    seen: [
      ["b", 1001],
      ["c", 1002],
    ],
  });
  t.equal(second.counters.get("refused.policy"), 3);
  t.same(second.counters.all(), { "refused.policy": 3 });
});

t.test("a database that cannot be used", async (t) => {
  t.test("is moved aside when it is damaged, and a new life begins", async (t) => {
    const folder = tempFolder(t);
    await (await open(t, folder)).close();
    writeFileSync(join(folder, "outbox.db"), "this is no database, it is a text of some length".repeat(100));
    const store = await open(t, folder);
    t.equal(store.identityVerdict, "lost");
    t.equal(streamOf(store).life.inc, 2);
    t.ok(readdirSync(folder).some((name) => name.startsWith("outbox.db.unreadable-")));
    await store.publish([reading(1)]);
  });

  t.test("is left alone when it is newer than the program", async (t) => {
    const folder = tempFolder(t);
    await (await open(t, folder)).close();
    const db = new Database(join(folder, "outbox.db"));
    db.pragma("user_version = 99");
    db.close();
    await t.rejects(open(t, folder), { code: "STORE_TOO_NEW", message: /update atedge/u });
  });

  t.test("is left alone when another agent has it", async (t) => {
    const folder = tempFolder(t);
    const store = await open(t, folder);
    await t.rejects(open(t, folder), { code: "STORE_IN_USE" });
    await store.publish([reading(1)]);
  });
});
