import { parseTemplate } from "../../template.js";
import type { Preset } from "../message-source.js";
import { parseTopicFilter } from "../topic-filter.js";
import { memberOf } from "./member-of.js";
import { presetCommand } from "./preset-command.js";
import { quantityOfUnit, quantityReading, type Quantity } from "./quantity.js";

/** Units of the keys that Zigbee2MQTT publishes, from its "Exposes" documentation. */
const KEYS: Readonly<Record<string, string>> = {
  temperature: "°C",
  local_temperature: "°C",
  device_temperature: "°C",
  occupied_heating_setpoint: "°C",
  current_heating_setpoint: "°C",
  soil_moisture: "%",
  pressure: "hPa",
  power: "W",
  current: "A",
  energy: "kWh",
  illuminance: "lx",
  illuminance_lux: "lx",
  co2: "ppm",
  position: "%",
};

/**
 * Zigbee2MQTT: `PREFIX/DEVICE` carries a device's state as JSON. Each number, truth value and text of it becomes the
 * reading `DEVICE.KEY`, in the unit that `PREFIX/bridge/devices` tells of it, or else the usual one; `PREFIX/DEVICE/availability` becomes `DEVICE.online`. The command `set` publishes to
 * `PREFIX/DEVICE/set` and answers with the next state, `get` asks for it.
 */
export function zigbee2mqtt(prefix: string): Preset {
  const filter = parseTopicFilter(`${prefix}/#`);
  const below = `${prefix}/`;
  let units: Units = new Map();
  return {
    sources: [
      {
        filter,
        qos: 1,
        readings({ topic }, payload, timeMs) {
          if (!topic.startsWith(below)) return [];
          const device = topic.slice(below.length);
          if (device === "bridge/devices") units = unitsOf(payload);
          if (device === "bridge" || device.startsWith("bridge/") || /\/(?:set|get)(?:\/|$)/u.test(device)) return [];
          const available = /^(?<name>.+)\/availability$/u.exec(device)?.groups?.["name"];
          if (available !== undefined) return quantityReading(`${available}.online`, isOnline(payload), timeMs);
          if (typeof payload !== "object" || payload === null) return [];
          return Object.entries(payload).flatMap(([key, value]) =>
            quantityReading(
              `${device}.${key}`,
              value,
              timeMs,
              units.get(`${device}/${key}`) ?? quantityOf(key, payload),
            ),
          );
        },
      },
    ],
    commands: [
      presetCommand({
        name: "set",
        topic: `${prefix}/{device}/set`,
        payload: parseTemplate('{"state":"{state}"}'),
        args: { device: "string", state: "string" },
        idempotent: true,
        readBack: "get",
        answerTopic: `${prefix}/{device}`,
      }),
      presetCommand({
        name: "set-value",
        topic: `${prefix}/{device}/set/{key}`,
        payload: parseTemplate("{value}"),
        args: { device: "string", key: "string", value: "number" },
        idempotent: true,
        readBack: "get",
        answerTopic: `${prefix}/{device}`,
      }),
      presetCommand({
        name: "get",
        topic: `${prefix}/{device}/get`,
        payload: parseTemplate('{"state":""}'),
        args: { device: "string" },
        idempotent: true,
        answerTopic: `${prefix}/{device}`,
      }),
    ],
  };
}

/** By `DEVICE/PROPERTY`. */
type Units = ReadonlyMap<string, Quantity>;
const MAX_UNITS = 10_000;

/** What the bridge says of its devices (Zigbee2MQTT, "zigbee2mqtt/bridge/devices" and "Exposes"). */
function unitsOf(payload: unknown): Units {
  const units = new Map<string, Quantity>();
  if (!Array.isArray(payload)) return units;
  for (const device of payload) {
    const name = memberOf(device, "friendly_name");
    if (typeof name !== "string") continue;
    for (const { property, unit } of exposedUnits(memberOf(memberOf(device, "definition"), "exposes"), 0)) {
      const quantity = unit === "%" ? quantityOf(property, {}) : quantityOfUnit(unit);
      if (quantity && units.size < MAX_UNITS) units.set(`${name}/${property}`, quantity);
    }
  }
  return units;
}

/** A light, a climate device and the like have their properties among `features`. */
function exposedUnits(exposes: unknown, depth: number): { readonly property: string; readonly unit: string }[] {
  if (!Array.isArray(exposes) || depth > 3) return [];
  return exposes.flatMap((expose) => {
    const property = memberOf(expose, "property");
    const unit = memberOf(expose, "unit");
    const own = typeof property === "string" && typeof unit === "string" ? [{ property, unit }] : [];
    return [...own, ...exposedUnits(memberOf(expose, "features"), depth + 1)];
  });
}

/** A battery tells its voltage in mV, a plug in V; only the battery has a `battery` beside it. */
function quantityOf(key: string, state: object): Quantity | undefined {
  if (key === "humidity") return { unit: "%RH" };
  if (key === "battery") return { unit: "%EL" };
  if (key === "voltage") return quantityOfUnit("battery" in state ? "mV" : "V");
  const unit = Object.hasOwn(KEYS, key) ? KEYS[key] : undefined;
  return unit === undefined ? undefined : quantityOfUnit(unit);
}

/** `online` as text in old versions, `{"state":"online"}` since 2.0. */
function isOnline(payload: unknown): boolean | undefined {
  const state = typeof payload === "object" && payload !== null && "state" in payload ? payload.state : payload;
  return state === "online" ? true : state === "offline" ? false : undefined;
}
