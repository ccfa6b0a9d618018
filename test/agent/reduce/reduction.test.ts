import fc from "fast-check";
import t from "tap";
import type { ChannelConfig } from "../../../agent/config/data-sections.js";
import { Reduction } from "../../../agent/reduce/reduction.js";
import type { Reading } from "../../../core/driver.js";
import { ManualClock } from "../../fixtures/manual-clock.js";

function reducing(...channels: ChannelConfig[]) {
  const clock = new ManualClock();
  const got: Reading[] = [];
  const world = { clock, got, refuse: false };
  const publish = (readings: readonly Reading[]): Promise<void> => {
    if (world.refuse) return Promise.reject(new Error("full"));
    got.push(...readings);
    return Promise.resolve();
  };
  const reduction = new Reduction({ channels, publish, clock });
  const values = async (...numbers: Reading["value"][]): Promise<Reading["value"][]> => {
    got.length = 0;
    for (const value of numbers) await reduction.publish([{ name: "a/t", value }]);
    return got.map(({ value }) => value);
  };
  return { ...world, world, reduction, values };
}

t.test("reduction on the device", async (t) => {
  t.test("passes what no table is for, and alarms and events always", async (t) => {
    const { reduction, got } = reducing({ name: "a/*", deadband: 100 });
    const others: Reading[] = [
      { name: "b/t", value: 1 },
      { name: "b/t", value: 1 },
      { name: "a/t", value: 1, class: "alarm" },
      { name: "a/t", value: 1, class: "event" },
    ];
    await reduction.publish(others);
    t.same(got, others);
  });

  t.test("leaves out what stays within the deadband of the last one sent, not of the last one seen", async (t) => {
    const { values } = reducing({ name: "a/t", deadband: 1 });
    t.same(await values(20, 20.5, 21, 21.1, 20.2, 20.05, 22), [20, 21.1, 20.05, 22]);
    t.same(await values("on", "on", "off", true, true), ["on", "off", true], "of other values: the same again");
  });

  t.test("takes none sooner than the least interval, and one at least in the longest", async (t) => {
    const { values, clock } = reducing({ name: "a/t", deadband: 1, minIntervalMs: 1000, maxIntervalMs: 60_000 });
    t.same(await values(1, 50), [1]);
    await clock.advance(999);
    t.same(await values(50), []);
    await clock.advance(1);
    t.same(await values(50), [50]);
    await clock.advance(59_000);
    t.same(await values(50), []);
    await clock.advance(1000);
    t.same(await values(50), [50]);
  });

  t.test("converts, then clamps, and counts what it clamps", async (t) => {
    const channel = { name: "a/t", scale: 0.1, offset: -40, unit: "Cel", clampMin: -20, clampMax: 60 };
    const { values, reduction, got } = reducing(channel);
    t.same(await values(650, 0, 2000, "broken"), [25, -20, 60, "broken"]);
    t.same(
      got.map(({ unit }) => unit),
      ["Cel", "Cel", "Cel", undefined],
    );
    t.match(reduction.counters, { taken: 4, clamped: 2 });
  });

  t.test("makes three values of a window, dated by its last, at its end and at the agent's", async (t) => {
    const { reduction, got, clock } = reducing({ name: "a/t", windowMs: 60_000, unit: "Cel" });
    const stop = new AbortController();
    const running = reduction.run(stop.signal);
    for (const value of [3, 1, 2]) {
      await reduction.publish([{ name: "a/t", value, timeMs: clock.now() }]);
      await clock.advance(1000);
    }
    const lastMs = clock.now() - 1000;
    await clock.advance(56_000);
    t.same(got, []);
    await clock.advance(1500);
    const of = (name: string, value: number, timeMs: number) => ({ name: `a/t.${name}`, value, unit: "Cel", timeMs });
    t.same(got.splice(0), [of("min", 1, lastMs), of("mean", 2, lastMs), of("max", 3, lastMs)]);
    await reduction.publish([{ name: "a/t", value: 7, timeMs: clock.now() }]);
    stop.abort();
    await running;
    t.same(
      got.splice(0).map(({ value }) => value),
      [7, 7, 7],
    );
    await reduction.publish([{ name: "a/t", value: 8 }]);
    t.same(
      got.map(({ value }) => value),
      [8, 8, 8],
      "what comes later does not wait",
    );
    t.match(reduction.counters, { windows: 2 });
  });

  t.test("takes the next value for the first when the outbox did not take one", async (t) => {
    const { world, values, reduction } = reducing({ name: "a/t", deadband: 1 });
    t.same(await values(1), [1]);
    world.refuse = true;
    await t.rejects(reduction.publish([{ name: "a/t", value: 9 }]));
    world.refuse = false;
    t.same(await values(9), [9]);
  });

  t.test("uses the first table that fits, and remembers a bounded number of channels", async (t) => {
    const { reduction, got } = reducing({ name: "a/x.*", deadband: 0 }, { name: "a/*", deadband: 10 });
    await reduction.publish(["a/x.1", "a/x.1", "a/y", "a/xy"].map((name, value) => ({ name, value })));
    t.same(
      got.map(({ name }) => name),
      ["a/x.1", "a/x.1", "a/y", "a/xy"],
      "a dot is a dot",
    );
    for (let n = 0; n < 10_000; n += 1) await reduction.publish([{ name: `a/${n}`, value: 1 }]);
    got.length = 0;
    await reduction.publish([
      { name: "a/9999", value: 1 },
      { name: "a/0", value: 1 },
    ]);
    t.same(
      got.map(({ name }) => name),
      ["a/0"],
    );
  });

  t.test("never lets what it sends differ by more than the deadband from what came", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.double({ min: -1e6, max: 1e6, noNaN: true }), { maxLength: 50 }),
        async (numbers) => {
          const { reduction, got } = reducing({ name: "a/t", deadband: 5 });
          for (const value of numbers) {
            await reduction.publish([{ name: "a/t", value }]);
            if (Math.abs(Number(got.at(-1)?.value) - value) > 5) return false;
          }
          return true;
        },
      ),
    );
  });
});
