import {
  existsSync,
  mkdtempSync,
  openSync,
  readdirSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
  closeSync,
} from "node:fs";
import { join } from "node:path";
import * as v from "valibot";
import type { Test } from "tap";
import t from "tap";
import { withAgentStore, type StoreConfig } from "../../../agent/agent-store.js";
import { AgentTime } from "../../../agent/agent-time.js";
import { agentSchema } from "../../../agent/config/schema.js";
import type { Store } from "../../../agent/store/store.js";
import { silentLog } from "../../../core/log.js";
import { SmallDisk } from "../../fixtures/disk/small-disk.js";
import { ManualClock } from "../../fixtures/manual-clock.js";
import { tempFolder } from "../../fixtures/temp-folder.js";

const runtime = mkdtempSync("/dev/shm/atedge-test-");
process.env["RUNTIME_DIRECTORY"] = runtime;
t.teardown(() => rmSync(runtime, { recursive: true }));

function configOf(stateDir: string, outbox: Record<string, unknown> = {}): StoreConfig {
  const file = v.parse(agentSchema, {
    atsign: "@greenhouse",
    device: "north",
    stateDir,
    outbox: { minFreeBytes: 0, commitIntervalMs: 0, ...outbox },
    reader: [{ atsign: "@grower" }],
  });
  return file;
}

/** An agent that has nothing but its store; a test is given each store that it works with. */
class Agent {
  readonly clock = new ManualClock(Date.UTC(2026, 5, 1));
  readonly stop = new AbortController();
  readonly stores: Store[] = [];
  readonly running: Promise<void>;
  #opened: (store: Store) => void = () => undefined;

  constructor(t: Test, config: StoreConfig) {
    const { clock } = this;
    const time = new AgentTime({ clock, trust: () => "unknown", machineMonotonicMs: () => clock.monotonicMs() });
    const work = async (store: Store, signal: AbortSignal): Promise<void> => {
      this.stores.push(store);
      this.#opened(store);
      await store.run(signal);
    };
    this.running = withAgentStore(config, { clock, time, log: silentLog, enrolledAnew: false }, work, this.stop.signal);
    this.running.catch(() => undefined);
    t.teardown(() => this.end());
  }

  /** The n-th store that it works with. */
  async store(n: number): Promise<Store> {
    while (this.stores.length < n) {
      const opened = new Promise<Store>((resolve) => (this.#opened = resolve));
      await Promise.race([opened, this.running.then(() => Promise.reject(new Error("the agent has ended")))]);
    }
    return this.stores[n - 1] ?? Promise.reject(new Error("no store"));
  }

  /** The one after the present, which comes with time. To look at the disk takes real time beside the manual one. */
  async nextStore(): Promise<Store> {
    const n = this.stores.length + 1;
    for (let tries = 0; tries < 200 && this.stores.length < n; tries += 1) {
      await this.clock.advance(30_000);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    return this.store(n);
  }

  async end(): Promise<void> {
    this.stop.abort();
    await this.running.catch(() => undefined);
  }
}

const numbers = (from: number, to: number) =>
  Array.from({ length: to - from + 1 }, (_, index) => ({ name: "n", value: from + index }));

/** All that a stream would deliver: values, and what gaps declare (NaN: unknown). */
async function drained(store: Store): Promise<{ values: number[]; lost: number; reasons: string[] }> {
  const seen = { values: [] as number[], lost: 0, reasons: [] as string[] };
  const id = store.streams.list().find((stream) => stream.class === "measurement")?.id ?? 0;
  for (;;) {
    await store.streams.form(id, { maxReadings: 1000, maxBytes: 100_000 });
    const formed = store.streams.formed(id);
    if (formed.length === 0) return seen;
    for (const { seq } of formed) {
      const message = store.streams.load(id, seq);
      if (message?.type === "pack") seen.values.push(...message.readings.map(({ value }) => Number(value)));
      if (message?.type === "gap") {
        seen.lost += message.gap.readings ?? Number.NaN;
        seen.reasons.push(message.gap.reason);
      }
    }
    await store.streams.taken(
      id,
      formed.map(({ seq }) => seq),
    );
  }
}

t.test("a disk that is read-only at start", async (t) => {
  const disk = new SmallDisk(t, 16 << 20);
  const config = configOf(disk.path);
  const before = new Agent(t, config);
  const first = await before.store(1);
  await first.pins.set("@grower", "sha256:aa");
  await first.publish(numbers(1, 10));
  await before.end();
  disk.readOnly = true;

  const agent = new Agent(t, config);
  const memory = await agent.store(1);
  t.match(memory.health, { state: "ok", inMemory: true });
  await memory.publish(numbers(11, 20));
  t.equal(memory.pins.get("@grower"), "sha256:aa", "the keys of peers are known");
  await t.rejects(memory.pins.set("@stranger", "sha256:bb"), { code: "NO_PINS" }, "and no other is trusted");
  const command = { caller: "@boss", id: "1", detail: null, acceptedMs: 1, expiresMs: 2 };
  await t.rejects(memory.ledger.accept(command), { code: "NO_LEDGER" });
  await agent.clock.advance(60_000);
  t.equal(agent.stores.length, 1, "it stays as long as the disk does");

  disk.readOnly = false;
  const again = await agent.nextStore();
  t.match(again.health, { inMemory: false, state: "ok" });
  t.same(
    (await drained(again)).values,
    numbers(1, 20).map(({ value }) => value),
    "what was relayed is on the disk",
  );
  t.same(readdirSync(runtime), [], "and no longer in memory");
});

t.test("memory left by a killed agent is brought to the disk, with the times of its readings", async (t) => {
  const disk = new SmallDisk(t, 16 << 20);
  const config = configOf(disk.path);
  disk.readOnly = true;
  const first = new Agent(t, config);
  const taken = first.clock.now() - 5000;
  await (await first.store(1)).publish([{ name: "n", value: 7, timeMs: taken }]);
  await first.end();
  disk.readOnly = false;
  const second = new Agent(t, config);
  const store = await second.store(1);
  const id = store.streams.list().find((stream) => stream.class === "measurement")?.id ?? 0;
  await store.streams.form(id, { maxReadings: 10, maxBytes: 1000 });
  t.match(store.streams.load(id, 1), { readings: [{ value: 7, timeMs: taken }] });
});

t.test("a disk without a byte at start is worked around too, within a bound", async (t) => {
  const disk = new SmallDisk(t, 1 << 20);
  const ballast = join(disk.path, "ballast");
  const fd = openSync(ballast, "w");
  for (let block = Buffer.alloc(4096); ;) {
    try {
      writeSync(fd, block);
    } catch {
      break;
    }
  }
  closeSync(fd);
  const agent = new Agent(t, configOf(disk.path, { memoryBytes: 1 << 20 }));
  const memory = await agent.store(1);
  t.equal(memory.health.inMemory, true);
  for (let n = 0; n < 60_000; n += 500) await memory.publish(numbers(n + 1, n + 500));
  t.ok(memory.health.usedBytes <= 1.1 * (1 << 20), `${memory.health.usedBytes} bytes`);
  const seen = await drained(memory);
  t.equal(seen.values.length + seen.lost, 60_000, "what did not find room is declared");
  t.ok(seen.lost > 0);
  rmSync(ballast);
  t.match((await agent.nextStore()).health, { inMemory: false });
});

t.test("a database that turns out to be damaged while it is used", async (t) => {
  const folder = tempFolder(t);
  const agent = new Agent(t, configOf(folder));
  const store = await agent.store(1);
  await store.publish([{ name: "n", value: "x".repeat(8000) }]);
  for (let n = 0; n < 20; n += 1)
    await store.publish(Array.from({ length: 100 }, () => ({ name: "n", value: "y".repeat(4000) })));
  const id = store.streams.list().find((stream) => stream.class === "measurement")?.id ?? 0;
  await store.streams.form(id, { maxReadings: 1, maxBytes: 10_000 });
  await store.flush();
  const path = join(folder, "outbox.db");
  const bytes = statSync(path).size;
  t.ok(bytes > 5 << 20, "larger than what SQLite keeps in memory");
  writeFileSync(path, Buffer.alloc(bytes - 8192, 0x5a), { flag: "r+" });
  let error: unknown;
  try {
    for (;;) await drained(store);
  } catch (thrown) {
    error = thrown;
  }
  t.ok(store.isBrokenBy(error), String(error));
  const next = await agent.store(2);
  const aside = readdirSync(folder).filter((name) => name.startsWith("outbox.db.unreadable-"));
  t.ok(aside.length >= 1, "it was moved aside, not deleted");
  await next.publish(numbers(1, 3));
  const seen = await drained(next);
  t.same(seen.values, [1, 2, 3], "and the agent goes on");
  t.match(seen, { lost: Number.NaN, reasons: ["outbox-lost"] }, "readers are told that nobody knows what was in it");
});

t.test("what only a human can mend is said, and nothing else is tried", async (t) => {
  const folder = tempFolder(t);
  writeFileSync(join(folder, "file"), "");
  const agent = new Agent(t, configOf(join(folder, "file", "state")));
  await t.rejects(agent.running, { code: "STATE_DIR_UNUSABLE", message: /ENOTDIR/u });
  t.notOk(existsSync(join(folder, "file", "state")));
  const disk = new SmallDisk(t, 16 << 20);
  disk.readOnly = true;
  const without = new Agent(t, configOf(disk.path, { memoryBytes: 0 }));
  await t.rejects(without.running, { code: "STATE_DIR_UNUSABLE", message: /EROFS|READONLY|CANTOPEN/u });
});
