import { parseTemplate } from "../../template.js";
import type { Preset } from "../message-source.js";
import { parseTopicFilter } from "../topic-filter.js";
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
 * reading `DEVICE.KEY`; `PREFIX/DEVICE/availability` becomes `DEVICE.online`. The command `set` publishes to
 * `PREFIX/DEVICE/set` and answers with the next state, `get` asks for it.
 */
export function zigbee2mqtt(prefix: string): Preset {
  const filter = parseTopicFilter(`${prefix}/#`);
  const below = `${prefix}/`;
  return {
    sources: [
      {
        filter,
        qos: 1,
        readings({ topic }, payload, timeMs) {
          if (!topic.startsWith(below)) return [];
          const device = topic.slice(below.length);
          if (device === "bridge" || device.startsWith("bridge/") || /\/(?:set|get)(?:\/|$)/u.test(device)) return [];
          const available = /^(?<name>.+)\/availability$/u.exec(device)?.groups?.["name"];
          if (available !== undefined) return quantityReading(`${available}.online`, isOnline(payload), timeMs);
          if (typeof payload !== "object" || payload === null) return [];
          return Object.entries(payload).flatMap(([key, value]) =>
            quantityReading(`${device}.${key}`, value, timeMs, quantityOf(key, payload)),
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
