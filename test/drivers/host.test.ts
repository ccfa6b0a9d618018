import { chmod, mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import fc from "fast-check";
import t from "tap";
import * as v from "valibot";
import { hostSchema } from "../../drivers/host/config.js";
import {
  parseLifeTime,
  parsePreEol,
  parseReadOnly,
  parseThrottled,
  parseWrittenBytes,
} from "../../drivers/host/board.js";
import { parseFailedUnits } from "../../drivers/host/failed-units.js";
import { openHost } from "../../drivers/host/host-driver.js";
import {
  cpuBusyShare,
  parseCpuTimes,
  parseLoad,
  parseMemory,
  parseNetwork,
  parseUptime,
} from "../../drivers/host/proc.js";
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

  const dev = `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo: 100 1 0 0 0 0 0 0 100 1 0 0 0 0 0 0
  eth0:123456789 1000 2 0 0 0 0 0 987654321 900 3 0 0 0 0 0
`;
  t.strictSame(
    [...parseNetwork(dev)],
    [
      ["lo", { receivedBytes: 100, sentBytes: 100, errors: 0 }],
      ["eth0", { receivedBytes: 123_456_789, sentBytes: 987_654_321, errors: 5 }],
    ],
  );

  await t.test("gives nothing when it looks otherwise", async () => {
    fc.assert(
      fc.property(fc.string({ unit: "binary" }), (text) =>
        [parseCpuTimes, parseLoad, parseMemory, parseUptime].every((parse) => parse(`x${text}`) === undefined),
      ),
    );
  });
});

void t.test("the health of disks, cards and boards", async (t) => {
  t.equal(parseLifeTime("0x02 0x03\n"), 30, "the worse of the two kinds of cells");
  t.equal(parseLifeTime("0x0b 0x01"), 110, "past the end");
  for (const text of ["", "0x00 0x00", "0x0c 0x01", "1 2", "0x01"]) t.equal(parseLifeTime(text), undefined, text);
  t.strictSame(["0x01", "0x03\n", "0x00", "0x04", ""].map(parsePreEol), [1, 3, undefined, undefined, undefined]);
  t.equal(parseWrittenBytes("  100 2 300 4 500 6 700 8 9 10 11 0 0 0 0\n"), 700 * 512);
  t.equal(parseWrittenBytes("1 2 3"), undefined);
  const mounts = "/dev/mmcblk0p2 / ext4 rw,noatime 0 0\n/dev/sda1 /my\\040data ext4 ro,errors=remount-ro 0 0\n";
  t.strictSame(
    [parseReadOnly(mounts, "/"), parseReadOnly(mounts, "/my data"), parseReadOnly(mounts, "/x")],
    [false, true, undefined],
  );
  const throttled = parseThrottled("50005\n").filter(({ value }) => value);
  t.strictSame(
    throttled.map(({ name }) => name),
    ["undervoltage", "undervoltageSinceBoot", "throttled", "throttledSinceBoot"],
  );
  t.strictSame(parseThrottled("VCHI failed"), []);
  const failed = "● nginx.service loaded failed failed A web server\nsome-mount.mount loaded failed failed /mnt\n";
  t.strictSame(parseFailedUnits(failed.replace("● ", "")), ["nginx.service", "some-mount.mount"]);
  t.strictSame(parseFailedUnits(""), []);
  const all = [parseLifeTime, parsePreEol, parseWrittenBytes, parseThrottled, parseFailedUnits, parseNetwork];
  fc.assert(fc.property(fc.string({ unit: "binary" }), (text) => (all.forEach((parse) => parse(text)), true)));
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
    "proc/mounts": "/dev/mmcblk0p2 / ext4 ro,noatime 0 0\n",
    "proc/net/dev": "lo: 1 0 0 0 0 0 0 0 1 0 0 0 0 0 0 0\neth0: 500 0 0 0 0 0 0 0 600 0 7 0 0 0 0 0\n",
    "sys/class/net/eth0/device/vendor": "x",
    "sys/class/net/lo/mtu": "x",
    "sys/block/mmcblk0/stat": "1 2 3 4 5 6 8 8 9 10 11\n",
    "sys/block/mmcblk0/device/life_time": "0x01 0x02\n",
    "sys/block/mmcblk0/device/pre_eol_info": "0x01\n",
    "sys/block/loop0/stat": "1 2 3 4 5 6 8 8 9 10 11\n",
    "sys/fs/ext4/features/lazy": "x",
    "sys/fs/ext4/mmcblk0p2/errors_count": "3\n",
    "sys/devices/platform/soc/soc:firmware/get_throttled": "50001\n",
    "run/systemd/system/x": "",
  };
  const put = async (name: string, text: string): Promise<void> => {
    await mkdir(dirname(join(root, name)), { recursive: true });
    await writeFile(join(root, name), text);
  };
  for (const [name, text] of Object.entries(files)) await put(name, text);
  await put(
    "usr/bin/systemctl",
    '#!/bin/sh\n[ "$2" = --state=failed ] && echo "nginx.service loaded failed failed A web server"\n',
  );
  await chmod(join(root, "usr/bin/systemctl"), 0o755);

  await using deps = await recordingDeps();
  const clock = new ManualClock();
  const stop = new AbortController();
  const config = v.parse(hostSchema, { id: "machine", type: "host", root, disks: ["/", "/no/such/folder"] });
  const driver = await openHost(config, { ...deps, clock }, stop.signal);
  const running = driver.run(stop.signal);
  await deps.until(26);
  const value = (name: string): unknown => deps.readings.findLast((reading) => reading.name === name)?.value;
  t.equal(value("cpu.temperature"), 48.312);
  t.equal(value("thermal.1-gpu"), -0.273);
  t.equal(value("load.1m"), 0.52);
  t.equal(value("memory.used"), 75);
  t.equal(value("uptime"), 12_345.67);
  t.type(value("disk.root.free"), "number");
  t.strictSame(
    Object.fromEntries(
      deps.readings
        .filter(({ name }) => /^(?:net|pi|systemd|disk\.mmc|disk\..*Only)/u.test(name))
        .map((r) => [r.name, r.value]),
    ),
    {
      "disk.root.readOnly": true,
      "disk.mmcblk0.written": 4096,
      "disk.mmcblk0.worn": 20,
      "disk.mmcblk0.preEol": 1,
      "disk.mmcblk0p2.errors": 3,
      "net.eth0.received": 500,
      "net.eth0.sent": 600,
      "net.eth0.errors": 7,
      "pi.undervoltage": true,
      "pi.undervoltageSinceBoot": true,
      "pi.frequencyCapped": false,
      "pi.frequencyCappedSinceBoot": false,
      "pi.throttled": false,
      "pi.throttledSinceBoot": true,
      "pi.temperatureLimit": false,
      "pi.temperatureLimitSinceBoot": false,
      "systemd.failed": 1,
      "systemd.failedUnits": "nginx.service",
    },
  );
  t.equal(value("cpu.busy"), undefined, "a share needs two looks");
  t.ok(deps.readings.every(({ timeMs }) => timeMs === clock.now()));

  await put("proc/stat", "cpu  150 0 0 950 0 0 0 0 0 0\n");
  await put("sys/class/thermal/thermal_zone0/temp", "50000\n");
  const before = deps.readings.length;
  for (let turns = 0; clock.sleeping === 0 && turns < 1000; turns += 1)
    await new Promise((resolve) => setTimeout(resolve, 5));
  await clock.advance(10_000);
  await deps.until(before + 25);
  t.equal(value("cpu.temperature"), 50);
  t.equal(value("cpu.busy"), 50);
  t.ok((driver.counters?.()["unreadable"] ?? 0) > 0, "the folder that is not there is counted");
  stop.abort();
  await running;
});
