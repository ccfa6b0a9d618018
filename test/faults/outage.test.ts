import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { setTimeout as sleep } from "node:timers/promises";
import t, { type Test } from "tap";
import { bundleChild, compileShim } from "../fixtures/disk/shim.js";
import { PathWorld, type PathWorldOptions } from "../fixtures/faults/path-world.js";

const fixtures = join(dirname(fileURLToPath(import.meta.url)), "../fixtures");
const build = mkdtempSync(join(tmpdir(), "atedge-outage-"));
const memory = mkdtempSync("/dev/shm/atedge-outage-");
t.teardown(() => {
  rmSync(build, { recursive: true });
  rmSync(memory, { recursive: true });
});
const program = await bundleChild(join(fixtures, "faults/path-child.ts"), join(build, "path"));
const shim = await compileShim(build);

interface Health {
  readonly waiting: number;
  readonly health: { readonly inMemory: boolean; readonly state: string; readonly usedBytes: number };
}

async function world(
  t: Test,
  options: Partial<PathWorldOptions> = {},
  env: (state: string) => NodeJS.ProcessEnv = () => ({}),
): Promise<{ world: PathWorld; state: string }> {
  const state = join(mkdtempSync(join(build, "state-")), "state");
  mkdirSync(state);
  const made = new PathWorld({ program, folder: state, ...options });
  t.teardown(() => made.end());
  await made.start({ RUNTIME_DIRECTORY: memory, ...env(state) });
  return { world: made, state };
}

const look = async (world: PathWorld): Promise<Health> => (await world.ask("look")) as Health;

async function until(condition: () => Promise<boolean> | boolean, patienceMs = 20_000): Promise<boolean> {
  for (const end = Date.now() + patienceMs; Date.now() < end; await sleep(50)) {
    if (await Promise.resolve(condition()).catch(() => false)) return true;
  }
  return false;
}

t.test("an atServer that is gone for longer than the outbox holds", async (t) => {
  const { world: made } = await world(t, { outbox: { maxBytes: 1 << 20 } });
  await made.publish(10);
  made.serverUp = false;
  for (let n = 0; n < 120; n += 1) await made.publish(300);
  await made.publish(20, "alarm");
  t.ok((await look(made)).health.usedBytes <= 1 << 20);
  made.serverUp = true;
  t.ok(await made.settle(60_000), "all goes out when it is back");
  t.same(made.faults(), []);
  const { lost, values } = made.reader.got("measurement");
  t.ok(lost > 1000 && values.length > 1000, `${lost} of ${lost + values.length} are declared`);
  t.match(made.reader.got("alarm"), { values: { length: 20 }, lost: 0 }, "and no alarm");
});

t.test("a reader that is slow, and one that is away", async (t) => {
  const { world: made } = await world(t);
  made.slowMs = 30;
  for (let n = 0; n < 60; n += 1) await made.publish(5);
  made.linkUp = false;
  for (let n = 0; n < 20; n += 1) await made.publish(5, "event");
  await sleep(300);
  made.linkUp = true;
  made.slowMs = 0;
  t.ok(await made.settle(60_000));
  t.same(made.faults(), []);
  t.equal(made.reader.got("measurement").values.length, 300);
});

t.test("a disk that is full to the last byte, and has room again", async (t) => {
  let ballast = "";
  const { world: made } = await world(t, {}, (state) => {
    ballast = join(state, "ballast");
    writeFileSync(ballast, Buffer.alloc(2 << 20));
    return { LD_PRELOAD: shim, DISK_FOLDER: state, DISK_QUOTA: String(8 << 20) };
  });
  made.serverUp = false;
  for (let n = 0; n < 300; n += 1) await made.publish(500);
  await made.publish(10, "alarm");
  rmSync(ballast);
  made.serverUp = true;
  t.ok(await made.settle(60_000));
  t.same(made.faults(), []);
  t.ok(made.refused.size + made.reader.got("measurement").lost > 0, "it really was full");
  t.equal(made.reader.got("alarm").values.length, 10, "alarms find room");
});

t.test("a disk that confirms nothing any more, and then does", async (t) => {
  const fail = join(build, "fail-fsync");
  const { world: made } = await world(t, {}, (state) => ({
    LD_PRELOAD: shim,
    DISK_FOLDER: state,
    DISK_FAIL_FILE: fail,
  }));
  await made.publish(20);
  t.ok(await made.settle());
  writeFileSync(fail, "");
  await made.publish(5);
  t.equal(made.refused.size, 5, "what it does not confirm is not accepted");
  const inMemory = async (): Promise<boolean> => (await look(made)).health.inMemory;
  t.ok(await until(inMemory), "the agent goes on in memory");
  await made.publish(15);
  t.equal(made.accepted.size, 35);
  t.ok(await until(() => made.reader.got("measurement").values.length >= 35), "and relays");
  rmSync(fail);
  t.ok(await until(async () => !(await inMemory())), "and goes back to the disk without a human");
  await made.publish(5);
  t.ok(await made.settle());
  const came = new Set(made.reader.got("measurement").values);
  t.same(
    [...made.accepted.keys()].filter((n) => !came.has(n)),
    [],
    "nothing that was accepted is lost",
  );
  t.same(readdirSync(memory), []);
});

t.test("a wall clock that jumps a year ahead and a year back", async (t) => {
  const year = 365 * 86_400_000;
  const { world: made } = await world(t, { outbox: { measurement: { maxAgeMs: 3_600_000 } } });
  made.linkUp = false;
  for (const aheadMs of [0, year, -year, 3_000, 0]) {
    await made.ask("wall", { aheadMs });
    await made.publish(10);
  }
  made.linkUp = true;
  t.ok(await made.settle());
  t.same(made.faults(), []);
  t.match(made.reader.got("measurement"), { values: { length: 50 }, lost: 0 }, "nothing was too old by it");
});
