import { readdir, readFile, realpath } from "node:fs/promises";
import { join } from "node:path";
import type { Reading } from "../../core/driver.js";
import { namePart } from "../field-readings.js";

/** A channel's unit, and what one step of its file is worth. */
interface Quantity {
  readonly unit?: string;
  readonly scale: number;
}

/** Kernel documentation, ABI/testing/sysfs-bus-iio: processed values and `(raw + offset) * scale` have these units. */
const IIO: Readonly<Record<string, Quantity>> = {
  temp: { unit: "Cel", scale: 0.001 },
  humidityrelative: { unit: "%RH", scale: 0.001 },
  pressure: { unit: "Pa", scale: 1000 },
  illuminance: { unit: "lx", scale: 1 },
  voltage: { unit: "V", scale: 0.001 },
  current: { unit: "A", scale: 0.001 },
  power: { unit: "W", scale: 0.001 },
  accel: { unit: "m/s2", scale: 1 },
  anglvel: { unit: "rad/s", scale: 1 },
  distance: { unit: "m", scale: 1 },
  proximity: { scale: 1 },
  concentration: { unit: "%", scale: 1 },
};

/** Kernel documentation, hwmon/sysfs-interface. */
const HWMON: Readonly<Record<string, Quantity>> = {
  temp: { unit: "Cel", scale: 0.001 },
  in: { unit: "V", scale: 0.001 },
  curr: { unit: "A", scale: 0.001 },
  power: { unit: "W", scale: 0.000_001 },
  energy: { unit: "J", scale: 0.000_001 },
  humidity: { unit: "%RH", scale: 0.001 },
  fan: { unit: "rpm", scale: 1 },
};

const NUMBER = /^-?\d{1,15}(?:\.\d{1,15})?$/u;

/** Readings `iio.DEVICE.CHANNEL` of all Industrial I/O devices. */
export async function readIio(sys: string, timeMs: number): Promise<Reading[]> {
  return eachDevice(join(sys, "bus", "iio", "devices"), /^iio:device\d+$/u, "iio", async (folder, device) => {
    const files = await names(folder);
    const readings: Reading[] = [];
    for (const file of files) {
      const { channel, kind, form } =
        /^in_(?<channel>(?<kind>[a-z]+)\w*?)_(?<form>input|raw)$/u.exec(file)?.groups ?? {};
      const quantity = kind === undefined || !Object.hasOwn(IIO, kind) ? undefined : IIO[kind];
      if (channel === undefined || kind === undefined || !quantity) continue;
      if (form === "raw" && files.includes(`in_${channel}_input`)) continue;
      const value = await number(join(folder, file));
      if (value === undefined) continue;
      const processed = form === "input" ? value : await scaled(folder, files, channel, kind, value);
      readings.push(reading(`${device}.${channel}`, processed, quantity, timeMs));
    }
    return readings;
  });
}

/** Readings `hwmon.DEVICE.LABEL` of all hardware monitors. */
export async function readHwmon(sys: string, timeMs: number): Promise<Reading[]> {
  return eachDevice(join(sys, "class", "hwmon"), /^hwmon\d+$/u, "hwmon", async (folder, device) => {
    const readings: Reading[] = [];
    for (const file of await names(folder)) {
      const { channel, kind } =
        /^(?<channel>(?<kind>temp|in|curr|power|energy|humidity|fan)\d+)_input$/u.exec(file)?.groups ?? {};
      const quantity = kind === undefined ? undefined : HWMON[kind];
      if (channel === undefined || !quantity) continue;
      const value = await number(join(folder, file));
      if (value === undefined) continue;
      const label = await text(join(folder, `${channel}_label`));
      readings.push(reading(`${device}.${namePart(label ?? channel)}`, value, quantity, timeMs));
    }
    return readings;
  });
}

/**
 * Readings `w1.SERIAL` of all 1-Wire thermometers (families 10, 22, 28, 3b, 42). 85 °C is what a DS18B20 says after a
 * reset without having measured (data sheet, table 1); a false CRC says `NO`. Neither is a reading.
 */
export async function readW1(sys: string, timeMs: number): Promise<Reading[]> {
  const folder = join(sys, "bus", "w1", "devices");
  const readings: Reading[] = [];
  for (const device of await names(folder)) {
    if (!/^(?:10|22|28|3b|42)-[0-9a-f]{12}$/u.test(device)) continue;
    const slave = (await text(join(folder, device, "w1_slave"))) ?? "";
    const milli = /crc=[0-9a-f]{2} YES\n[^\n]*t=(?<milli>-?\d{1,6})$/u.exec(slave)?.groups?.["milli"];
    if (milli === undefined || milli === "85000") continue;
    readings.push(reading(`w1.${device}`, Number(milli), { unit: "Cel", scale: 0.001 }, timeMs));
  }
  return readings;
}

async function eachDevice(
  folder: string,
  pattern: RegExp,
  prefix: string,
  read: (folder: string, device: string) => Promise<Reading[]>,
): Promise<Reading[]> {
  const readings: Reading[] = [];
  const seen = new Map<string, number>();
  for (const entry of (await names(folder)).filter((name) => pattern.test(name))) {
    const device = await realpath(join(folder, entry)).catch(() => join(folder, entry));
    const name = namePart((await text(join(device, "name"))) ?? entry);
    // A second one of a name gets its number: bme280, bme280-2.
    const count = (seen.get(name) ?? 0) + 1;
    seen.set(name, count);
    readings.push(...(await read(device, `${prefix}.${count === 1 ? name : `${name}-${count}`}`)));
  }
  return readings;
}

/** `(raw + offset) * scale`, each for the channel or for all of its kind. */
async function scaled(
  folder: string,
  files: readonly string[],
  channel: string,
  kind: string,
  raw: number,
): Promise<number> {
  const shared = async (what: string): Promise<number | undefined> => {
    const file = [`in_${channel}_${what}`, `in_${kind}_${what}`].find((name) => files.includes(name));
    return file === undefined ? undefined : number(join(folder, file));
  };
  return (raw + ((await shared("offset")) ?? 0)) * ((await shared("scale")) ?? 1);
}

function reading(name: string, value: number, { unit, scale }: Quantity, timeMs: number): Reading {
  return { name, value: Number((value * scale).toPrecision(10)), timeMs, ...(unit === undefined ? {} : { unit }) };
}

async function names(folder: string): Promise<string[]> {
  return (await readdir(folder).catch(() => [])).sort();
}

async function number(file: string): Promise<number | undefined> {
  const read = await text(file);
  return read !== undefined && NUMBER.test(read) ? Number(read) : undefined;
}

/** A sensor may answer EIO or EAGAIN at any time: then there is no reading this time. */
async function text(file: string): Promise<string | undefined> {
  try {
    return (await readFile(file, "utf8")).trim() || undefined;
  } catch {
    return undefined;
  }
}
