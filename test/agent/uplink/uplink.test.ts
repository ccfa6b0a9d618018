import fc from "fast-check";
import { randomBytes } from "node:crypto";
import { rmSync } from "node:fs";
import { join } from "node:path";
import type { Test } from "tap";
import t from "tap";
import type { Reading, ReadingClass } from "../../../core/driver.js";
import { keyHashOf } from "../../../messages/key-proof.js";
import { atKeyOf, infoKey, proofKey, receiptKey, stateKey } from "../../../messages/names.js";
import { parseInfo } from "../../../messages/info.js";
import { formatReceipt } from "../../../messages/receipt.js";
import { openSealed, seal } from "../../../messages/seal.js";
import { StreamSender } from "../../../messages/stream-sender.js";
import { parseState } from "../../../messages/state.js";
import { parseAtSign } from "../../../atplatform/protocol/at-sign.js";
import { seededRandom } from "../../fixtures/seeded-random.js";
import { tempFolder } from "../../fixtures/temp-folder.js";
import {
  ADDRESS,
  anotherKey,
  FakeReader,
  FakeWorld,
  US,
  type Fate,
  type WorldOptions,
} from "../../fixtures/uplink/fake-world.js";

const grower = new FakeReader("@grower");
const boss = new FakeReader("@boss");
const fresh = (reader: FakeReader): FakeReader => new FakeReader(reader.atSign, reader.party);

async function world(t: Test, options: Partial<WorldOptions> = {}) {
  const readers = options.readers ?? [fresh(grower)];
  const made = new FakeWorld({ folder: tempFolder(t), ...options, readers });
  await made.start();
  t.teardown(() => made.end());
  const [first] = readers;
  if (!first) throw new Error("no reader");
  return { world: made, reader: first, readers };
}

const readings = (from: number, to: number, readingClass: ReadingClass = "measurement"): Reading[] =>
  Array.from({ length: to - from + 1 }, (_, index) => ({ name: "n", value: from + index, class: readingClass }));
const range = (from: number, to: number): number[] => readings(from, to).map(({ value }) => Number(value));
const part = (made: FakeWorld, name: string) => made.uplink?.health().find((found) => found.name === name);
const failing = (code: string): Error => Object.assign(new Error(code), { code });

t.test("the uplink", async (t) => {
  t.test("brings readings to the reader and frees the outbox when that has them", async (t) => {
    const { world: made, reader } = await world(t);
    await made.store?.publish(readings(1, 25));
    await made.pass(6000);
    t.same(reader.got("measurement"), { values: range(1, 25), lost: 0 });
    await made.pass(30_000);
    t.match(part(made, "reader.@grower"), { state: "ok", counters: { unreceipted: 0, resent: 0 } });
    t.equal(made.sent.length, 3, "two full messages and the rest");
    t.ok(made.sent.every(({ ttlnMs }) => ttlnMs === 86_400_000));
    t.equal(new Set(made.sent.map(({ id }) => id)).size, 3);
  });

  t.test("does not wait for company with an alarm, and lets it overtake", async (t) => {
    const { world: made, reader } = await world(t);
    await made.store?.publish(readings(1, 5));
    await made.store?.publish(readings(100, 100, "alarm"));
    for (let n = 0; n < 3; n++) {
      await made.store?.flush();
      await made.clock.advance(1);
    }
    t.same(reader.got("alarm").values, [100]);
    t.same(reader.got("measurement").values, [], "measurements wait for a second");
  });

  t.test("keeps all while the link is down, and then sends full messages", async (t) => {
    const { world: made, reader } = await world(t);
    made.fate = () => "refuse";
    for (let n = 0; n < 20; n++) {
      await made.store?.publish(readings(n * 7 + 1, n * 7 + 7));
      await made.pass(4000);
    }
    t.match(part(made, "reader.@grower"), { state: "degraded", code: "AT0021" });
    made.fate = () => "pass";
    await made.pass(200_000);
    t.same(reader.got("measurement").values, range(1, 140));
    t.match(part(made, "reader.@grower"), { state: "ok", counters: { unreceipted: 0 } });
    t.ok(made.sent.length < 25, `${made.sent.length} messages`);
  });

  t.test("lets no reader hold up another", async (t) => {
    const { world: made, readers } = await world(t, { readers: [fresh(grower), fresh(boss)] });
    made.fate = (to) => (to === "@grower" ? "refuse" : "pass");
    await made.store?.publish(readings(1, 700));
    await made.pass(200_000);
    t.equal(readers[1]?.got("measurement").values.length, 700);
    t.equal(readers[0]?.got("measurement").values.length, 0);
    made.fate = () => "pass";
    await made.pass(200_000);
    t.equal(readers[0]?.got("measurement").values.length, 700);
  });

  t.test("has at most 64 messages without a receipt under way", async (t) => {
    const { world: made, reader } = await world(t, { maxBatch: 1 });
    made.receiptFate = () => "lose";
    await made.store?.publish(readings(1, 200));
    await made.pass(40_000);
    t.equal(reader.got("measurement").values.length, 64);
    made.receiptFate = () => "pass";
    await made.pass(200_000);
    t.same(reader.got("measurement").values, range(1, 200));
  });

  t.test("sends again by itself what nobody confirms, under the same number and another id", async (t) => {
    const { world: made, reader } = await world(t);
    made.fate = () => "lose";
    await made.store?.publish(readings(1, 3));
    await made.pass(60_000);
    t.equal(made.sent.length, 1);
    made.fate = () => "pass";
    await made.pass(60_000);
    t.same(reader.got("measurement").values, [1, 2, 3]);
    t.equal(reader.messages[0]?.seq, 1);
    t.equal(new Set(made.sent.map(({ id }) => id)).size, 2);
    t.match(part(made, "reader.@grower"), { counters: { resent: 1 } });
  });

  t.test("goes on after a restart where it was", async (t) => {
    const { world: made, reader } = await world(t);
    made.receiptFate = () => "lose";
    await made.store?.publish(readings(1, 15));
    await made.pass(6000);
    await made.store?.publish(readings(16, 17));
    await made.end();
    await made.start();
    made.receiptFate = () => "pass";
    await made.pass(40_000);
    t.same(reader.got("measurement"), { values: range(1, 17), lost: 0 });
    t.same([...reader.states.keys()].length, 1, "one life");
  });

  t.test("puts the proof of its AES key before the first message that uses it", async (t) => {
    const { world: made } = await world(t);
    let proofAtSend: unknown;
    made.trouble = () => {
      proofAtSend ??= made.records.get(`@grower:${proofKey(ADDRESS)}`);
      return undefined;
    };
    await made.store?.publish(readings(1, 1));
    await made.pass(40_000);
    t.match(proofAtSend, { text: /atedge-key\/1/u });
    t.equal(made.records.get(`@grower:${proofKey(ADDRESS)}`)?.puts, 1);
  });

  t.test("sends nothing to a reader whose key has changed, and goes on with the others", async (t) => {
    const { world: made, readers } = await world(t, { readers: [fresh(grower), fresh(boss)] });
    await made.store?.publish(readings(1, 2));
    await made.pass(40_000);
    await made.end();
    const before = made.sent.length;
    made.published.set("@grower", anotherKey());
    await made.start();
    await made.store?.publish(readings(3, 4));
    await made.pass(40_000);
    t.match(part(made, "reader.@grower"), { state: "failed", code: "PEER_KEY_CHANGED" });
    t.match(part(made, "reader.@boss"), { state: "ok" });
    t.ok(made.sent.slice(before).every(({ to }) => to === "@boss"));
    made.published.set("@grower", grower.party.publicText);
    await made.pass(700_000);
    t.same(readers[0]?.got("measurement").values, [1, 2, 3, 4], "what was kept is sent when the key is right again");
  });

  t.test("sends nothing when the AES key was made for another public key than the pinned", async (t) => {
    const { world: made } = await world(t);
    await made.store?.publish(readings(1, 1));
    await made.pass(4000);
    const before = made.sent.length;
    made.published.set("@grower", anotherKey()); // only what is asked later is wrong
    await made.store?.publish(readings(2, 2));
    await made.pass(40_000);
    t.equal(made.sent.length, before);
    t.match(part(made, "reader.@grower"), { state: "failed", code: "PEER_KEY_CHANGED" });
  });

  t.test("sends nothing under an AES key that our atServer has swapped, until a human accepts it", async (t) => {
    const { world: made, reader } = await world(t);
    await made.store?.publish(readings(1, 2));
    await made.pass(40_000);
    const before = made.sent.length;
    const swapped = randomBytes(32);
    made.sharedKeys.set(grower.atSign, swapped);
    await made.store?.publish(readings(3, 4));
    await made.pass(40_000);
    t.equal(made.sent.length, before);
    t.match(part(made, "reader.@grower"), { state: "failed", code: "OWN_KEY_CHANGED" });
    made.acceptedKeys.add(`sha256:${keyHashOf(swapped)}`);
    await made.pass(700_000);
    t.same(reader.got("measurement").values, [1, 2, 3, 4]);
  });

  t.test("sets a message aside that is refused for its own sake, and declares it", async (t) => {
    const { world: made, reader } = await world(t);
    made.trouble = ({ value = "" }) => (/"v":13\b/u.test(value) ? failing("AT0005") : undefined);
    await made.store?.publish(readings(11, 14));
    await made.store?.publish(readings(15, 30));
    await made.pass(600_000);
    const { values, lost } = reader.got("measurement");
    t.equal(values.length + lost, 20);
    t.equal(lost, 10, "its whole message");
    t.match(made.store?.setAside.list(), [{ why: /AT0005/u }]);
    t.match(part(made, "reader.@grower"), { state: "ok", counters: { aside: 1 } });

    made.trouble = () => undefined;
    await made.store?.setAside.retry(1, made.clock.now());
    made.uplink?.nudge();
    await made.pass(100_000);
    t.equal(reader.got("measurement").values.length, 20, "sent once more by hand, it comes");
    t.match(made.store?.setAside.list(), []);
    t.equal(made.store?.streams.formed(1).length, 0);
  });

  t.test("begins a new life when the reader has more than was ever sent", async (t) => {
    const { world: made, reader } = await world(t);
    await made.store?.publish(readings(1, 3));
    await made.pass(30_000);
    const [state] = reader.states.values();
    if (!state) throw new Error("nothing came");
    const body = formatReceipt({ consumer: "keep", ...state, have: 999 });
    await made.receive(reader, seal(body, atKeyOf(US, receiptKey(ADDRESS), reader.atSign), reader.aesKey));
    await made.store?.publish(readings(4, 6));
    await made.pass(60_000);
    t.match(
      [...reader.states.values()].map(({ inc }) => inc),
      [1, 2],
    );
    t.same(reader.got("measurement").values, range(1, 6));
    t.match(part(made, "reader.@grower"), { counters: { unreceipted: 0, lives: 1 } });
  });

  t.test("takes a reader without receipts for served when its atServer has the message", async (t) => {
    const { world: made, reader } = await world(t, { reader: { receipts: false } });
    made.status = "queued";
    await made.store?.publish(readings(1, 3));
    await made.pass(20_000);
    t.match(part(made, "reader.@grower"), { counters: { unreceipted: 1 } });
    made.status = "delivered";
    await made.pass(60_000);
    t.match(part(made, "reader.@grower"), { counters: { unreceipted: 0, confirmed: 1 } });
    t.equal(reader.got("measurement").values.length, 3);
  });
});

t.test("a receipt", async (t) => {
  const good = async (t: Test) => {
    const made = await world(t);
    made.world.receiptFate = () => "lose";
    await made.world.store?.publish(readings(1, 3));
    await made.world.pass(4000);
    const [text = ""] = made.reader.receipts("keep");
    return { ...made, text };
  };
  const unreceipted = (made: FakeWorld) => part(made, "reader.@grower")?.counters["unreceipted"];
  const refused = (made: FakeWorld) => part(made, "receipts")?.counters;

  t.test("that is right frees the outbox", async (t) => {
    const { world: made, reader, text } = await good(t);
    t.equal(unreceipted(made), 1);
    await made.receive(reader, text);
    t.equal(unreceipted(made), 0);
  });

  t.test("with one bit flipped is refused, and nothing is trimmed", async (t) => {
    const { world: made, reader, text } = await good(t);
    await made.receive(reader, text.replace('"have":1', '"have":0'));
    t.match(refused(made), { SEAL_INVALID: 1 });
    t.equal(unreceipted(made), 1);
  });

  t.test("under a key that the reader has not vouched for is refused", async (t) => {
    const { world: made, reader } = await good(t);
    const swapped = Buffer.alloc(32, 7);
    const [state] = reader.states.values();
    if (!state) throw new Error("nothing came");
    const body = formatReceipt({ consumer: "keep", ...state });
    await made.receive(reader, seal(body, atKeyOf(US, receiptKey(ADDRESS), reader.atSign), swapped), swapped);
    t.match(refused(made), { KEY_PROOF_INVALID: 1 });
    t.equal(unreceipted(made), 1);
  });

  t.test("of another consumer moves nothing", async (t) => {
    const { world: made, reader } = await good(t);
    await made.receive(reader, reader.receipts("watch")[0] ?? "");
    t.match(refused(made), { OTHER_CONSUMER: 1 });
    t.equal(unreceipted(made), 1);
  });

  t.test("of an atSign that is no reader is counted and nothing else", async (t) => {
    const { world: made, text } = await good(t);
    await made.receive(new FakeReader("@stranger", boss.party), text);
    t.match(refused(made), { UNKNOWN_READER: 1 });
  });

  t.test("of another life changes nothing", async (t) => {
    const { world: made, reader } = await good(t);
    const [state] = reader.states.values();
    if (!state) throw new Error("nothing came");
    const body = formatReceipt({ consumer: "keep", ...state, inc: 9 });
    await made.receive(reader, seal(body, atKeyOf(US, receiptKey(ADDRESS), reader.atSign), reader.aesKey));
    t.equal(unreceipted(made), 1);
  });
});

t.test("answers", async (t) => {
  const answer = (made: FakeWorld, sealed: boolean, lifeMs = 60_000) => ({
    to: "@boss",
    name: "success.17.cmd.__rpcs.north.atedge",
    body: { reqId: 17, respType: "success", payload: { id: "c1", result: 5 }, message: null },
    sealed,
    expiresMs: made.clock.now() + lifeMs,
  });
  const theirs = (made: FakeWorld) => made.sent.filter(({ to }) => to === "@boss");
  const bossWorld = (t: Test) => world(t, { readers: [fresh(grower), fresh(boss)] });

  t.test("are sealed, sent at once, and kept until they are delivered", async (t) => {
    const { world: made } = await bossWorld(t);
    made.status = "queued";
    await made.store?.answers.put(answer(made, true));
    await made.pass(4000);
    const [sent] = theirs(made);
    const text = sent?.value ?? "";
    const opened = openSealed(text, atKeyOf("@boss", sent?.key ?? "", US), sent?.encryptWith ?? Buffer.alloc(32));
    t.match(opened, { reqId: 17, payload: { result: 5 } });
    t.equal(made.store?.answers.pending().length, 1);
    made.status = "delivered";
    await made.pass(30_000);
    t.equal(made.store?.answers.pending().length, 0);
    t.equal(theirs(made).length, 1);
  });

  t.test("go in clear form to callers who know no seal", async (t) => {
    const { world: made } = await bossWorld(t);
    await made.store?.answers.put(answer(made, false));
    await made.pass(4000);
    t.same(JSON.parse(theirs(made)[0]?.value ?? ""), answer(made, false).body);
    t.equal(theirs(made)[0]?.encryptWith, undefined);
  });

  t.test("are sent again when the atServer gives them up, until they expire", async (t) => {
    const { world: made } = await bossWorld(t);
    made.status = "unknown";
    await made.store?.answers.put(answer(made, true));
    await made.pass(40_000);
    t.ok(theirs(made).length > 1);
    await made.pass(60_000);
    const count = theirs(made).length;
    t.equal(made.store?.answers.pending().length, 0);
    await made.pass(60_000);
    t.equal(theirs(made).length, count);
  });
});

t.test("the records", async (t) => {
  t.test("show the latest value of each channel, at most every interval, and what the device is", async (t) => {
    const { world: made, reader } = await world(t);
    for (let n = 0; n < 30; n++) {
      await made.store?.publish([
        { name: "a", value: n },
        { name: "b", value: -n, unit: "Cel" },
      ]);
      await made.pass(2000);
    }
    const state = made.records.get(`@grower:${stateKey(ADDRESS)}`);
    t.ok((state?.puts ?? 0) >= 1 && (state?.puts ?? 9) <= 2, `${state?.puts} times in a minute`);
    await made.pass(120_000);
    const last = made.records.get(`@grower:${stateKey(ADDRESS)}`);
    const body = openSealed(
      last?.text ?? "",
      atKeyOf(reader.atSign, stateKey(ADDRESS), US),
      last?.aesKey ?? Buffer.alloc(0),
    );
    t.match(parseState(body).readings, [
      { name: "a", value: 29 },
      { name: "b", value: -29, unit: "Cel" },
    ]);
    const info = made.records.get(`@grower:${infoKey(ADDRESS)}`);
    const infoBody = openSealed(
      info?.text ?? "",
      atKeyOf(reader.atSign, infoKey(ADDRESS), US),
      info?.aesKey ?? Buffer.alloc(0),
    );
    t.match(parseInfo(infoBody), { version: "1" });
  });
});

t.test("whatever the link does, delivered and declared gaps are what was accepted, in order, each once", async (t) => {
  const fates: readonly Fate[] = ["pass", "pass", "pass", "lose", "double", "flip", "later", "refuse"];
  const step = fc.oneof(
    {
      weight: 6,
      arbitrary: fc.record({
        publish: fc.integer({ min: 1, max: 60 }),
        class: fc.constantFrom("measurement", "event", "alarm"),
      }),
    },
    { weight: 3, arbitrary: fc.record({ pass: fc.constantFrom(2000, 20_000, 100_000) }) },
    { weight: 1, arbitrary: fc.constant("restart" as const) },
  );
  const base = tempFolder(t);
  let run = 0;
  await fc.assert(
    fc.asyncProperty(
      fc.array(step, { minLength: 3, maxLength: 14 }),
      fc.integer(),
      fc.boolean(),
      async (steps, seed, isSmall) => {
        const readers = [fresh(grower), fresh(boss)];
        const folder = join(base, String((run += 1)));
        // A small outbox gives up readings; then the gaps must account for them.
        const space = { maxBytes: isSmall ? 150_000 : 1 << 28, minFreeBytes: 0 };
        const made = new FakeWorld({ folder, readers, maxBatch: 7, store: { space } });
        const random = seededRandom(seed);
        const draw = (): Fate => fates[Math.floor(random() * fates.length)] ?? "pass";
        made.fate = draw;
        made.receiptFate = draw;
        const accepted: Record<string, number> = { measurement: 0, event: 0, alarm: 0 };
        await made.start();
        for (const action of steps) {
          if (action === "restart") {
            await made.end();
            await made.start();
          } else if ("pass" in action) await made.pass(action.pass);
          else {
            const readingClass = parseClass(action.class);
            const from = (accepted[readingClass] ?? 0) + 1;
            const count = isSmall ? action.publish * 20 : action.publish;
            await made.store?.publish(readings(from, from + count - 1, readingClass)).then(
              () => (accepted[readingClass] = from + count - 1),
              (error: unknown) => {
                if ((error as { code?: string }).code !== "OUTBOX_FULL") throw error;
              },
            );
          }
        }
        made.fate = () => "pass";
        made.receiptFate = () => "pass";
        for (let n = 0; n < 40 && !isDrained(made); n++) await made.pass(200_000);
        const faults: string[] = [];
        for (const reader of readers) {
          for (const [readingClass, count] of Object.entries(accepted)) {
            const { values, lost } = reader.got(readingClass);
            if (values.some((value, index) => index > 0 && value <= (values[index - 1] ?? 0)))
              faults.push(`${reader.atSign} ${readingClass}: out of order or twice`);
            if (values.length + lost !== count)
              faults.push(`${reader.atSign} ${readingClass}: ${values.length} + ${lost} of ${count}`);
          }
        }
        if (made.failure instanceof Error) faults.push(made.failure.stack ?? made.failure.message);
        await made.end();
        rmSync(folder, { recursive: true });
        for (const fault of faults) t.comment(fault);
        if (faults.length > 0) throw new Error(faults.join("; "));
      },
    ),
    { numRuns: 15, endOnFailure: true },
  );
});

function isDrained(made: FakeWorld): boolean {
  const streams = made.store?.streams;
  return streams?.list().every(({ id }) => streams.formed(id).length === 0 && streams.waiting(id, 1) === 0) ?? true;
}

function parseClass(text: string): ReadingClass {
  if (text === "alarm" || text === "event") return text;
  return "measurement";
}

t.test(
  "nothing goes 64 numbers beyond what a gap gives up, so that the reader still knows what it had of that",
  async (t) => {
    const sender = new StreamSender({ life: { stream: "0".repeat(32), inc: 1 }, lastSeq: 0 });
    for (let seq = 1; seq <= 64; seq++) sender.add(seq);
    for (const seq of sender.due(0)) sender.sent(seq, 0);
    sender.drop(1, 3);
    sender.add(65, 1);
    t.equal(sender.room, 0);
    sender.add(66);
    t.same(sender.due(1), [65]);
    sender.receipt({ consumer: "c", stream: "0".repeat(32), inc: 1, have: 65, missing: [[4, 64]] }, 1);
    t.same(sender.due(1), [66]);
  },
);

t.test("a copied card sends nothing", async (t) => {
  const folder = tempFolder(t);
  const first = new FakeWorld({ folder, readers: [fresh(grower)] });
  await first.start();
  await first.end();
  const clone = new FakeWorld({ folder, readers: [fresh(grower)], store: { machineId: "cd".repeat(32) } });
  await clone.start();
  t.teardown(() => clone.end());
  await clone.store?.publish(readings(1, 5));
  await clone.pass(40_000);
  t.equal(clone.sent.length, 0);
  t.equal(parseAtSign("@grower"), "@grower");
});
