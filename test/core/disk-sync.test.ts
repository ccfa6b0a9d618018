import { test } from "tap";
import { QuickDisk } from "../../core/disk-sync.js";

/** Syncs that take as long as told, each noted with where it was made. */
function fakeDisk(): { readonly disk: QuickDisk; tookMs: number; sync(times: number): Promise<string> } {
  let nowMs = 0;
  const made: string[] = [];
  const fake = {
    tookMs: 0.2,
    async sync(times: number): Promise<string> {
      made.length = 0;
      for (let at = 0; at < times; at++) await fake.disk.fdatasync(3);
      const onLoop = made.filter((where) => where === "loop").length;
      return `${made.length - onLoop} pool, ${onLoop} loop`;
    },
    disk: new QuickDisk(
      2,
      {
        fdatasync: (fd: number): Promise<void> => {
          made.push("pool");
          nowMs += fake.tookMs;
          return Promise.resolve(fd).then(() => undefined);
        },
      },
      {
        fdatasync: () => {
          made.push("loop");
          nowMs += fake.tookMs;
        },
        nowMs: () => nowMs,
      },
    ),
  };
  return fake;
}

void test("a quick disk is waited for on the event loop, after a look at it", async (t) => {
  const fake = fakeDisk();
  t.equal(await fake.sync(100), "16 pool, 84 loop");
});

void test("a disk that becomes slow blocks the event loop once, and is then left to the pool for long", async (t) => {
  const fake = fakeDisk();
  await fake.sync(16);
  fake.tookMs = 500;
  t.equal(await fake.sync(1), "0 pool, 1 loop");
  fake.tookMs = 0.2;
  t.equal(await fake.sync(8_000), "8000 pool, 0 loop");
  t.equal(await fake.sync(10), "0 pool, 10 loop");
});

void test("a slow disk never blocks the event loop", async (t) => {
  const fake = fakeDisk();
  fake.tookMs = 20;
  t.equal(await fake.sync(5_000), "5000 pool, 0 loop");
});
