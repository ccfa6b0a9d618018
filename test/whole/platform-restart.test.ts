import { setTimeout as sleep } from "node:timers/promises";
import t from "tap";
import { Whole } from "../fixtures/whole.js";

t.test("a platform that is killed and comes back loses nothing and needs nobody", { timeout: 110_000 }, async (t) => {
  await using whole = await Whole.start({ rateHz: 20 });
  for (const signal of ["SIGKILL", "SIGTERM", "SIGKILL"] as const) {
    await sleep(2500);
    const before = whole.numbersSeen("board").length;
    await whole.restartPlatform(signal);
    const until = Date.now() + 30_000;
    while (whole.numbersSeen("board").length <= before && Date.now() < until) await sleep(100);
    t.ok(whole.numbersSeen("board").length > before, `readings come again after ${signal}`);
  }
  await whole.stopSensors();
  for (const driver of ["board", "bench"] as const) {
    t.same(await whole.missing(driver, 40_000), [], `every acknowledged number of ${driver} arrived`);
    const numbers = whole.numbersSeen(driver);
    t.equal(new Set(numbers).size, numbers.length, "none twice");
    t.ok((await whole.acknowledged(driver)).size > 100);
  }
  t.same(whole.refused, []);
  t.same(whole.deaths, [], "agent and watcher are the processes of the start");
});
