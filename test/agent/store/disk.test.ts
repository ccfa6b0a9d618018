import { execFile } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import Database from "better-sqlite3";
import t from "tap";
import { parseDiskLog, RecordedDisk, type Luck } from "../../fixtures/disk/recorded-disk.js";
import { bundleChild, childEnv, compileShim } from "../../fixtures/disk/shim.js";

const run = promisify(execFile);
const fixtures = join(dirname(fileURLToPath(import.meta.url)), "../../fixtures/disk");
const build = mkdtempSync(join(tmpdir(), "atedge-store-"));
t.teardown(() => rmSync(build, { recursive: true }));
const shim = await compileShim(build);

t.test("a disk that takes 2 s for each sync", async (t) => {
  const child = await bundleChild(join(fixtures, "slow-disk-child.ts"), join(build, "slow"));
  const [key, cert] = [join(build, "key.pem"), join(build, "cert.pem")];
  await run("openssl", [
    ...["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "2"],
    ...["-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", cert],
  ]);
  const folder = join(build, "slow-store");
  const slow = join(build, "be-slow");
  mkdirSync(folder);
  const env = childEnv({ LD_PRELOAD: shim, DISK_FOLDER: folder, DISK_SLOW_MS: "2000", DISK_SLOW_FILE: slow });
  const { stdout } = await run(process.execPath, [child, folder, key, cert, slow, "9000"], { env });
  t.comment(stdout.trim());
  const seen = JSON.parse(stdout) as Record<string, number>;
  const at = (name: string): number => seen[name] ?? Number.NaN;

  t.ok(at("lastSyncMs") >= 2000, "the disk really was slow");
  t.ok(at("syncs") >= 3 && at("checkpoints") >= 1, "the WAL was emptied meanwhile");
  t.ok(at("acceptedInTime") > 0, "readings were accepted");
  t.equal(at("accepted"), at("published"), "and all of them in the end");
  t.ok(at("loopDelayMs") < 500, `the event loop was at most ${at("loopDelayMs")} ms late`);
  t.ok(at("worstBeatMs") < 500, `a TLS heartbeat took at most ${at("worstBeatMs")} ms`);
  t.ok(at("beats") > 50);
  t.ok(at("ptyBytes") > 7 * 100, "the serial line was read all the time");
});

interface Promised {
  open: boolean;
  reading: number;
  pack: number;
  packUpTo: number;
  taken: number;
  command: number;
  done: number;
}

function note(promised: Promised, mark: string): void {
  const [what, a = "", b = ""] = mark.split(" ");
  if (what === "open") promised.open = true;
  if (what === "reading") promised.reading = Math.max(promised.reading, Number(a));
  if (what === "pack") Object.assign(promised, { pack: Number(a), packUpTo: Number(b) });
  if (what === "taken") promised.taken = Number(a);
  if (what === "command") promised.command = Number(a);
  if (what === "done") promised.done = Number(a);
}

/** What a store lacks of what was promised before the power went, or `undefined`. */
function faultOf(files: Map<string, Buffer>, promised: Promised, folder: string): string | undefined {
  for (const name of ["outbox.db", "outbox.db-wal", "outbox.db-journal"]) {
    rmSync(join(folder, name), { force: true });
    const bytes = files.get(name);
    if (bytes) writeFileSync(join(folder, name), bytes);
  }
  const db = new Database(join(folder, "outbox.db"));
  try {
    db.pragma("locking_mode = EXCLUSIVE");
    db.pragma("synchronous = OFF");
    const verdict = db.pragma("integrity_check", { simple: true });
    if (verdict !== "ok") return String(verdict);
    const number = (sql: string): number => Number(db.prepare(sql).pluck().get() ?? 0);
    const lastSeq = number("SELECT max(lastSeq) FROM stream");
    const first = number("SELECT min(firstRow) FROM message") || number("SELECT max(packedTo) FROM stream") + 1;
    const rows = number(`SELECT count(*) FROM reading WHERE id >= ${first}`);
    const last = Math.max(number("SELECT max(id) FROM reading"), number("SELECT max(packedTo) FROM stream"));
    if (lastSeq < promised.pack) return `pack ${promised.pack} was formed, the last known is ${lastSeq}`;
    if (last < promised.reading) return `reading ${promised.reading} was accepted, the last there is ${last}`;
    if (rows !== last - first + 1) return `rows from ${first} to ${last} were expected, there are ${rows}`;
    if (number("SELECT count(*) FROM command") < promised.command) return `command ${promised.command} is not there`;
    const answers = number("SELECT count(*) FROM answer");
    if (answers < promised.done) return `answer ${promised.done} was queued, ${answers} are there`;
    const done = number("SELECT count(*) FROM command WHERE state = 'done'");
    return done < promised.done ? `command ${promised.done} was done, ${done} are known` : undefined;
  } catch (error) {
    return promised.open ? String(error) : undefined;
  } finally {
    db.close();
  }
}

t.test("a power cut at any moment leaves all that was accepted, formed and answered", async (t) => {
  const child = await bundleChild(join(fixtures, "store-child.ts"), join(build, "cut"));
  const folder = join(build, "cut-store");
  mkdirSync(folder);
  const env = childEnv({ LD_PRELOAD: shim, DISK_FOLDER: folder, DISK_LOG: `${folder}.log` });
  await run(process.execPath, [child, folder, "40"], { env });
  const ops = parseDiskLog(readFileSync(`${folder}.log`, "utf8"));
  const image = mkdtempSync("/dev/shm/atedge-store-");
  t.teardown(() => rmSync(image, { recursive: true }));

  const disk = new RecordedDisk();
  const promised: Promised = { open: false, reading: 0, pack: 0, packUpTo: 0, taken: 0, command: 0, done: 0 };
  const nothingMore: Luck = () => 0;
  const some: Luck = () => (Math.random() < 0.5 ? 0 : 1);
  const faults: string[] = [];
  for (const [at, op] of ops.entries()) {
    disk.push(op);
    if (op.type === "write" && op.name === "marks") note(promised, op.bytes.toString().trim());
    if (op.type === "sync-begin" || !op.name.startsWith("outbox.db")) continue;
    for (const luck of [nothingMore, some]) {
      const fault = faultOf(disk.image(luck), promised, image);
      if (fault) faults.push(`after operation ${at} (${op.type} ${op.name}): ${fault}`);
    }
  }
  t.comment(`${ops.length} operations, ${JSON.stringify(promised)}`);
  t.same(faults.slice(0, 3), []);
  t.equal(promised.done, 40);
});

t.test("a disk that is full to the last byte", async (t) => {
  const child = await bundleChild(join(fixtures, "full-disk-child.ts"), join(build, "full"));
  const folder = join(build, "full-store");
  mkdirSync(folder);
  const ballast = join(folder, "something-else");
  writeFileSync(ballast, Buffer.alloc(1 << 20));
  const env = childEnv({ LD_PRELOAD: shim, DISK_FOLDER: folder, DISK_QUOTA: String(4 << 20) });
  const { stdout } = await run(process.execPath, [child, folder, ballast], { env });
  t.comment(stdout.trim());
  const seen = JSON.parse(stdout) as {
    accepted: number;
    refused: number;
    alarms: number;
    state: string;
    measured: { values: number; lost: number };
    alarmed: { values: number; lost: number };
    reserve: number;
  };
  t.equal(seen.state, "ok", "it goes on");
  t.ok(seen.measured.lost + seen.refused > 0, "the disk really was full");
  t.equal(seen.measured.values + seen.measured.lost, seen.accepted, "what was accepted is there or declared");
  t.equal(seen.alarms, 20, "alarms find room");
  t.same(seen.alarmed, { values: 20, lost: 0 });
  t.equal(seen.reserve, 800_000, "the reserve is there again when there is room");
});
