import Database from "better-sqlite3";
import { existsSync, statSync } from "node:fs";
import { fdatasync, fsync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import type { Test } from "tap";
import t from "tap";
import type { DiskSync } from "../../core/disk-sync.js";
import type { GroupCommit } from "../../core/group-commit.js";
import { openGroupCommit } from "../../core/group-commit.js";
import { tempFolder } from "../fixtures/temp-folder.js";

const realDisk: DiskSync = { fdatasync: promisify(fdatasync), fsync: promisify(fsync) };

/** A disk whose syncs of the WAL wait until they are let go, and fail when told to. */
class HeldDisk implements DiskSync {
  waiting: (() => void)[] = [];
  held = false;
  fsyncing = 0;
  failure: Error | undefined;
  log: string[] = [];

  async fdatasync(fd: number): Promise<void> {
    this.log.push("fdatasync");
    if (this.held) await new Promise<void>((resolve) => this.waiting.push(resolve));
    if (this.failure) throw this.failure;
    await realDisk.fdatasync(fd);
  }

  async fsync(fd: number): Promise<void> {
    this.log.push("fsync");
    this.fsyncing += 1;
    if (this.held) await new Promise<void>((resolve) => this.waiting.push(resolve));
    if (this.failure) throw this.failure;
    await realDisk.fsync(fd);
    this.fsyncing -= 1;
  }

  letGo(): void {
    this.held = false;
    for (const resolve of this.waiting.splice(0)) resolve();
  }
}

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
async function turns(count: number): Promise<void> {
  for (let i = 0; i < count; i++) await turn();
}

interface Options {
  readonly walLimitBytes?: number;
  readonly maxWaiting?: number;
  readonly commitIntervalMs?: number;
}

async function open(t: Test, options: Options = {}) {
  const path = join(tempFolder(t), "x.db");
  const db = new Database(path);
  const disk = new HeldDisk();
  const commit = await openGroupCommit({ db, path, disk, ...options });
  t.teardown(() => {
    disk.letGo();
    return commit.close();
  });
  await commit.write(() => db.exec("CREATE TABLE r (n INTEGER PRIMARY KEY, body TEXT)"));
  const insert = db.prepare("INSERT INTO r (n, body) VALUES (?, ?)");
  const add = (n: number, body = "") => commit.write(() => insert.run(n, body).changes);
  const count = () => db.prepare("SELECT count(*) FROM r").pluck().get();
  return { path, db, disk, commit, add, count };
}

t.test("GroupCommit", async (t) => {
  t.test("resolves a write only after the sync that follows it", async (t) => {
    const { disk, add, count } = await open(t);
    disk.held = true;
    let done = false;
    const write = add(1).then((changes) => {
      done = true;
      return changes;
    });
    await turns(20);
    t.equal(count(), 1, "it can be read already");
    t.equal(done, false, "but is not promised");
    disk.letGo();
    t.equal(await write, 1);
  });

  t.test("gathers all that comes while a sync runs into one commit", async (t) => {
    const { disk, add, commit } = await open(t);
    disk.held = true;
    const first = add(0);
    await turns(3);
    const { commits } = commit.health;
    const rest: Promise<unknown>[] = [];
    for (let n = 1; n <= 100; n++) {
      rest.push(add(n));
      await turn();
    }
    t.equal(commit.health.commits, commits);
    disk.letGo();
    await Promise.all([first, ...rest]);
    t.equal(commit.health.commits, commits + 1);
  });

  t.test("undoes a write that throws, and only that one", async (t) => {
    const { add, commit, db, count } = await open(t);
    const good = add(1);
    const bad = commit.write(() => {
      db.exec("INSERT INTO r (n) VALUES (2)");
      throw new RangeError("no");
    });
    const alsoGood = add(3);
    await t.rejects(bad, RangeError);
    await Promise.all([good, alsoGood]);
    t.equal(count(), 2);
  });

  t.test("does not let a write that asks for less wait for the disk", async (t) => {
    const { disk, add, commit, db } = await open(t);
    disk.held = true;
    const slow = add(1);
    await turns(3);
    await commit.write(() => db.exec("INSERT INTO r (n) VALUES (2)"), "crash");
    disk.letGo();
    await slow;
  });

  t.test("lets no write in between while the WAL is emptied, and takes them afterwards", async (t) => {
    const { disk, add, commit, path, db, count } = await open(t, { walLimitBytes: 40_000 });
    for (let n = 0; commit.health.checkpoints === 0; n++) await add(n, "x".repeat(1000));
    const walSize = (): number => statSync(`${path}-wal`).size;
    const room = walSize();
    const before = Number(count());
    let applied = 0;
    const write = (): Promise<void> =>
      commit.write(() => {
        applied += 1;
        t.equal(disk.fsyncing, 0, "fsync is called for checkpoints only");
        db.prepare("INSERT INTO r (body) VALUES (?)").run("x".repeat(3000));
      });
    const writes: Promise<void>[] = [];
    for (let n = 0; n < 200; n++) {
      writes.push(write());
      await turn();
    }
    await Promise.all(writes);
    await commit.flush();
    t.equal(applied, 200);
    t.equal(count(), before + 200);
    t.ok(commit.health.checkpoints > 1);
    t.ok(disk.log.join(" ").includes("fdatasync fdatasync fsync fdatasync"), "WAL, WAL, database, WAL");
    t.ok(walSize() < 2 * room, "its room is used again");
  });

  t.test("applies writes in the order of their calls, also those that come while the WAL is emptied", async (t) => {
    const path = join(tempFolder(t), "x.db");
    const db = new Database(path);
    const applied: number[] = [];
    const writes: Promise<unknown>[] = [];
    const opened: { commit?: GroupCommit } = {};
    let called = 0;
    const write = (): void => {
      if (called >= 900 || !opened.commit) return;
      const n = (called += 1);
      writes.push(
        opened.commit.write(
          () => (applied.push(n), db.prepare("INSERT INTO r VALUES (?, ?)").run(n, "x".repeat(4000))),
        ),
      );
    };
    /** Writes in each of the next microtasks: between any two steps of a checkpoint. */
    const busily = async (work: Promise<void> | void): Promise<void> => {
      await work;
      let next = Promise.resolve();
      for (let depth = 0; depth < 12; depth++) next = next.then(write);
    };
    const disk: DiskSync = {
      fdatasync: (fd) => busily(realDisk.fdatasync(fd)),
      fsync: (fd) => busily(realDisk.fsync(fd)),
    };
    const commit = await openGroupCommit({ db, path, disk, walLimitBytes: 30_000 });
    opened.commit = commit;
    t.teardown(() => commit.close());
    await commit.write(() => db.exec("CREATE TABLE r (n INTEGER PRIMARY KEY, body TEXT)"));
    while (called < 900) {
      write();
      await turn();
    }
    await Promise.all(writes);
    t.ok(commit.health.checkpoints > 0, `${commit.health.checkpoints} times`);
    t.same(
      applied,
      Array.from({ length: 900 }, (_, index) => index + 1),
    );
  });

  t.test("fails for good when a sync fails, and says why", async (t) => {
    const { disk, add, commit } = await open(t);
    disk.failure = Object.assign(new Error("EIO: i/o error, fdatasync"), { code: "EIO" });
    await t.rejects(add(1), { code: "DISK_SYNC_FAILED", cause: { code: "EIO" } });
    disk.failure = undefined;
    await t.rejects(add(2), { code: "DISK_SYNC_FAILED" }, "a second sync may lie");
    await t.rejects(commit.flush(), { code: "DISK_SYNC_FAILED" });
    t.match(commit.health, { state: "failed", errorCode: "EIO", waiting: 0 });
  });

  t.test("rejects what waits behind a checkpoint whose sync fails", async (t) => {
    const { disk, add, commit, path } = await open(t, { walLimitBytes: 40_000 });
    for (let n = 0; statSync(`${path}-wal`).size + 8240 < 40_000; n++) await add(n, "x".repeat(1000));
    disk.held = true;
    const writes = Array.from({ length: 50 }, (_, n) => add(1000 + n, "x".repeat(2000)));
    await turns(5);
    disk.failure = new Error("EIO");
    disk.letGo();
    for (const { status } of await Promise.allSettled(writes)) t.equal(status, "rejected");
    t.equal(commit.health.waiting, 0);
  });

  t.test("refuses more waiting writes than its bound, and counts them", async (t) => {
    const { disk, add, commit } = await open(t, { maxWaiting: 3 });
    disk.held = true;
    const writes = [add(1), add(2), add(3)];
    await t.rejects(add(4), { code: "LIMIT_EXCEEDED" });
    disk.letGo();
    await Promise.all(writes);
    t.match(commit.health, { refused: 1, waiting: 0 });
    await add(5);
  });

  t.test("commits at once after a pause and gathers for the interval under load", async (t) => {
    const { add, commit } = await open(t, { commitIntervalMs: 60 });
    const { commits } = commit.health;
    await new Promise((resolve) => setTimeout(resolve, 61));
    await add(0);
    const all: Promise<unknown>[] = [];
    for (let n = 1; n <= 50; n++) {
      all.push(add(n));
      await turn();
    }
    await Promise.all(all);
    t.equal(commit.health.commits - commits, 2);
    const flushed = add(51);
    await commit.flush();
    await flushed;
  });

  t.test("empties the WAL when it is closed, and refuses writes from then on", async (t) => {
    const { add, commit, path } = await open(t);
    const last = add(1);
    await commit.close();
    await last;
    t.notOk(existsSync(`${path}-wal`));
    await t.rejects(add(2), { code: "DATABASE_CLOSED" });
    const again = new Database(path, { readonly: true });
    t.equal(again.prepare("SELECT count(*) FROM r").pluck().get(), 1);
    again.close();
  });
});
