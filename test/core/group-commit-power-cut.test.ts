import Database from "better-sqlite3";
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import t from "tap";
import { parseDiskLog, RecordedDisk } from "../fixtures/disk/recorded-disk.js";
import type { DiskOp, Luck } from "../fixtures/disk/recorded-disk.js";
import { seededRandom } from "../fixtures/seeded-random.js";
import { bundleChild, childEnv, compileShim } from "../fixtures/disk/shim.js";

const run = promisify(execFile);
const childSource = join(dirname(fileURLToPath(import.meta.url)), "../fixtures/disk/group-commit-child.ts");

const build = mkdtempSync(join(tmpdir(), "atedge-disk-"));
t.teardown(() => rmSync(build, { recursive: true }));
const shim = await compileShim(build);
const child = await bundleChild(childSource, build);

const seed = Date.now() % 0x7fffffff;

async function record(folder: string, rows: number, honesty: string): Promise<DiskOp[]> {
  mkdirSync(folder);
  const log = `${folder}.log`;
  const env = childEnv({ LD_PRELOAD: shim, DISK_FOLDER: folder, DISK_LOG: log });
  await run(process.execPath, [child, folder, String(rows), honesty, "close"], { env });
  return parseDiskLog(readFileSync(log, "utf8"));
}

interface Promised {
  open: boolean;
  last: number;
}

/** What is wrong with a store that comes up after a power cut, or `undefined`. */
function faultOf(files: Map<string, Buffer>, promised: Promised, folder: string): string | undefined {
  for (const name of ["x.db", "x.db-wal", "x.db-journal", "x.db-shm"]) {
    const bytes = files.get(name);
    if (bytes) writeFileSync(join(folder, name), bytes);
    else rmSync(join(folder, name), { force: true });
  }
  const db = new Database(join(folder, "x.db"));
  try {
    db.pragma("locking_mode = EXCLUSIVE");
    db.pragma("synchronous = OFF");
    const verdict = db.pragma("integrity_check", { simple: true });
    if (verdict !== "ok") return String(verdict);
    if (!db.prepare("SELECT 1 FROM sqlite_master WHERE name = 'latest'").get()) {
      return promised.open ? "the tables are gone" : undefined;
    }
    const last = Number(db.prepare("SELECT n FROM latest").pluck().get());
    const all = db.prepare("SELECT count(*), coalesce(max(n), 0) FROM log").raw().get();
    const kept = db.prepare("SELECT count(*), coalesce(max(n), 0) FROM ring").raw().get();
    if (last < promised.last) return `${promised.last} was promised, ${last} is the last there`;
    if (String(all) !== `${last},${last}`) return `rows up to ${last} were expected, there are ${String(all)}`;
    if (String(kept) !== `${Math.min(20, last)},${last}`) return `a ring up to ${last}, there is ${String(kept)}`;
    return undefined;
  } catch (error) {
    return promised.open ? String(error) : undefined;
  } finally {
    db.close();
  }
}

/** Cuts the power after every operation, with each kind of luck, and gives what was wrong. */
function faultsOf(ops: readonly DiskOp[], lucks: readonly Luck[], folder: string): { faults: string[]; cuts: number } {
  mkdirSync(folder);
  const disk = new RecordedDisk();
  const promised: Promised = { open: false, last: 0 };
  const faults: string[] = [];
  let cuts = 0;
  for (const [at, op] of ops.entries()) {
    disk.push(op);
    if (op.name === "marks") {
      if (op.type !== "write") continue;
      const text = op.bytes.toString().trim();
      if (text === "open") promised.open = true;
      else promised.last = Number(text);
    } else if (op.type === "sync-begin") continue; // changes nothing on the disk
    for (const luck of lucks) {
      const fault = faultOf(disk.image(luck), promised, folder);
      cuts += 1;
      if (fault) faults.push(`after operation ${at} (${op.type} ${op.name}): ${fault}`);
    }
  }
  return { faults, cuts };
}

const isWalHeader = (op: { readonly offset: number; readonly bytes: Buffer }): boolean =>
  op.offset === 0 && op.bytes.length === 32;
const isZero = (bytes: Buffer): boolean => bytes.every((byte) => byte === 0);

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
const sizeOf = (path: string): number => statSync(path, { throwIfNoEntry: false })?.size ?? 0;

const memory = existsSync("/dev/shm") ? mkdtempSync("/dev/shm/atedge-") : mkdtempSync(join(tmpdir(), "atedge-"));
t.teardown(() => rmSync(memory, { recursive: true }));

t.test("a power cut", async (t) => {
  t.comment(`seed ${seed}`);
  const random = seededRandom(seed);
  const nothingMore: Luck = () => 0;
  const some: Luck = () => (random() < 0.5 ? 0 : random() < 0.8 ? 1 : random());
  const nearlyAll: Luck = () => (random() < 0.1 ? 0 : 1);

  t.test("at any moment loses no promised write, whatever part of the unsynced ones was written", async (t) => {
    const ops = await record(join(build, "honest"), 150, "honest");
    const zeroed = ops.filter(
      (op) => op.type === "write" && op.name === "x.db-wal" && isWalHeader(op) && isZero(op.bytes),
    );
    t.ok(zeroed.length > 3, `the WAL was emptied ${zeroed.length} times`);
    const { faults, cuts } = faultsOf(ops, [nothingMore, some, nearlyAll], join(memory, "honest"));
    t.comment(`${ops.length} operations, ${cuts} power cuts`);
    t.same(faults.slice(0, 3), []);
  });

  t.test("is felt by a store that leaves out the sync of the WAL, or of the database file", async (t) => {
    for (const honesty of ["no-fdatasync", "no-fsync"]) {
      const ops = await record(join(build, honesty), 60, honesty);
      const { faults } = faultsOf(ops, [nothingMore, some], join(memory, honesty));
      t.ok(faults.length > 0, `${honesty}: ${faults.length} faults, the first ${faults[0]}`);
    }
  });
});

t.test("a kill -9 at any moment loses no promised write", async (t) => {
  const folder = join(build, "killed");
  mkdirSync(folder);
  const marksFile = join(folder, "marks");
  const random = seededRandom(seed);
  let last = 0;
  for (let round = 0; round < 15; round++) {
    const process_ = spawn(process.execPath, [child, folder, "100000", "honest", "stay"], { env: childEnv({}) });
    const ended = once(process_, "exit");
    const before = sizeOf(marksFile);
    while (sizeOf(marksFile) < before + 20) await pause(3); // it has opened and begun to write
    await pause(random() * 60);
    process_.kill("SIGKILL");
    await ended;
    const promised = readFileSync(marksFile, "utf8")
      .split("\n")
      .filter((mark) => /^\d+$/u.test(mark))
      .map(Number);
    t.same(promised, [...new Set(promised)], "no number was promised twice");
    last = Math.max(...promised);
    const files = new Map(
      ["x.db", "x.db-wal"]
        .filter((name) => existsSync(join(folder, name)))
        .map((name) => [name, readFileSync(join(folder, name))]),
    );
    const copy = join(memory, `killed-${round}`);
    mkdirSync(copy);
    t.equal(faultOf(files, { open: true, last }, copy), undefined);
  }
  t.ok(last > 15, `${last} writes over 15 lives`);
});
