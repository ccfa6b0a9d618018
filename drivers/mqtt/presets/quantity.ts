import type { Reading } from "../../../core/driver.js";
import { namePart, readingValue } from "../../field-readings.js";

/** How a number is brought to a unit of SenML's: multiplied, then added to. */
export interface Quantity {
  readonly unit: string;
  readonly scale?: number;
  readonly offset?: number;
}

const CELSIUS: Quantity = { unit: "Cel" };
const FAHRENHEIT: Quantity = { unit: "Cel", scale: 5 / 9, offset: -160 / 9 };
const KILOWATT_HOURS: Quantity = { unit: "J", scale: 3_600_000 };

/**
 * Units as people write them, in SenML's (RFC 8428, 12.1). Secondary units (RFC 8798) become primary ones; `ppm` has
 * none that anybody would read.
 */
const UNITS: Readonly<Record<string, Quantity>> = {
  "°C": CELSIUS,
  C: CELSIUS,
  "°F": FAHRENHEIT,
  F: FAHRENHEIT,
  K: { unit: "K" },
  "%": { unit: "%" },
  W: { unit: "W" },
  kW: { unit: "W", scale: 1000 },
  VA: { unit: "VA" },
  var: { unit: "var" },
  Wh: { unit: "J", scale: 3600 },
  kWh: KILOWATT_HOURS,
  V: { unit: "V" },
  mV: { unit: "V", scale: 0.001 },
  A: { unit: "A" },
  mA: { unit: "A", scale: 0.001 },
  Hz: { unit: "Hz" },
  Pa: { unit: "Pa" },
  hPa: { unit: "Pa", scale: 100 },
  mbar: { unit: "Pa", scale: 100 },
  kPa: { unit: "Pa", scale: 1000 },
  bar: { unit: "Pa", scale: 100_000 },
  lx: { unit: "lx" },
  lm: { unit: "lm" },
  s: { unit: "s" },
  min: { unit: "s", scale: 60 },
  h: { unit: "s", scale: 3600 },
  m: { unit: "m" },
  cm: { unit: "m", scale: 0.01 },
  mm: { unit: "m", scale: 0.001 },
  km: { unit: "m", scale: 1000 },
  "m/s": { unit: "m/s" },
  "km/h": { unit: "m/s", scale: 1 / 3.6 },
  "m³": { unit: "m3" },
  L: { unit: "l" },
  g: { unit: "g" },
  kg: { unit: "kg" },
  dB: { unit: "dB" },
  ppm: { unit: "ppm" },
};

/** By a unit as people write it; `undefined` for one that is not known, whose number then goes without. */
export function quantityOfUnit(unit: string): Quantity | undefined {
  return Object.hasOwn(UNITS, unit) ? UNITS[unit] : undefined;
}

/** A reading of a value from outside, or none. */
export function quantityReading(name: string, value: unknown, timeMs: number, quantity?: Quantity): Reading[] {
  const read = readingValue(value, quantity?.scale, quantity?.offset);
  if (read === undefined) return [];
  const unit = quantity && typeof read === "number" ? { unit: quantity.unit } : {};
  return [{ name: name.split(".").map(namePart).join(".").slice(0, 100), value: read, timeMs, ...unit }];
}
