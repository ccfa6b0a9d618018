import { mkdtemp, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import Database from "better-sqlite3";
import t, { type Test } from "tap";
import { encryptText, newAesKey, newIv } from "../../atplatform/crypto/aes-ctr.js";
import { encryptAesKey, parsePublicKey } from "../../atplatform/crypto/rsa.js";
import { silentLog } from "../../core/log.js";
import { atKeyOf, parseAddress, proofKey, receiptKey, telemetryKey } from "../../messages/names.js";
import { PeerTrust, type PinStore } from "../../messages/peer-trust.js";
import { parseReceipt, type Receipt } from "../../messages/receipt.js";
import { openSealed, seal } from "../../messages/seal.js";
import { formatTelemetry, type TelemetryMessage, type TelemetryPack } from "../../messages/telemetry.js";
import { openIncoming } from "../../remote/inbound.js";
import { openKeepFile, type KeepFile } from "../../remote/keep-file.js";
import { Outbound } from "../../remote/outbound.js";
import { openPinFile } from "../../remote/pin-file.js";
import { MemoryStreamStore, type StreamStore } from "../../remote/stream-store.js";
import { watch, type WatchEvent } from "../../remote/watch.js";
import { ManualClock } from "../fixtures/manual-clock.js";
import { testKeys } from "../fixtures/vectors.js";
import { fingerprintOfText, MessageWorld, until, withFlippedBit } from "../fixtures/message-world.js";

const address = parseAddress("north", "atedge");
const stream = "0123456789abcdef0123456789abcdef";
const life = { stream, inc: 1 };
const key = telemetryKey(address);
const forever = new AbortController().signal;

const pack = (seq: number, change: Partial<TelemetryPack> = {}): TelemetryPack => ({
  type: "pack",
  ...life,
  class: "measurement",
  seq,
  readings: [{ name: "temperature", unit: "Cel", value: seq, timeMs: 1_700_000_000_000 + seq }],
  ...change,
});

const memoryPins = (): PinStore & { readonly pins: Map<string, string> } => {
  const pins = new Map<string, string>();
  return {
    pins,
    get: (peer) => pins.get(peer),
    set: (peer, fingerprint) => Promise.resolve(void pins.set(peer, fingerprint)),
  };
};

/** @alice's device sends, @bob watches. */
class Bench {
  readonly world = new MessageWorld();
  readonly clock = new ManualClock();
  readonly events: WatchEvent[] = [];
  readonly alice = this.world.platformOf("@alice");
  readonly bob = this.world.platformOf("@bob");
  readonly device = new Outbound(this.alice, "@bob", address);
  readonly pins = memoryPins();
  readonly configured = new Map<string, string>();

  trustOf(us: string): PeerTrust {
    const records = us === "@bob" ? this.bob : this.alice;
    return new PeerTrust({ us, address, records, configured: this.configured, remembered: this.pins, log: silentLog });
  }

  send(message: TelemetryMessage): Promise<void> {
    return this.device.send({ name: key, body: formatTelemetry(message), ttlnMs: 60_000 }, forever);
  }

  /** Runs a watch for as long as `work` takes. */
  async watching(
    work: () => Promise<void>,
    store: StreamStore = new MemoryStreamStore(),
    keep?: KeepFile,
  ): Promise<void> {
    const controller = new AbortController();
    const monitors = this.world.monitorsOf("@bob");
    const outbound = new Outbound(this.bob, "@alice", address);
    const running = watch(
      {
        platform: this.bob,
        trust: this.trustOf("@bob"),
        owner: "@alice",
        address,
        store,
        ...(keep && { consumer: { name: "watch --keep", outbound, resume: keep.resume } }),
        onEvent: (event) => void this.events.push(event),
        clock: this.clock,
        log: silentLog,
      },
      controller.signal,
    );
    const working = async (): Promise<void> => {
      await until(() => controller.signal.aborted || this.world.monitorsOf("@bob") > monitors, "the monitor");
      if (!controller.signal.aborted) await work();
    };
    try {
      await Promise.race([running, working()]);
    } finally {
      controller.abort();
      await running;
    }
  }

  get values(): unknown[] {
    return this.events.flatMap((event) =>
      event.type === "readings" ? event.pack.readings.map(({ value }) => value) : [],
    );
  }

  get refusals(): string[] {
    return this.events.flatMap((event) => (event.type === "refused" ? [event.reason] : []));
  }

  /** How many receipts @alice's atServer has. */
  get receiptCount(): number {
    return this.world.account("@alice").stored.filter((carried) => carried.key === receiptKey(address)).length;
  }

  /** The receipts, opened as her device does. */
  async receipts(): Promise<Receipt[]> {
    const trust = this.trustOf("@alice");
    const controller = new AbortController();
    const { signal } = controller;
    const opened: Receipt[] = [];
    if (this.receiptCount === 0) return opened;
    for await (const incoming of this.alice.notifications({ regex: "receipt", since: 0 }, signal)) {
      opened.push(parseReceipt(await openIncoming(incoming, { trust, clock: this.clock }, signal)));
      if (opened.length === this.receiptCount) break;
    }
    return opened;
  }
}

async function folder(t: Test): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), "atedge-remote-"));
  t.teardown(() => rm(path, { recursive: true, force: true }));
  return path;
}

t.test("a watch", async (t) => {
  t.test("gives the readings that the owner sealed, once each, and sends nothing", async (t) => {
    const bench = new Bench();
    await bench.watching(async () => {
      for (const seq of [1, 2, 2, 3]) await bench.send(pack(seq));
      await until(() => bench.values.length === 3, "three readings");
    });
    t.strictSame(bench.values, [1, 2, 3]);
    t.equal(bench.receiptCount, 0);
    t.equal(bench.world.account("@bob").records.size, 0, "not even a proof of a key");
    t.equal(bench.pins.pins.get("@alice"), fingerprintOfText(bench.world.account("@alice").publicText));
  });

  t.test("ignores other senders and devices", async (t) => {
    const bench = new Bench();
    const body = formatTelemetry(pack(1));
    const south = new Outbound(bench.alice, "@bob", parseAddress("up-north", "atedge"));
    const own = new Outbound(bench.bob, "@bob", address);
    await bench.watching(async () => {
      await south.send({ name: "telemetry.up-north.atedge", body, ttlnMs: 1 }, forever);
      await own.send({ name: key, body, ttlnMs: 1 }, forever);
      await bench.send(pack(3));
      await until(() => bench.values.length === 1, "a reading");
    });
    t.strictSame(bench.values, [3]);
    t.strictSame(bench.refusals, []);
  });

  t.test("waits two seconds for a message that was overtaken, no longer", async (t) => {
    const bench = new Bench();
    await bench.watching(async () => {
      for (const seq of [1, 3, 2, 4, 7, 6]) await bench.send(pack(seq));
      await until(() => bench.values.length === 4, "four readings");
      await bench.clock.advance(1999);
      t.strictSame(bench.values, [1, 2, 3, 4], "6 and 7 wait for 5");
      await bench.clock.advance(1);
      t.strictSame(bench.values, [1, 2, 3, 4, 6, 7]);
      for (const seq of [5, 8]) await bench.send(pack(seq));
      await until(() => bench.values.length === 8, "the late one");
    });
    t.strictSame(bench.values, [1, 2, 3, 4, 6, 7, 5, 8]);
  });

  t.test("tells of gaps and of a new life of the device", async (t) => {
    const bench = new Bench();
    const gap = { fromSeq: 2, toSeq: 4, readings: 12, timeFrom: null, timeTo: null, reason: "outbox-full" };
    await bench.watching(async () => {
      await bench.send(pack(1));
      await bench.send({ type: "gap", ...life, class: "measurement", seq: 4, gap });
      await bench.send(pack(1, { inc: 2, prev: life }));
      await until(() => bench.events.length === 4, "four events");
    });
    t.match(bench.events, [
      { type: "readings" },
      { type: "gap", gap, lost: 12 },
      { type: "new-life", life: { stream, inc: 2 }, ended: { have: 4 } },
      { type: "readings", pack: { inc: 2 } },
    ]);
  });

  t.test("waits while the platform is away at its start", async (t) => {
    const bench = new Bench();
    bench.world.away = true;
    const work = bench.watching(async () => {
      await bench.send(pack(1));
      await until(() => bench.values.length === 1, "a reading");
    });
    await until(() => bench.clock.sleeping > 0, "a pause");
    bench.world.away = false;
    await bench.clock.advance(1000);
    await work;
    t.strictSame(bench.values, [1]);
  });
});

t.test("a malicious atServer", async (t) => {
  t.test("that flips any one bit of a telemetry pack is found out, and the rest goes on", async (t) => {
    const bench = new Bench();
    bench.world.carry = (carried) => (carried.key === key ? [] : [carried]);
    await bench.watching(async () => {
      await bench.send(pack(1));
      const carried = bench.world.taken.at(-1);
      if (carried?.key !== key) throw new Error("no telemetry was sent");
      const bits = Buffer.from(carried.value, "base64").length * 8;
      for (let bit = 0; bit < bits; bit += 1) bench.world.deliver(withFlippedBit(carried, bit));
      await until(() => bench.refusals.length === bits, "all refusals");
      const sealed = bench.refusals.filter((reason) => reason === "bad-seal").length;
      const broken = bench.refusals.filter((reason) => reason === "undecryptable").length;
      t.equal(sealed + broken, bits);
      t.ok(sealed > bits / 2, "what still decrypts fails at the seal; broken UTF-8 and padding fail before");
      t.strictSame(bench.values, []);
      bench.world.deliver(carried);
      await until(() => bench.values.length === 1, "the untouched one");
    });
    t.strictSame(bench.values, [1]);
  });

  t.test("that swaps the AES key and seals with it is refused, as the owner has not signed for that key", async (t) => {
    const bench = new Bench();
    const mallory = Buffer.alloc(32, 7);
    const sharedKeyEnc = encryptAesKey(mallory, parsePublicKey(bench.world.account("@bob").publicText));
    const underMallory = (text: string) => {
      const iv = newIv();
      return { iv, value: encryptText(text, mallory, iv), sharedKeyEnc };
    };
    const forged = seal(formatTelemetry(pack(1)), atKeyOf("@bob", key, "@alice"), mallory);
    const records = bench.world.account("@alice").records;
    const proofName = `@bob:${proofKey(address)}`;
    bench.world.carry = (carried) => (carried.key === key ? [{ ...carried, ...underMallory(forged) }] : [carried]);
    await bench.watching(async () => {
      await bench.send(pack(1));
      await until(() => bench.refusals.length === 1, "a refusal");
      // Even when it serves the genuine statement, or one of its own, in a record under that key.
      const genuine = records.get(proofName);
      if (!genuine) throw new Error("there is no proof");
      const proven = await bench.bob.sharedRecord("@alice", proofKey(address), { fresh: true }, forever);
      if (!proven) throw new Error("there is no proof");
      const statement = openSealed(proven.text, atKeyOf("@bob", proofKey(address), "@alice"), proven.aesKey);
      const own = { ...statement, signed: String(statement["signed"]).replace(/[0-9a-f]{64}/u, "0".repeat(64)) };
      for (const body of [statement, own]) {
        const record = seal(body, atKeyOf("@bob", proofKey(address), "@alice"), mallory);
        records.set(proofName, { ...genuine, ...underMallory(record) });
        await bench.send(pack(2));
      }
      await until(() => bench.refusals.length === 3, "two more");
      // Nor does a record that cannot be decrypted end the watch.
      records.set(proofName, { ...genuine, value: "AAAA" });
      await bench.send(pack(3));
      await until(() => bench.refusals.length === 4, "one more");
      // Nothing stays behind: with the genuine record and key it goes on.
      records.set(proofName, genuine);
      bench.world.carry = (carried) => [carried];
      await bench.send(pack(4));
      await until(() => bench.values.length === 1, "a reading");
    });
    t.strictSame(bench.refusals, Array(4).fill("key-not-proven"));
    t.strictSame(bench.values, [4]);
  });

  t.test("that sends clear text, or moves a message to another key, is refused", async (t) => {
    const bench = new Bench();
    const south = parseAddress("south", "atedge");
    const device = new Outbound(bench.alice, "@bob", south);
    bench.world.carry = (carried) => [{ ...carried, key }];
    await bench.watching(async () => {
      await bench.send(pack(1));
      await until(() => bench.values.length === 1, "a reading");
      await device.send({ name: telemetryKey(south), body: formatTelemetry(pack(2)), ttlnMs: 1 }, forever);
      const clear = JSON.stringify(formatTelemetry(pack(3)));
      bench.world.carry = (carried) => [{ ...carried, isEncrypted: false, value: clear }];
      await bench.send(pack(3));
      bench.world.carry = (carried) => [carried];
      await bench.device.send({ name: key, body: { v: 2 }, ttlnMs: 1 }, forever);
      await until(() => bench.refusals.length === 3, "three refusals");
    });
    t.strictSame(bench.refusals, ["bad-seal", "not-encrypted", "malformed"]);
  });

  t.test("that gives another public key for the owner stops the watch", async (t) => {
    const bench = new Bench();
    bench.configured.set("@alice", `sha256:${"0".repeat(64)}`);
    await t.rejects(
      bench.watching(() => Promise.resolve()),
      { code: "PEER_KEY_CHANGED" },
    );

    const later = new Bench();
    await later.watching(async () => {
      await later.send(pack(1));
      await until(() => later.values.length === 1, "a reading");
    });
    later.world.account("@alice").publicText = testKeys.alice.pkam.publicKey;
    await t.rejects(
      later.watching(() => Promise.resolve()),
      { code: "PEER_KEY_CHANGED" },
      "also when it was trusted on first use",
    );
  });

  t.test("that gives another public key while it runs stops it when a key is next to be proven", async (t) => {
    const bench = new Bench();
    const work = bench.watching(async () => {
      await bench.send(pack(1));
      await until(() => bench.values.length === 1, "a reading");
      bench.world.account("@alice").publicText = testKeys.alice.pkam.publicKey;
      const message = { id: "x", to: "@bob", name: key, text: "{}", aesKey: newAesKey(), ttlnMs: 1 };
      await bench.alice.notify(message, forever);
      await new Promise<never>(() => undefined); // the watch ends first
    });
    await t.rejects(work, { code: "PEER_KEY_CHANGED" });
  });
});

t.test("a watch that keeps", async (t) => {
  const subject = { owner: "@alice", ...address, reader: "@bob", consumer: "watch --keep" };
  const keeping = async (bench: Bench, path: string, work: (keep: KeepFile) => Promise<void>): Promise<void> => {
    await using keep = await openKeepFile(path, subject);
    await bench.watching(() => work(keep), keep, keep);
  };
  /** Waits until the watch has got to a message and knows that it is on the disk. */
  const stored = async (bench: Bench, keep: KeepFile, have: number): Promise<void> => {
    await until(() => keep.lives()[0]?.have === have, `message ${have} in the file`);
    await keep.flush();
    await bench.clock.advance(0);
  };
  const rows = (path: string, sql: string): unknown[] => {
    const db = new Database(path, { readonly: true });
    try {
      return db.prepare(sql).all();
    } finally {
      db.close();
    }
  };

  t.test("stores readings, then gives a receipt that the device can check", async (t) => {
    const bench = new Bench();
    const path = join(await folder(t), "keep.db");
    await keeping(bench, path, async (keep) => {
      for (const seq of [1, 3]) await bench.send(pack(seq));
      await stored(bench, keep, 3);
      t.equal(bench.receiptCount, 0, "a hole may close by itself within a second");
      await bench.clock.advance(1000);
      await until(() => bench.receiptCount === 1, "a receipt");
    });
    t.strictSame(await bench.receipts(), [{ ...life, consumer: "watch --keep", have: 3, missing: [[2, 2]] }]);
    t.match(rows(path, "SELECT name, value, unit, time_ms, type FROM readings ORDER BY seq"), [
      { name: "temperature", value: 1, unit: "Cel", time_ms: 1_700_000_000_001, type: "number" },
      { value: 3 },
    ]);
    t.equal((await stat(path)).mode & 0o777, 0o600);
  });

  t.test("loses nothing and doubles nothing over a restart, and reports at start and end", async (t) => {
    const bench = new Bench();
    const path = join(await folder(t), "keep.db");
    await keeping(bench, path, async (keep) => {
      for (const seq of [1, 2, 4]) await bench.send(pack(seq));
      await stored(bench, keep, 4);
      await bench.clock.advance(2000);
      await until(() => bench.values.length === 3, "three readings");
    });
    const before = bench.receiptCount;
    // While it is away: what it has not seen, and repeats of what it has.
    for (const seq of [5, 2, 3, 4]) await bench.send(pack(seq));
    await keeping(bench, path, () => until(() => bench.values.length === 5, "all five"));
    t.strictSame(
      rows(path, "SELECT value FROM readings ORDER BY seq"),
      [1, 2, 3, 4, 5].map((value) => ({ value })),
    );
    t.strictSame([...bench.values].sort(), [1, 2, 3, 4, 5]);
    const receipts = (await bench.receipts()).slice(before);
    t.match(receipts[0], { have: 4, missing: [[3, 3]] }, "at start, what was stored before");
    t.match(receipts.at(-1), { have: 5, missing: [] }, "at the end, what came since");
  });

  t.test("sends a receipt again when the platform was away", async (t) => {
    const bench = new Bench();
    const path = join(await folder(t), "keep.db");
    await keeping(bench, path, async () => {
      await bench.send(pack(1));
      await until(() => bench.values.length === 1, "a reading");
      bench.world.away = true;
      await bench.clock.advance(5000);
      t.equal(bench.receiptCount, 0);
      bench.world.away = false;
      await bench.clock.advance(61_000);
      await until(() => bench.receiptCount === 1, "the receipt");
    });
    t.match(await bench.receipts(), [{ have: 1, missing: [] }]);
  });

  t.test("keeps what a gap really lost, texts and truth values, and the bracket of undated readings", async (t) => {
    const bench = new Bench();
    const path = join(await folder(t), "keep.db");
    const gap = { fromSeq: 2, toSeq: 5, readings: 12, timeFrom: 1, timeTo: 2, reason: "too-old" };
    const undated = { boot: stream, timeFrom: 1_700_000_000_000, timeTo: 1_700_000_900_000 };
    const timeMs = 1_700_000_000_500;
    await keeping(bench, path, async () => {
      await bench.send(pack(1, { undated, readings: [{ name: "door", value: true, timeMs }] }));
      await bench.send(pack(3, { readings: [{ name: "state", value: "open", timeMs }] }));
      await bench.send({ type: "gap", ...life, class: "measurement", seq: 5, gap });
      await until(() => bench.events.length === 3, "three events");
    });
    t.match(rows(path, "SELECT * FROM gap"), [{ from_seq: 2, to_seq: 5, lost: 11, reason: "too-old" }]);
    t.match(rows(path, "SELECT value, type, bracket_to_ms FROM readings ORDER BY seq"), [
      { value: 1, type: "boolean", bracket_to_ms: 1_700_000_900_000 },
      { value: "open", type: "string", bracket_to_ms: null },
    ]);
  });

  t.test("gives a receipt at once after 16 messages", async (t) => {
    const bench = new Bench();
    const path = join(await folder(t), "keep.db");
    await keeping(bench, path, async () => {
      for (let seq = 1; seq <= 16; seq += 1) await bench.send(pack(seq));
      await until(() => bench.receiptCount === 1, "a receipt");
    });
    t.match((await bench.receipts())[0], { have: 16, missing: [] });
  });

  t.test("refuses a file that is kept for something else, is something else, or is open already", async (t) => {
    const dir = await folder(t);
    const path = join(dir, "keep.db");
    const unusable = (message: RegExp) => ({ code: "KEEP_FILE_UNUSABLE", message });
    const first = await openKeepFile(path, subject);
    await t.rejects(openKeepFile(path, subject), unusable(/another process has it open/u));
    await first[Symbol.asyncDispose]();
    await t.rejects(openKeepFile(path, { ...subject, device: "south" }), unusable(/kept for device north, not south/u));
    await writeFile(join(dir, "text.db"), "this is not a database, but long enough to look like one".repeat(20));
    await t.rejects(openKeepFile(join(dir, "text.db"), subject), unusable(/SQLITE_NOTADB/u));
    const db = new Database(join(dir, "foreign.db"));
    db.exec("CREATE TABLE mine (x)");
    db.close();
    await t.rejects(openKeepFile(join(dir, "foreign.db"), subject), unusable(/something else/u));
  });
});

t.test("the file of pins", async (t) => {
  const fingerprint = `sha256:${"a".repeat(64)}`;

  t.test("remembers what was trusted, readable by its owner only", async (t) => {
    const path = join(await folder(t), "deep", "pins.json");
    const pins = await openPinFile(path);
    await Promise.all([pins.set("@alice", fingerprint), pins.set("@bob", fingerprint)]);
    t.equal((await stat(path)).mode & 0o777, 0o600);
    const again = await openPinFile(path);
    t.equal(again.get("@alice"), fingerprint);
    t.equal(again.get("@bob"), fingerprint);
    t.equal(again.get("@carol"), undefined);
  });

  t.test("is not taken for empty when it is damaged or cannot be read", async (t) => {
    const dir = await folder(t);
    const path = join(dir, "pins.json");
    for (const text of ["", "[]", '{"@alice":1}', '{"@alice":"sha256:00"}']) {
      await writeFile(path, text);
      await t.rejects(openPinFile(path), { code: "PIN_FILE_UNUSABLE" }, text);
    }
    await t.rejects(openPinFile(dir), { code: "PIN_FILE_UNUSABLE", message: /EISDIR/u });
  });
});
