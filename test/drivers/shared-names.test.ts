import t from "tap";
import { driversHealth } from "../../agent/health/sources.js";
import { systemClock } from "../../core/clock.js";
import { silentLog, type Log } from "../../core/log.js";
import { NameOwners } from "../../drivers/name-owners.js";
import { configuredDriver, driverSchema } from "../../drivers/registry.js";
import { DriverSupervisor } from "../../drivers/supervisor.js";
import * as v from "valibot";
import { eventually } from "../contracts/driver.js";

void t.test("two drivers that give a reading of one name are told of, in log and health", async (t) => {
  const warnings: object[] = [];
  const log: Log = {
    ...silentLog,
    warn: (fields, message) => void warnings.push({ ...fields, message }),
    child: () => log,
  };
  const driver = (id: string, name: string) => {
    const config = v.parse(driverSchema, { id, type: "simulated", intervalMs: 5, name });
    return { ...configuredDriver(config), config };
  };
  let published = 0;
  const supervisor = new DriverSupervisor({
    drivers: [driver("north", "t"), driver("south", "t"), driver("east", "other")],
    publish: async (_, readings) => void (published += readings.length),
    stateDir: t.testdir(),
    clock: systemClock,
    log,
  });
  const stop = new AbortController();
  const running = supervisor.run(stop.signal);
  await eventually(() => published > 20, "some rounds");
  t.match(warnings, [{ reading: "t", other: "north", message: /two drivers give a reading of one name/u }]);
  t.equal(warnings.length, 1, "once is enough");
  t.match(supervisor.health()[1], {
    id: "south",
    state: "running",
    lastErrorCode: "NAME_SHARED",
    lastError: "t is a reading of north too",
    counters: { sharedNames: 1 },
  });
  t.strictSame(
    driversHealth(supervisor).map(({ name, state, code }) => [name, state, code]),
    [
      ["driver.north", "ok", undefined],
      ["driver.south", "degraded", "NAME_SHARED"],
      ["driver.east", "ok", undefined],
    ],
  );
  await supervisor.configure([driver("north", "t"), driver("south", "t2"), driver("east", "other")], new Set());
  await eventually(() => supervisor.health()[1]?.state === "running", "the renamed one");
  t.equal(supervisor.health()[1]?.lastErrorCode, undefined, "renamed");
  stop.abort();
  await running;
});

void t.test("names are kept up to a bound", async (t) => {
  const owners = new NameOwners();
  for (let n = 0; n < 20_000; n += 1) owners.claim("a", [{ name: `n${n}`, value: n }], silentLog);
  owners.claim(
    "b",
    [
      { name: "n5", value: 1 },
      { name: "n19999", value: 1 },
    ],
    silentLog,
  );
  t.strictSame([...owners.sharedBy("b")], [["n5", "a"]]);
  owners.forget("a");
  t.equal(owners.sharedBy("b").size, 0);
});
