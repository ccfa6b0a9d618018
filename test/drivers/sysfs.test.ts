import { mkdir, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import t from "tap";
import * as v from "valibot";
import { sysfsSchema } from "../../drivers/sysfs/config.js";
import { readHwmon, readIio, readW1 } from "../../drivers/sysfs/sensors.js";
import { openSysfs } from "../../drivers/sysfs/sysfs-driver.js";
import { driverContract } from "../contracts/driver.js";

/** A tree that looks like /sys. Files as the kernel shows them; links where it has links. */
async function tree(): Promise<string> {
  const sys = await mkdtemp(join(tmpdir(), "atedge-sys-"));
  const files: Readonly<Record<string, string>> = {
    "devices/i2c/iio:device0/name": "bme280",
    "devices/i2c/iio:device0/in_temp_input": "21530",
    "devices/i2c/iio:device0/in_humidityrelative_input": "45230",
    "devices/i2c/iio:device0/in_pressure_input": "101.325",
    "devices/i2c/iio:device1/name": "mcp3208",
    "devices/i2c/iio:device1/in_voltage0_raw": "2048",
    "devices/i2c/iio:device1/in_voltage_scale": "0.805664062",
    "devices/i2c/iio:device1/in_voltage1_raw": "broken",
    "devices/i2c/iio:device1/in_temp_raw": "100",
    "devices/i2c/iio:device1/in_temp_offset": "-50",
    "devices/i2c/iio:device1/in_temp_scale": "500",
    "devices/i2c/iio:device1/in_strange_raw": "1",
    "devices/i2c/iio:device2/name": "bme280",
    "devices/i2c/iio:device2/in_temp_input": "20000",
    "devices/hw/hwmon0/name": "cpu_thermal",
    "devices/hw/hwmon0/temp1_input": "48312",
    "devices/hw/hwmon0/temp1_label": "Package id 0",
    "devices/hw/hwmon0/in0_input": "3300",
    "devices/hw/hwmon0/fan1_input": "1200",
    "devices/hw/hwmon0/power1_input": "2500000",
    "devices/w1/28-0316a2799be7/w1_slave":
      "48 01 4b 46 7f ff 08 10 3f : crc=3f YES\n48 01 4b 46 7f ff 08 10 3f t=20500",
    "devices/w1/28-000000000001/w1_slave": "00 00 : crc=00 NO\n00 00 t=20500",
    "devices/w1/28-000000000002/w1_slave":
      "50 05 4b 46 7f ff 0c 10 1c : crc=1c YES\n50 05 4b 46 7f ff 0c 10 1c t=85000",
    "devices/w1/00-400000000000/w1_slave": "",
    "class/leds/ACT/max_brightness": "255",
    "class/leds/ACT/brightness": "0",
    "class/pwm/pwmchip0/export": "",
    "class/pwm/pwmchip0/pwm1/period": "0",
    "class/pwm/pwmchip0/pwm1/duty_cycle": "0",
    "class/pwm/pwmchip0/pwm1/enable": "0",
  };
  for (const [name, text] of Object.entries(files)) {
    await mkdir(dirname(join(sys, name)), { recursive: true });
    await writeFile(join(sys, name), `${text}\n`);
  }
  for (const [folder, bus, entries] of [
    ["bus/iio/devices", "i2c", ["iio:device0", "iio:device1", "iio:device2"]],
    ["class/hwmon", "hw", ["hwmon0"]],
    ["bus/w1/devices", "w1", ["28-0316a2799be7", "28-000000000001", "28-000000000002", "00-400000000000"]],
  ] as const) {
    await mkdir(join(sys, folder), { recursive: true });
    for (const entry of entries) await symlink(join(sys, "devices", bus, entry), join(sys, folder, entry));
  }
  return sys;
}

void t.test("sensors below /sys", async (t) => {
  const sys = await tree();
  t.teardown(() => rm(sys, { recursive: true, force: true }));
  const lines = (all: Awaited<ReturnType<typeof readIio>>): string[] =>
    all.map(({ name, value, unit }) => `${name} ${String(value)} ${unit ?? ""}`.trim());

  t.strictSame(lines(await readIio(sys, 1)), [
    "iio.bme280.humidityrelative 45.23 %RH",
    "iio.bme280.pressure 101325 Pa",
    "iio.bme280.temp 21.53 Cel",
    "iio.mcp3208.temp 25 Cel",
    "iio.mcp3208.voltage0 1.649999999 V",
    "iio.bme280-2.temp 20 Cel",
  ]);
  t.strictSame(lines(await readHwmon(sys, 1)), [
    "hwmon.cpu_thermal.fan1 1200 rpm",
    "hwmon.cpu_thermal.in0 3.3 V",
    "hwmon.cpu_thermal.power1 2.5 W",
    "hwmon.cpu_thermal.Package_id_0 48.312 Cel",
  ]);
  t.strictSame(lines(await readW1(sys, 1)), ["w1.28-0316a2799be7 20.5 Cel"], "no false CRC, no 85 °C after a reset");
  t.strictSame(await readIio("/no/such/tree", 1), []);
});

void t.test("LEDs and PWM are set and read back, and nothing else is written", async (t) => {
  const root = await tree();
  t.teardown(() => rm(root, { recursive: true, force: true }));
  const config = v.parse(sysfsSchema, {
    id: "board",
    type: "sysfs",
    root,
    leds: ["ACT", "missing"],
    pwm: [{ name: "fan", chip: 0, channel: 1, periodNs: 40_000 }],
  });
  const never = new AbortController().signal;
  const driver = await openSysfs(config, {} as Parameters<typeof openSysfs>[1], never);
  t.strictSame(await driver.call("led", { output: "ACT", brightness: 1 }, never), { brightness: 1 });
  t.strictSame(await driver.call("pwm", { output: "fan", duty: 0.25 }, never), { duty: 0.25 });
  t.match(await readFile(join(root, "class/pwm/pwmchip0/pwm1/duty_cycle"), "utf8"), /^10000/u);
  t.match(await readFile(join(root, "class/pwm/pwmchip0/pwm1/enable"), "utf8"), /^1/u);
  for (const output of ["../leds/ACT", "other", "missing"]) {
    await t.rejects(driver.call("led", { output, brightness: 1 }, never), { code: "COMMAND_REFUSED" });
  }
  t.equal(v.safeParse(sysfsSchema, { id: "x", type: "sysfs", leds: ["../x"] }).success, false);
});

void driverContract(t, "sysfs", async () => {
  const root = await tree();
  const config = v.parse(sysfsSchema, { id: "board", type: "sysfs", root, intervalMs: 20, leds: ["ACT"] });
  return {
    open: (deps, signal) => openSysfs(config, deps, signal),
    stimulate: async () => undefined,
    command: { name: "led", args: { output: "ACT", brightness: 0 }, result: { brightness: 0 } },
    [Symbol.asyncDispose]: () => rm(root, { recursive: true, force: true }),
  };
});
