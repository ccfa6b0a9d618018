import type { Reading } from "../../../core/driver.js";
import { parseTemplate } from "../../template.js";
import type { Preset } from "../message-source.js";
import { captures, parseTopicFilter } from "../topic-filter.js";
import { memberOf } from "./member-of.js";
import { presetCommand } from "./preset-command.js";
import { quantityOfUnit, quantityReading, type Quantity } from "./quantity.js";

/** Numbers of a component's status (Shelly Gen2+ API, component documentation), by their path in it. */
const STATUS: Readonly<Record<string, Quantity | undefined>> = {
  apower: { unit: "W" },
  act_power: { unit: "W" },
  aprt_power: { unit: "VA" },
  voltage: { unit: "V" },
  current: { unit: "A" },
  freq: { unit: "Hz" },
  pf: undefined,
  "aenergy.total": quantityOfUnit("Wh"),
  "temperature.tC": { unit: "Cel" },
  tC: { unit: "Cel" },
  rh: { unit: "%RH" },
  lux: { unit: "lx" },
  "battery.percent": { unit: "%EL" },
  "battery.V": { unit: "V" },
  brightness: { unit: "%" },
  current_pos: { unit: "%" },
  output: undefined,
  state: undefined,
};

/**
 * Shelly, second generation and later: `DEVICE/events/rpc` tells what has changed ("RPC status notifications over
 * MQTT"), `DEVICE/status/COMPONENT` a component's whole status ("Generic status update over MQTT"); either will do, and
 * where both are on a change comes twice. `DEVICE/online` tells whether the device is there. Commands need "MQTT control". Readings are `DEVICE.COMPONENT.KEY` and
 * `DEVICE.online`. The command `switch` sends on or off to `DEVICE/command/switch:N`, `status` asks; both answer with
 * the status.
 */
export function shelly(): Preset {
  const status = parseTopicFilter("+/status/+");
  const notifications = parseTopicFilter("+/events/rpc");
  const presence = parseTopicFilter("+/online");
  return {
    sources: [
      {
        filter: status,
        qos: 1,
        readings({ topic }, payload, timeMs) {
          const [device, component] = captures(status, topic) ?? [];
          if (device === undefined || component === undefined) return [];
          return statusReadings(`${device}.${component.replace(":", "-")}`, payload, timeMs);
        },
      },
      {
        filter: notifications,
        qos: 1,
        readings({ topic }, payload, timeMs) {
          const [device] = captures(notifications, topic) ?? [];
          const params = memberOf(payload, "params");
          if (device === undefined || memberOf(payload, "method") !== "NotifyStatus") return [];
          if (typeof params !== "object" || params === null) return [];
          return Object.entries(params).flatMap(([component, status]) =>
            statusReadings(`${device}.${component.replace(":", "-")}`, status, timeMs),
          );
        },
      },
      {
        filter: presence,
        qos: 1,
        readings({ topic }, payload, timeMs) {
          const [device] = captures(presence, topic) ?? [];
          if (device === undefined || typeof payload !== "boolean") return [];
          return quantityReading(`${device}.online`, payload, timeMs);
        },
      },
    ],
    commands: ["on", "off", "toggle"]
      .map((word) =>
        presetCommand({
          name: `switch-${word}`,
          topic: "{device}/command/switch:{switch}",
          payload: parseTemplate(word),
          args: { device: "string", switch: "number" },
          idempotent: word !== "toggle",
          readBack: "switch-status",
          answerTopic: "{device}/status/switch:{switch}",
        }),
      )
      .concat(
        presetCommand({
          name: "switch-status",
          topic: "{device}/command/switch:{switch}",
          payload: parseTemplate("status_update"),
          args: { device: "string", switch: "number" },
          idempotent: true,
          answerTopic: "{device}/status/switch:{switch}",
        }),
      ),
  };
}

function statusReadings(name: string, payload: unknown, timeMs: number): Reading[] {
  return Object.entries(STATUS).flatMap(([path, quantity]) => {
    const value = path.split(".").reduce<unknown>((at, key) => memberOf(at, key), payload);
    return quantityReading(`${name}.${path}`, value, timeMs, quantity);
  });
}
