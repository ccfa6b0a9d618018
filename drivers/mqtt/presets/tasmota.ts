import type { Reading } from "../../../core/driver.js";
import { parseTemplate } from "../../template.js";
import type { Preset } from "../message-source.js";
import { captures, parseTopicFilter } from "../topic-filter.js";
import { presetCommand } from "./preset-command.js";
import { quantityOfUnit, quantityReading, type Quantity } from "./quantity.js";

const MAX_DEPTH = 4;

/** Units of the keys in SENSOR messages, from Tasmota's documentation; temperature and pressure name theirs beside them. */
const KEYS: Readonly<Record<string, string>> = {
  Power: "W",
  ApparentPower: "VA",
  ReactivePower: "var",
  Voltage: "V",
  Current: "A",
  Frequency: "Hz",
  Total: "kWh",
  Today: "kWh",
  Yesterday: "kWh",
  Illuminance: "lx",
  Distance: "cm",
  CarbonDioxide: "ppm",
};

/**
 * Tasmota: `tele/DEVICE/SENSOR` and `tele/DEVICE/STATE` carry nested JSON, `stat/DEVICE/POWER` a relay, `tele/DEVICE/LWT`
 * whether the device is there. Readings are `DEVICE.SENSOR.KEY`, `DEVICE.POWER` (true or false) and `DEVICE.online`.
 * The command `power` switches, `state` asks; relays of devices with several are POWER1, POWER2 …
 */
export function tasmota(): Preset {
  const sensor = parseTopicFilter("tele/+/SENSOR");
  const state = parseTopicFilter("tele/+/STATE");
  const presence = parseTopicFilter("tele/+/LWT");
  const power = parseTopicFilter("stat/+/+");
  return {
    sources: [
      {
        filter: sensor,
        qos: 1,
        readings({ topic }, payload, timeMs) {
          const [device] = captures(sensor, topic) ?? [];
          return device === undefined ? [] : nested(device, payload, timeMs, unitsOf(payload), 0);
        },
      },
      {
        filter: state,
        qos: 1,
        readings({ topic }, payload, timeMs) {
          const [device] = captures(state, topic) ?? [];
          if (device === undefined || typeof payload !== "object" || payload === null) return [];
          const relays = Object.entries(payload).flatMap(([key, value]) => relay(device, key, value, timeMs));
          const uptime = "UptimeSec" in payload ? payload.UptimeSec : undefined;
          return [...relays, ...quantityReading(`${device}.uptime`, uptime, timeMs, { unit: "s" })];
        },
      },
      {
        filter: presence,
        qos: 1,
        readings({ topic }, payload, timeMs) {
          const [device] = captures(presence, topic) ?? [];
          if (device === undefined || (payload !== "Online" && payload !== "Offline")) return [];
          return quantityReading(`${device}.online`, payload === "Online", timeMs);
        },
      },
      {
        filter: power,
        qos: 1,
        readings({ topic }, payload, timeMs) {
          const [device, key] = captures(power, topic) ?? [];
          return device === undefined || key === undefined ? [] : relay(device, key, payload, timeMs);
        },
      },
    ],
    commands: [
      presetCommand({
        name: "power",
        topic: "cmnd/{device}/{relay}",
        payload: parseTemplate("{on}"),
        args: { device: "string", relay: "string", on: "boolean" },
        idempotent: true,
        readBack: "state",
        answerTopic: "stat/{device}/RESULT",
      }),
      presetCommand({
        name: "state",
        topic: "cmnd/{device}/{relay}",
        payload: parseTemplate("?"),
        args: { device: "string", relay: "string" },
        idempotent: true,
        answerTopic: "stat/{device}/RESULT",
      }),
    ],
  };
}

function relay(device: string, key: string, value: unknown, timeMs: number): Reading[] {
  if (!/^POWER\d{0,2}$/u.test(key) || (value !== "ON" && value !== "OFF")) return [];
  return quantityReading(`${device}.${key}`, value === "ON", timeMs);
}

interface Units {
  readonly temperature: Quantity | undefined;
  readonly pressure: Quantity | undefined;
}

/** `TempUnit` is C or F, `PressureUnit` hPa, mmHg or inHg, for the whole message. */
function unitsOf(payload: unknown): Units {
  const text = (key: string): string => {
    const value: unknown = typeof payload === "object" && payload !== null ? Reflect.get(payload, key) : undefined;
    return typeof value === "string" ? value : "";
  };
  return {
    temperature: quantityOfUnit(text("TempUnit") || "C"),
    pressure: quantityOfUnit(text("PressureUnit") || "hPa"),
  };
}

function nested(path: string, value: unknown, timeMs: number, units: Units, depth: number): Reading[] {
  if (typeof value !== "object" || value === null || Array.isArray(value) || depth > MAX_DEPTH) return [];
  return Object.entries(value).flatMap(([key, inner]): Reading[] => {
    const name = `${path}.${key}`;
    if (typeof inner === "object") return nested(name, inner, timeMs, units, depth + 1);
    if (inner === "ON" || inner === "OFF") return quantityReading(name, inner === "ON", timeMs); // A switch or button.
    if (typeof inner === "string" || key === "Epoch") return []; // Times, units, identifiers.
    return quantityReading(name, inner, timeMs, quantityOf(key, units));
  });
}

function quantityOf(key: string, units: Units): Quantity | undefined {
  if (key === "Temperature" || key === "DewPoint") return units.temperature;
  if (key === "Pressure" || key === "SeaPressure") return units.pressure;
  if (key === "Humidity") return { unit: "%RH" };
  const unit = Object.hasOwn(KEYS, key) ? KEYS[key] : undefined;
  return unit === undefined ? undefined : quantityOfUnit(unit);
}
