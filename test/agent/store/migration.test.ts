import Database from "better-sqlite3";
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { gunzipSync } from "node:zlib";
import type { Test } from "tap";
import t from "tap";
import { MIGRATIONS } from "../../../agent/store/migrations.js";
import { openStore, type Store } from "../../../agent/store/store.js";
import { openAtDatabase } from "../../../atplatform/server/store/database.js";
import { PlatformStore } from "../../../atplatform/server/platform-store.js";
import { openSqliteSyncStore } from "../../../atplatform/sync-store/sqlite-sync-store.js";
import { systemClock } from "../../../core/clock.js";
import { silentLog } from "../../../core/log.js";
import { copyBeforeMigration, migrate, type Migration } from "../../../core/schema.js";
import { openKeepFile } from "../../../remote/keep-file.js";
import { tempFolder } from "../../fixtures/temp-folder.js";

const RELEASED = join("test", "fixtures", "released");
const VERSIONS = readdirSync(RELEASED).filter((name) => /^\d/u.test(name));
const READERS = ["@grower"];
const LATER: Migration = {
  up: "CREATE TABLE later (what TEXT); ALTER TABLE reading ADD COLUMN hint TEXT; INSERT INTO later VALUES ('here')",
  down: "DROP TABLE later; ALTER TABLE reading DROP COLUMN hint",
};
const tooNew = (version: number): Error => new Error(`too new: ${version}`);

/** Unpacks the databases of a released version. */
function unpack(t: Test, version: string): string {
  const folder = tempFolder(t);
  for (const entry of readdirSync(join(RELEASED, version), { recursive: true, encoding: "utf8" })) {
    const from = join(RELEASED, version, entry);
    if (statSync(from).isDirectory()) continue;
    const to = join(folder, entry.replace(/\.gz$/u, ""));
    mkdirSync(dirname(to), { recursive: true });
    if (entry.endsWith(".gz")) writeFileSync(to, gunzipSync(readFileSync(from)));
    else copyFileSync(from, to);
  }
  return folder;
}

type Counts = Readonly<Record<string, number>>;
const expected = (folder: string, name: string): Counts =>
  JSON.parse(readFileSync(join(folder, `${name}.rows.json`), "utf8")) as Counts;

function rows(path: string, tables: Counts): Counts {
  const db = new Database(path);
  const count = (table: string): number => Number(db.prepare(`SELECT count(*) FROM "${table}"`).pluck().get());
  const found = Object.fromEntries(Object.keys(tables).map((table) => [table, count(table)]));
  db.close();
  return found;
}

function openReleased(folder: string): Promise<Store> {
  const identity = JSON.parse(readFileSync(join(folder, "outbox-id.json"), "utf8")) as { readonly machine: string };
  return openStore({ folder, readers: READERS, clock: systemClock, log: silentLog, machineId: identity.machine });
}

for (const version of VERSIONS)
  t.test(`what ${version} has left on the disk is taken up`, async (t) => {
    const folder = unpack(t, version);

    t.test("the outbox with its readings, messages, ledger and pins, left by a power cut", async (t) => {
      const had = expected(folder, "agent/outbox.db");
      const path = join(folder, "agent", "outbox.db");
      const id = commandOf(folder);
      const store = await openReleased(join(folder, "agent"));
      t.equal(store.identityVerdict, "same");
      const [stream] = store.streams.list("@grower");
      t.ok(stream, "the reader's streams go on");
      const before = await store.ledger.accept({
        caller: "@grower",
        id,
        detail: {},
        acceptedMs: 1,
        expiresMs: 2,
      });
      t.match(before, { kind: "repeat", entry: { state: "done" } }, "a command of before is known as one");
      await store.publish([{ name: "board/new", value: 1, class: "measurement" }]);
      await store.close();
      const now = rows(path, had);
      t.equal(now["reading"], Number(had["reading"]) + 1);
      for (const table of ["message", "pin", "stream", "command"])
        t.equal(now[table], had[table], `all rows of ${table}`);
    });

    t.test("the file of watch --keep", async (t) => {
      const path = join(folder, "kept.db");
      const db = new Database(path);
      const meta = new Map(db.prepare<[], [string, string]>("SELECT name, value FROM meta").raw().all());
      db.close();
      const text = (name: string): string => meta.get(name) ?? "";
      const names = { owner: text("owner"), device: text("device"), ns: text("ns") };
      const file = await openKeepFile(path, { ...names, reader: text("reader"), consumer: text("consumer") });
      t.equal(file.lives().length, 1);
      await file[Symbol.asyncDispose]();
      t.same(rows(path, expected(folder, "kept.db")), expected(folder, "kept.db"));
    });

    t.test("the copy of an atSign that an SDK program keeps", async (t) => {
      const store = await openSqliteSyncStore(join(folder, "sync.db"), "@grower");
      t.equal(await store.position(), 4);
      t.equal((await store.everyChange()).length, 1);
      await store[Symbol.asyncDispose]();
    });

    t.test("a platform's directory and its atSigns", async (t) => {
      const platform = new PlatformStore(join(folder, "platform"));
      const hosted = platform.list();
      t.same(hosted.map(({ atSign }) => atSign).sort(), ["@greenhouse", "@grower"]);
      for (const { atSign } of hosted) {
        const path = platform.fileOf(atSign);
        const had = expected(folder, `platform/atsigns/${atSign.slice(1)}.db`);
        await using file = await openAtDatabase(path);
        t.equal(file.db.prepare("SELECT count(*) FROM key").pluck().get(), had["key"]);
        t.equal(file.db.prepare("SELECT count(*) FROM notification").pluck().get(), had["notification"]);
      }
      platform.directory.close();
    });
  });

function commandOf(folder: string): string {
  const db = new Database(join(folder, "agent", "outbox.db"), { readonly: true });
  const id = String(db.prepare("SELECT id FROM command").pluck().get());
  db.close();
  return id;
}

t.test("every step of the outbox but the first says how to go back, and does", async (t) => {
  const schemaOf = (db: Database.Database): unknown =>
    db.prepare("SELECT type, name, sql FROM sqlite_schema WHERE name <> 'way_back' ORDER BY name").all();
  const steps = [...MIGRATIONS, LATER];
  for (let to = 2; to <= steps.length; to += 1) {
    const db = new Database(":memory:");
    migrate(db, steps.slice(0, to - 1), tooNew);
    const before = schemaOf(db);
    db.exec("INSERT INTO reading (class, id, timeMs, body) VALUES (1, 1, 5, '[\"n\",null,1]')");
    migrate(db, steps.slice(0, to), tooNew);
    t.equal(db.pragma("user_version", { simple: true }), to);
    migrate(db, steps.slice(0, to - 1), tooNew);
    t.same(schemaOf(db), before, `${to} to ${to - 1}`);
    t.equal(db.prepare("SELECT count(*) FROM reading").pluck().get(), 1);
    migrate(db, steps.slice(0, to), tooNew);
    t.equal(db.pragma("user_version", { simple: true }), to, "and forward again");
  }
});

t.test("an older atedge gets back a file of a newer one, with what was accepted meanwhile", async (t) => {
  const folder = join(unpack(t, "0.1.0"), "agent");
  const path = join(folder, "outbox.db");
  const had = rows(path, expected(join(folder, ".."), "agent/outbox.db"));
  const newer = new Database(path);
  const copy = await copyBeforeMigration(newer, path, [...MIGRATIONS, LATER], Date.now());
  newer.transaction(() => migrate(newer, [...MIGRATIONS, LATER], tooNew))();
  newer.exec("INSERT INTO reading (class, id, timeMs, body, hint) VALUES (2, 99999, 5, '[\"n\",null,1]', 'new')");
  newer.close();

  t.equal(copy, `${path}.v1`, "a copy as it was is kept");
  t.equal(statSync(String(copy)).mode & 0o777, 0o600);
  t.same(rows(String(copy), had), had);
  const older = await openReleased(folder);
  await older.publish([{ name: "board/new", value: 1, class: "measurement" }]);
  await older.close();
  t.equal(rows(path, had)["reading"], Number(had["reading"]) + 2);
});

t.test("a copy is removed when it is a week old, and none is made without need", async (t) => {
  const folder = tempFolder(t);
  const path = join(folder, "outbox.db");
  const db = new Database(path);
  t.teardown(() => db.close());
  const two = [{ up: "CREATE TABLE a (x)" }, { up: "CREATE TABLE b (x)", down: "DROP TABLE b" }];
  t.equal(await copyBeforeMigration(db, path, two, Date.now()), undefined, "a new file");
  migrate(db, two.slice(0, 1), tooNew);
  t.equal(await copyBeforeMigration(db, path, two, Date.now()), `${path}.v1`);
  migrate(db, two, tooNew);
  t.equal(await copyBeforeMigration(db, path, two, Date.now()), undefined, "up to date");
  t.ok(existsSync(`${path}.v1`));
  await copyBeforeMigration(db, path, two, Date.now() + 8 * 24 * 3_600_000);
  t.notOk(existsSync(`${path}.v1`));
});

t.test("a file of a newer version that knows no way back is left alone", async (t) => {
  const db = new Database(":memory:");
  db.pragma("user_version = 9");
  t.throws(() => migrate(db, MIGRATIONS, tooNew), { message: "too new: 9" });
  t.equal(db.pragma("user_version", { simple: true }), 9);
});
