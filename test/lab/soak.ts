/**
 * Mixed load on two platforms, one atSign each, while connections are cut and @alice's process is killed at random.
 * At the end: every write that was answered is there, every notification that was accepted has arrived, and @bob's
 * process, which lives throughout, has not grown since the first fifth (2 of 10 minutes) and has no file left open.
 *
 * `npm run lab -- soak --seconds 600` (the default).
 */
import { randomUUID } from "node:crypto";
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { parseAtSign } from "../../atplatform/protocol/at-sign.js";
import { DevCa } from "../../atplatform/server/dev-ca.js";
import { PlatformStore } from "../../atplatform/server/platform-store.js";
import { systemClock } from "../../core/clock.js";
import { playRole, ServerProcess } from "../fixtures/bench/server-roles.js";
import { BenchWire } from "../fixtures/bench/wire.js";

const WORKERS = 8;
const KEYS_EACH = 25;
/** One that has not come when none has come for so long is lost; until then it is in a queue. */
const NOTHING_COMES_MS = 60_000;
/** How long a connection may take to close: longer than the proof of one atServer to another. */
const CLOSING_S = 15;
/** What SQLite, the heap and fragmentation may still take: a leak of the load above is far larger in 8 minutes. */
const GROWTH_BYTES = 8 << 20;

interface Side {
  readonly atSign: string;
  readonly peer: string;
  port: number;
  readonly caPem: string;
  /** Ids that this side's server has accepted for the other. */
  readonly accepted: Set<string>;
  /** Ids that this side's monitor has seen. */
  readonly seen: Set<string>;
}

/** Values that a record may have: the last that was answered, and those whose answer never came. */
interface Expectation {
  readonly key: string;
  readonly side: Side;
  readonly values: readonly (string | null)[];
}

class Soak {
  readonly #deadlineMs: number;
  readonly #expectations: Expectation[] = [];
  readonly faults: string[] = [];
  readonly counts = { commands: 0, cuts: 0, kills: 0, checks: 0 };

  constructor(deadlineMs: number) {
    this.#deadlineMs = deadlineMs;
  }

  isOver(): boolean {
    return performance.now() > this.#deadlineMs;
  }

  /** One client after the other on an atSign; each ends by chance, in the middle of a command or not. */
  async work(side: Side, worker: number): Promise<void> {
    const known = new Map<number, { generation: number; value: string | null }>();
    let generation = 0;
    while (!this.isOver()) {
      let wire: BenchWire | undefined;
      try {
        wire = await BenchWire.owner(side.port, side.caPem, side.atSign);
        for (let life = 20 + Math.random() * 300; life > 0 && !this.isOver(); life -= 1) {
          await this.#command(wire, side, worker, known, () => (generation += 1));
        }
      } catch {
        await sleep(50 + Math.random() * 200);
      } finally {
        wire?.socket.destroy();
        this.counts.cuts += 1;
      }
    }
    for (const [at, { generation, value }] of known) {
      this.#expectations.push({ side, key: keyOf(worker, at, generation, side), values: [value] });
    }
  }

  async #command(
    wire: BenchWire,
    side: Side,
    worker: number,
    known: Map<number, { generation: number; value: string | null }>,
    nextGeneration: () => number,
  ): Promise<void> {
    this.counts.commands += 1;
    const at = Math.floor(Math.random() * KEYS_EACH);
    const entry = known.get(at) ?? { generation: nextGeneration(), value: null };
    known.set(at, entry);
    const key = keyOf(worker, at, entry.generation, side);
    const chance = Math.random();
    if (chance < 0.5) {
      const value = `${randomUUID()}${"v".repeat(Math.random() * 500)}`;
      await this.#write(wire, `update:${key} ${value}`, value, { at, key, entry, known, side, nextGeneration });
    } else if (chance < 0.55) {
      await this.#write(wire, `delete:${key}`, null, { at, key, entry, known, side, nextGeneration });
    } else if (chance < 0.8) {
      this.#check(key, [entry.value], await wire.ask(`llookup:${key}`));
    } else if (chance < 0.95) {
      const id = randomUUID();
      const reply = await wire.ask(`notify:id:${id}:update:ttln:3600000:${side.peer}:n.soak${side.atSign}:${id}`);
      if (reply.startsWith(`data:${id}`)) side.accepted.add(id);
    } else if (chance < 0.98) {
      await wire.ask(`scan \\.soak`);
    } else {
      await wire.ask("sync:from:-1:limit:25");
    }
  }

  /** A write without an answer may have happened: its record is not touched again, and either value is right. */
  async #write(
    wire: BenchWire,
    line: string,
    value: string | null,
    about: {
      readonly at: number;
      readonly key: string;
      readonly side: Side;
      readonly entry: { generation: number; value: string | null };
      readonly known: Map<number, { generation: number; value: string | null }>;
      readonly nextGeneration: () => number;
    },
  ): Promise<void> {
    const { at, key, entry, known, side, nextGeneration } = about;
    const before = entry.value;
    try {
      if (Math.random() < 0.01) setImmediate(() => wire.socket.destroy());
      const reply = await wire.ask(line);
      if (!/^data:\d+\n/u.test(reply)) throw new Error(reply);
      entry.value = value;
    } catch (error) {
      this.#expectations.push({ side, key, values: [before, value] });
      known.set(at, { generation: nextGeneration(), value: null });
      throw error;
    }
  }

  #check(key: string, values: readonly (string | null)[], reply: string): void {
    this.counts.checks += 1;
    const [first = ""] = reply.split("\n");
    const found = first.startsWith("error:AT0015-") ? null : first.startsWith("data:") ? first.slice(5) : undefined;
    if (found === undefined && first.startsWith("error:AT0024-")) return; // it is being stopped
    if (found === undefined || !values.includes(found)) {
      this.faults.push(`${key}: expected ${values.map(String).join(" or ").slice(0, 100)}, got ${first.slice(0, 100)}`);
    }
  }

  /** Sees notifications, over as many connections as it takes. */
  async watch(side: Side, stop: AbortSignal): Promise<void> {
    let lastMs = 0;
    while (isRunning(stop)) {
      try {
        const wire = await BenchWire.owner(side.port, side.caPem, side.atSign);
        wire.onLine = (line) => {
          const { id, epochMillis } = JSON.parse(line.slice(line.indexOf("{"))) as { id: string; epochMillis: number };
          if (id === "-1") return;
          side.seen.add(id);
          lastMs = Math.max(lastMs, epochMillis);
        };
        wire.socket.write(`monitor:${Math.max(0, lastMs - 1)} \\.soak\n`);
        const endMs = performance.now() + 2_000 + Math.random() * 10_000;
        while (!wire.closed && performance.now() < endMs && isRunning(stop)) await sleep(50);
        wire.socket.destroy();
      } catch {
        await sleep(100);
      }
    }
  }

  async verify(sides: readonly Side[]): Promise<void> {
    for (const side of sides) {
      const wire = await BenchWire.owner(side.port, side.caPem, side.atSign);
      for (const { key, values } of this.#expectations.filter((expected) => expected.side === side)) {
        this.#check(key, values, await wire.ask(`llookup:${key}`));
      }
      wire.socket.destroy();
    }
  }
}

const isRunning = (stop: AbortSignal): boolean => !stop.aborted;

const keyOf = (worker: number, at: number, generation: number, { atSign }: Side): string =>
  `w${worker}x${at}g${generation}.soak${atSign}`;

async function soak(seconds: number): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), "atedge-soak-"));
  const [stateA, stateB] = [join(folder, "a"), join(folder, "b")];
  const [caA, caB] = [await DevCa.open(stateA, systemClock), await DevCa.open(stateB, systemClock)];
  const settings = { deliveryBackoffFirstMs: 50, deliveryBackoffMaxMs: 1_000 };
  let a = await ServerProcess.start(
    "platform-with",
    stateA,
    JSON.stringify({ settings, extraCaPem: caB.caPem }),
    "@alice",
  );
  const directoryPort = a.ready.ports["directory"] ?? 0;
  const directory = { kind: "directory", host: "localhost", port: directoryPort };
  const optionsA = JSON.stringify({ settings, extraCaPem: caB.caPem, directoryPort });
  const optionsB = JSON.stringify({ settings, extraCaPem: caA.caPem, directory });
  const b = await ServerProcess.start("platform-with", stateB, optionsB, "@bob");
  const store = new PlatformStore(stateA);
  store.point(parseAtSign("@bob"), { host: "localhost", port: b.ready.ports["@bob"] ?? 0 });
  store.close();
  const sideOf = (atSign: string, peer: string, { ready }: ServerProcess): Side => {
    const { caPem, ports } = ready;
    return { atSign, peer, caPem, port: ports[atSign] ?? 0, accepted: new Set(), seen: new Set() };
  };
  const alice = sideOf("@alice", "@bob", a);
  const bob = sideOf("@bob", "@alice", b);
  for (const [side, { ready }] of [
    [alice, a],
    [bob, b],
  ] as const) {
    await BenchWire.activate(side.port, side.caPem, side.atSign, ready.secrets[side.atSign] ?? "");
  }
  await handshakes([alice, bob]);
  const filesBefore = openFiles(b.pid);

  const run = new Soak(performance.now() + seconds * 1000);
  const stop = new AbortController();
  const watching = [run.watch(alice, stop.signal), run.watch(bob, stop.signal)];
  const working = [alice, bob].flatMap((side) => Array.from({ length: WORKERS }, (_, at) => run.work(side, at)));
  const rss: number[] = [];
  const sampling = (async () => {
    while (!run.isOver()) {
      rss.push(await b.rssBytes());
      await sleep(Math.min(5_000, seconds * 20));
    }
  })();
  while (!run.isOver()) {
    await sleep(Math.min(3_000 + Math.random() * 12_000, seconds * 200));
    await a.kill();
    run.counts.kills += 1;
    a = await ServerProcess.start("platform-with", stateA, optionsA);
  }
  await Promise.all([...working, sampling]);
  await run.verify([alice, bob]);
  const missing = (): string[] => [
    ...[...alice.accepted].filter((id) => !bob.seen.has(id)),
    ...[...bob.accepted].filter((id) => !alice.seen.has(id)),
  ];
  const tookMs = await untilNoneCome(() => missing().length);
  const fates = await fatesOf(missing().slice(0, 10), [alice, bob]);
  stop.abort();
  await Promise.all(watching);
  const opened = await leftOpen(b.pid, filesBefore);

  const settled = rss.slice(Math.floor(rss.length / 5));
  const quarter = Math.max(1, Math.floor(settled.length / 4));
  const growth = median(settled.slice(-quarter)) - median(settled.slice(0, quarter));
  report(run.faults.length === 0, `${run.counts.checks} looks at records, ${run.faults.length} lost or wrong`);
  for (const fault of run.faults.slice(0, 10)) process.stdout.write(`      ${fault}\n`);
  const sent = alice.accepted.size + bob.accepted.size;
  report(
    missing().length === 0,
    `${sent} notifications, ${missing().length} lost; the last came ${(tookMs / 1000).toFixed(0)} s after the load`,
  );
  for (const fate of fates) process.stdout.write(`      ${fate}\n`);
  report(
    growth <= GROWTH_BYTES,
    `RSS grew by ${(growth / 1e6).toFixed(1)} MB to ${(median(settled.slice(-quarter)) / 1e6).toFixed(1)} MB`,
  );
  const course = Array.from({ length: 10 }, (_, at) =>
    median(rss.slice((at * rss.length) / 10, ((at + 1) * rss.length) / 10)),
  );
  process.stdout.write(`      RSS by tenths: ${course.map((bytes) => (bytes / 1e6).toFixed(1)).join(" ")} MB\n`);
  report(opened.length === 0, `${opened.length} more open files than before ${opened.join(", ")}`);
  const { commands, cuts, kills } = run.counts;
  process.stdout.write(`      ${commands} commands, ${cuts} connections cut, ${kills} kills in ${seconds} s\n`);
  await Promise.all([a.stop(), b.stop()]);
  await rm(folder, { recursive: true, force: true });
  process.exit();
}

/** How long it took until all have come, or none comes any more. */
async function untilNoneCome(missing: () => number): Promise<number> {
  const startMs = performance.now();
  let [left, lastMs] = [missing(), startMs];
  while (left > 0 && performance.now() - lastMs < NOTHING_COMES_MS) {
    await sleep(1_000);
    const now = missing();
    if (now < left) lastMs = performance.now();
    left = now;
  }
  return lastMs - startMs;
}

/** What their senders' servers say became of notifications. */
async function fatesOf(ids: readonly string[], sides: readonly Side[]): Promise<readonly string[]> {
  const fates: string[] = [];
  for (const side of sides) {
    const own = ids.filter((id) => side.accepted.has(id));
    if (own.length === 0) continue;
    const wire = await BenchWire.owner(side.port, side.caPem, side.atSign);
    for (const id of own) fates.push(`${side.atSign}: ${(await wire.ask(`notify:fetch:${id}`)).trim()}`);
    wire.socket.destroy();
  }
  return fates;
}

/** The connections that the two atServers keep to one another are there before files are counted. */
async function handshakes(sides: readonly Side[]): Promise<void> {
  for (const { atSign, peer, port, caPem } of sides) {
    const wire = await BenchWire.owner(port, caPem, atSign);
    const id = randomUUID();
    await wire.ask(`notify:id:${id}:${peer}:first.contact${atSign}:v`);
    while (!(await wire.ask(`notify:status:${id}`)).startsWith("data:delivered")) await sleep(50);
    wire.socket.destroy();
  }
  await sleep(500);
}

/** What is open on top of before and stays so: a connection that is just being closed is nothing left behind. */
async function leftOpen(pid: number, before: readonly string[]): Promise<readonly string[]> {
  let opened = moreThan(before, openFiles(pid));
  for (let tries = 0; opened.length > 0 && tries < CLOSING_S; tries += 1) {
    await sleep(1_000);
    opened = moreThan(before, openFiles(pid));
  }
  return opened.length === 0 ? [] : [...opened, ...connectionsOf(pid)];
}

/** Which they are, when there are too many: `127.0.0.1:port > 127.0.0.1:port` and the state of Linux' TCP (1: established). */
function connectionsOf(pid: number): readonly string[] {
  const own = new Set(readdirSync(`/proc/${pid}/fd`).map((fd) => readlinkSync(`/proc/${pid}/fd/${fd}`)));
  const address = (hex: string): string => `${hex.slice(0, 8)}:${Number.parseInt(hex.slice(-4), 16)}`;
  return readFileSync(`/proc/${pid}/net/tcp`, "utf8")
    .split("\n")
    .slice(1)
    .map((line) => line.trim().split(/\s+/u))
    .filter((fields) => own.has(`socket:[${fields[9] ?? ""}]`))
    .map(([, local = "", remote = "", state = ""]) => `${address(local)} > ${address(remote)} ${state}`);
}

/**
 * What a process has open, sockets without their numbers. Not counted: the journal of savepoints, which SQLite keeps open,
 * one a database, once it was larger than 64 KiB.
 */
function openFiles(pid: number): readonly string[] {
  const folder = `/proc/${pid}/fd`;
  return readdirSync(folder).flatMap((fd) => {
    try {
      const name = readlinkSync(join(folder, fd)).replace(/\[\d+\]/u, "");
      return name.includes("/etilqs_") ? [] : [name];
    } catch {
      return []; // closed meanwhile
    }
  });
}

/** Those of `now` that were not there before, as often as that. */
function moreThan(before: readonly string[], now: readonly string[]): readonly string[] {
  const left = [...before];
  return now.filter((name) => {
    const at = left.indexOf(name);
    if (at !== -1) left.splice(at, 1);
    return at === -1;
  });
}

function median(values: readonly number[]): number {
  return [...values].sort((x, y) => x - y)[Math.floor(values.length / 2)] ?? Number.NaN;
}

function report(kept: boolean, what: string): void {
  if (!kept) process.exitCode = 1;
  process.stdout.write(`${kept ? "ok  " : "FAIL"}  ${what}\n`);
}

delete process.env["NODE_OPTIONS"];
if (!(await playRole(process.argv.slice(2)))) {
  const { values } = parseArgs({ options: { seconds: { type: "string", default: "600" } } });
  await soak(Number(values.seconds));
}
