import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import fc from "fast-check";
import t from "tap";
import * as v from "valibot";
import { hostSchema } from "../../drivers/host/config.js";
import { openHost } from "../../drivers/host/host-driver.js";
import { cpuBusyShare, parseCpuTimes, parseLoad, parseMemory, parseUptime } from "../../drivers/host/proc.js";
import { ManualClock } from "../fixtures/manual-clock.js";
import { recordingDeps } from "../contracts/driver.js";

const MEMINFO = "MemTotal:        8000000 kB\nMemFree:          123 kB\nMemAvailable:    2000000 kB\n";

void t.test("what Linux tells in /proc", async (t) => {
  const stat = parseCpuTimes("cpu  100 10 50 800 40 5 5 0 0 0\ncpu0 1 2 3 4\n");
  t.strictSame(stat, { busyTicks: 170, totalTicks: 1010 });
  t.equal(cpuBusyShare({ busyTicks: 70, totalTicks: 810 }, { busyTicks: 170, totalTicks: 1010 }), 50);
  t.equal(cpuBusyShare({ busyTicks: 70, totalTicks: 810 }, { busyTicks: 70, totalTicks: 810 }), undefined);
  t.strictSame(parseLoad("0.52 1.25 2.00 1/123 4567\n"), { oneMinute: 0.52, fiveMinutes: 1.25 });
  t.strictSame(parseMemory(MEMINFO), { totalBytes: 8_192_000_000, availableBytes: 2_048_000_000 });
  t.equal(parseUptime("12345.67 54321.00\n"), 12_345.67);

  await t.test("gives nothing when it looks otherwise", async () => {
    fc.assert(
      fc.property(fc.string({ unit: "binary" }), (text) =>
        [parseCpuTimes, parseLoad, parseMemory, parseUptime].every((parse) => parse(`x${text}`) === undefined),
      ),
    );
  });
});

void t.test("the host driver reads a machine's own files once an interval", async (t) => {
  const root = await mkdtemp(join(tmpdir(), "atedge-host-"));
  t.teardown(() => rm(root, { recursive: true, force: true }));
  const files = {
    "proc/stat": "cpu  100 0 0 900 0 0 0 0 0 0\n",
    "proc/loadavg": "0.52 1.25 2.00 1/123 4567\n",
    "proc/meminfo": MEMINFO,
    "proc/uptime": "12345.67 54321.00\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "48312\n",
    "sys/class/thermal/thermal_zone1/type": "gpu\n",
    "sys/class/thermal/thermal_zone1/temp": "-273\n",
    "sys/class/thermal/thermal_zone2/temp": "broken\n",
  };
  const put = async (name: string, text: string): Promise<void> => {
    await mkdir(dirname(join(root, name)), { recursive: true });
    await writeFile(join(root, name), text);
  };
  for (const [name, text] of Object.entries(files)) await put(name, text);

  await using deps = await recordingDeps();
  const clock = new ManualClock();
  const stop = new AbortController();
  const config = v.parse(hostSchema, { id: "machine", type: "host", root, disks: ["/", "/no/such/folder"] });
  const driver = await openHost(config, { ...deps, clock }, stop.signal);
  const running = driver.run(stop.signal);
  await deps.until(9);
  const value = (name: string): unknown => deps.readings.findLast((reading) => reading.name === name)?.value;
  t.equal(value("cpu.temperature"), 48.312);
  t.equal(value("thermal.1-gpu"), -0.273);
  t.equal(value("load.1m"), 0.52);
  t.equal(value("memory.used"), 75);
  t.equal(value("uptime"), 12_345.67);
  t.type(value("disk.root.free"), "number");
  t.equal(value("cpu.busy"), undefined, "a share needs two looks");
  t.ok(deps.readings.every(({ timeMs }) => timeMs === clock.now()));

  await put("proc/stat", "cpu  150 0 0 950 0 0 0 0 0 0\n");
  await put("sys/class/thermal/thermal_zone0/temp", "50000\n");
  const before = deps.readings.length;
  for (let turns = 0; clock.sleeping === 0 && turns < 1000; turns += 1)
    await new Promise((resolve) => setTimeout(resolve, 5));
  await clock.advance(10_000);
  await deps.until(before + 10);
  t.equal(value("cpu.temperature"), 50);
  t.equal(value("cpu.busy"), 50);
  t.ok((driver.counters?.()["unreadable"] ?? 0) > 0, "the folder that is not there is counted");
  stop.abort();
  await running;
});
