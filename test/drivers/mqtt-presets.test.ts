import { readdir, readFile } from "node:fs/promises";
import fc from "fast-check";
import t from "tap";
import * as v from "valibot";
import type { Reading } from "../../core/driver.js";
import { mqttSchema } from "../../drivers/mqtt/config.js";
import type { Preset } from "../../drivers/mqtt/message-source.js";
import { openMqtt } from "../../drivers/mqtt/mqtt-driver.js";
import { planOf } from "../../drivers/mqtt/plan.js";
import { homeAssistant } from "../../drivers/mqtt/presets/home-assistant.js";
import { shelly } from "../../drivers/mqtt/presets/shelly.js";
import { tasmota } from "../../drivers/mqtt/presets/tasmota.js";
import { zigbee2mqtt } from "../../drivers/mqtt/presets/zigbee2mqtt.js";
import { driverContract, eventually, recordingDeps } from "../contracts/driver.js";
import { openAedes } from "../fixtures/mqtt-brokers.js";

function readings(preset: Preset, topic: string, payload: unknown): Reading[] {
  const message = { topic, payload: Buffer.alloc(0), retained: false, omittedBytes: 0 };
  return preset.sources.flatMap((source) => source.readings(message, payload, 1));
}

/** `name value unit` of each, in order. */
const lines = (all: readonly Reading[]): string[] =>
  all.map(({ name, value, unit }) =>
    [name, typeof value === "number" ? Number(value.toFixed(6)) : value, unit]
      .filter((part) => part !== undefined)
      .join(" "),
  );

function prepared(preset: Preset, name: string, args: Record<string, unknown>): unknown {
  const { topic, payload, answerTopic } = preset.commands.find((command) => command.name === name)?.prepare(args) ?? {};
  return { topic, payload, answerTopic };
}

interface Vectors {
  readonly preset: { readonly kind: string };
  readonly exchanges: readonly {
    readonly source: string;
    readonly messages: readonly {
      readonly topic: string;
      readonly payload: unknown;
      readonly readings: readonly string[];
    }[];
  }[];
}

void t.test("payloads from the documentation of each project give the readings beside them", async (t) => {
  const folder = new URL("../vectors/presets/", import.meta.url);
  const files = (await readdir(folder)).filter((name) => name.endsWith(".json"));
  t.equal(files.length, 4);
  for (const file of files) {
    const { preset, exchanges } = JSON.parse(await readFile(new URL(file, folder), "utf8")) as Vectors;
    const config = v.parse(mqttSchema, { id: "a", type: "mqtt", url: "mqtt://localhost", preset: [preset] });
    for (const { source, messages } of exchanges) {
      const plan = planOf(config, () => undefined);
      for (const { topic, payload, readings: expected } of messages) {
        // As the driver reads it: an empty message is none at all.
        const read = payload === "" ? undefined : payload;
        t.strictSame(lines(readings(plan, topic, read)), expected, `${topic} of ${source}`);
      }
    }
  }
});

// Payloads: https://www.zigbee2mqtt.io/guide/usage/mqtt_topics_and_messages.html
void t.test("Zigbee2MQTT", async (t) => {
  const preset = zigbee2mqtt("zigbee2mqtt");
  const read = (device: string, payload: unknown): string[] =>
    lines(readings(preset, `zigbee2mqtt/${device}`, payload));
  t.strictSame(read("hall", { temperature: 27.34, humidity: 44.72 }), [
    "hall.temperature 27.34 Cel",
    "hall.humidity 44.72 %RH",
  ]);
  t.strictSame(read("button", { action: "single" }), ["button.action single"]);
  t.strictSame(read("kitchen/motion", { occupancy: true }), ["kitchen/motion.occupancy true"]);
  t.strictSame(read("bulb", { state: "ON", brightness: 215, color_temp: 325 }), [
    "bulb.state ON",
    "bulb.brightness 215",
    "bulb.color_temp 325",
  ]);
  t.strictSame(read("meter", { power: 12, voltage: 230, energy: 0.5 }), [
    "meter.power 12 W",
    "meter.voltage 230 V",
    "meter.energy 1800000 J",
  ]);
  t.strictSame(read("leaf", { battery: 97, voltage: 2985 }), ["leaf.battery 97 %EL", "leaf.voltage 2.985 V"]);
  t.strictSame(read("bulb/availability", { state: "online" }), ["bulb.online true"]);
  t.strictSame(read("bulb/availability", "offline"), ["bulb.online false"]);
  for (const device of ["bridge/state", "bridge/devices", "bulb/set", "bulb/get"])
    t.strictSame(read(device, { state: "ON" }), []);
  t.strictSame(prepared(preset, "set", { device: "bulb", state: "OFF" }), {
    topic: "zigbee2mqtt/bulb/set",
    payload: '{"state":"OFF"}',
    answerTopic: "zigbee2mqtt/bulb",
  });
  t.strictSame(prepared(preset, "get", { device: "bulb" }), {
    topic: "zigbee2mqtt/bulb/get",
    payload: '{"state":""}',
    answerTopic: "zigbee2mqtt/bulb",
  });
});

// DS18B20, RESULT and POWER: https://tasmota.github.io/docs/MQTT/; ENERGY and STATE are shaped after what devices send.
void t.test("Tasmota", async (t) => {
  const preset = tasmota();
  const read = (topic: string, payload: unknown): string[] => lines(readings(preset, topic, payload));
  const probe = { Id: "0316A2799BE7", Temperature: 4.5 };
  t.strictSame(read("tele/shed/SENSOR", { Time: "2021-01-02T09:09:44", DS18B20: probe, TempUnit: "C" }), [
    "shed.DS18B20.Temperature 4.5 Cel",
  ]);
  t.strictSame(read("tele/shed/SENSOR", { DS18B20: { Temperature: 50 }, TempUnit: "F" }), [
    "shed.DS18B20.Temperature 10 Cel",
  ]);
  t.strictSame(
    read("tele/plug/SENSOR", {
      ENERGY: { TotalStartTime: "2019-07-02", Total: 2, Power: 12.5, Voltage: 231, Current: 0.054 },
    }),
    [
      "plug.ENERGY.Total 7200000 J",
      "plug.ENERGY.Power 12.5 W",
      "plug.ENERGY.Voltage 231 V",
      "plug.ENERGY.Current 0.054 A",
    ],
  );
  t.strictSame(read("tele/plug/STATE", { Uptime: "0T00:01:00", UptimeSec: 60, POWER: "ON", Wifi: { RSSI: 80 } }), [
    "plug.POWER true",
    "plug.uptime 60 s",
  ]);
  t.strictSame(read("stat/plug/POWER1", "OFF"), ["plug.POWER1 false"]);
  t.strictSame(read("stat/plug/RESULT", { POWER1: "OFF" }), []);
  t.strictSame(read("tele/plug/LWT", "Offline"), ["plug.online false"]);
  t.strictSame(prepared(preset, "power", { device: "plug", relay: "POWER1", on: true }), {
    topic: "cmnd/plug/POWER1",
    payload: "true",
    answerTopic: "stat/plug/RESULT",
  });
});

// Shaped after https://shelly-api-docs.shelly.cloud/gen2/ComponentsAndServices/Switch and /Mqtt
void t.test("Shelly of the second generation", async (t) => {
  const preset = shelly();
  const status = {
    id: 0,
    source: "WS_in",
    output: false,
    apower: 8.9,
    voltage: 237.5,
    current: 0.05,
    aenergy: { total: 6.532, by_minute: [45.199, 47.141, 88.397], minute_ts: 1_626_935_779 },
    temperature: { tC: 23.5, tF: 74.4 },
  };
  t.strictSame(lines(readings(preset, "shellyplus1pm-441793a3f4c8/status/switch:0", status)), [
    "shellyplus1pm-441793a3f4c8.switch-0.apower 8.9 W",
    "shellyplus1pm-441793a3f4c8.switch-0.voltage 237.5 V",
    "shellyplus1pm-441793a3f4c8.switch-0.current 0.05 A",
    "shellyplus1pm-441793a3f4c8.switch-0.aenergy.total 23515.2 J",
    "shellyplus1pm-441793a3f4c8.switch-0.temperature.tC 23.5 Cel",
    "shellyplus1pm-441793a3f4c8.switch-0.output false",
  ]);
  t.strictSame(lines(readings(preset, "plug/online", true)), ["plug.online true"]);
  t.strictSame(prepared(preset, "switch-on", { device: "plug", switch: 0 }), {
    topic: "plug/command/switch:0",
    payload: "on",
    answerTopic: "plug/status/switch:0",
  });
});

// Payloads: https://www.home-assistant.io/integrations/mqtt/#discovery-examples
void t.test("Home Assistant discovery", async (t) => {
  const followed: string[] = [];
  const preset = homeAssistant("homeassistant", ({ filter }) => void followed.push(filter));
  const read = (topic: string, payload: unknown): string[] => lines(readings(preset, topic, payload));
  const sensor = { state_topic: "homeassistant/sensor/sensorBedroom/state", unique_id: "temp01ae" };
  read("homeassistant/sensor/sensorBedroomT/config", {
    ...sensor,
    device_class: "temperature",
    unit_of_measurement: "°C",
    value_template: "{{ value_json.temperature}}",
  });
  read("homeassistant/sensor/sensorBedroomH/config", {
    ...sensor,
    device_class: "humidity",
    unit_of_measurement: "%",
    value_template: "{{ value_json.humidity}}",
  });
  t.strictSame(read("homeassistant/sensor/sensorBedroom/state", { temperature: 23.2, humidity: 43.7 }), [
    "sensorBedroomT 23.2 Cel",
    "sensorBedroomH 43.7 %RH",
  ]);

  read("homeassistant/binary_sensor/garden/config", {
    name: null,
    device_class: "motion",
    state_topic: "homeassistant/binary_sensor/garden/state",
  });
  t.strictSame(read("homeassistant/binary_sensor/garden/state", "ON"), ["garden true"]);

  // With abbreviations and a base topic.
  read("homeassistant/switch/irrigation/config", {
    "~": "homeassistant/switch/irrigation",
    cmd_t: "~/set",
    stat_t: "~/state",
  });
  t.strictSame(read("homeassistant/switch/irrigation/state", "OFF"), ["irrigation false"]);
  t.strictSame(prepared(preset, "set", { entity: "irrigation", on: true }), {
    topic: "homeassistant/switch/irrigation/set",
    payload: "ON",
    answerTopic: "homeassistant/switch/irrigation/state",
  });
  t.throws(() => prepared(preset, "set", { entity: "garden", on: true }), { code: "COMMAND_REFUSED" });

  read("homeassistant/light/kitchen/config", {
    "~": "homeassistant/light/kitchen",
    name: "Kitchen",
    unique_id: "kitchen_light",
    cmd_t: "~/set",
    stat_t: "~/state",
    schema: "json",
    brightness: true,
  });
  t.strictSame(read("homeassistant/light/kitchen/state", { state: "ON", brightness: 255 }), ["kitchen true"]);
  t.match(prepared(preset, "set", { entity: "kitchen", on: false }), { payload: '{"state":"OFF"}' });

  read("homeassistant/sensor/node1/power/config", {
    stat_t: "tele/x",
    unit_of_meas: "kW",
    val_tpl: "{{ value_json['ENERGY'].Power[0] | float | round(2) }}",
  });
  t.strictSame(read("tele/x", { ENERGY: { Power: [1.5] } }), ["node1.power 1500 W"]);

  read("homeassistant/sensor/clever/config", { stat_t: "clever", val_tpl: "{% if value %}1{% endif %}" });
  t.strictSame(read("clever", "1"), [], "a template that does more is not guessed at");
  t.notOk(followed.includes("clever"));

  read("homeassistant/switch/irrigation/config", undefined);
  t.strictSame(read("homeassistant/switch/irrigation/state", "OFF"), [], "an empty message takes an entity away");
});

void t.test("presets take whatever a broker sends", async () => {
  const presets = [zigbee2mqtt("z"), tasmota(), shelly(), homeAssistant("h", () => undefined)];
  const topic = fc.constantFrom(
    "z/a",
    "tele/a/SENSOR",
    "tele/a/STATE",
    "stat/a/POWER",
    "z/bridge/devices",
    "a/status/b",
    "a/events/rpc",
    "h/sensor/a/config",
    "h/switch/b/a/config",
    "x",
  );
  fc.assert(
    fc.property(topic, fc.oneof(fc.jsonValue(), fc.object()), (where, payload) =>
      presets.every((preset) =>
        readings(preset, where, payload).every(({ name }) => /^[A-Za-z0-9][-A-Za-z0-9:./_]*$/u.test(name)),
      ),
    ),
  );
});

void driverContract(t, "mqtt with a preset", async () => {
  const broker = await openAedes();
  broker.onMessage("zigbee2mqtt/bulb/set", (payload) => void broker.publish("zigbee2mqtt/bulb", payload));
  const config = v.parse(mqttSchema, {
    id: "zigbee",
    type: "mqtt",
    url: broker.url,
    preset: [{ kind: "zigbee2mqtt" }],
  });
  return {
    open: (deps, signal) => openMqtt(config, deps, signal),
    stimulate: () => broker.publish("zigbee2mqtt/hall", '{"temperature":27.34}'),
    removeDevice: () => broker.cut(),
    command: { name: "set", args: { device: "bulb", state: "ON" }, result: { state: "ON" } },
    silentCommand: { name: "get", args: { device: "nobody" } },
    [Symbol.asyncDispose]: () => broker[Symbol.asyncDispose](),
  };
});

void t.test("entities that are discovered are followed, whenever they appear", async (t) => {
  await using broker = await openAedes();
  await using deps = await recordingDeps();
  const config = v.parse(mqttSchema, { id: "ha", type: "mqtt", url: broker.url, preset: [{ kind: "home-assistant" }] });
  const stop = new AbortController();
  const driver = await openMqtt(config, deps, stop.signal);
  const running = driver.run(stop.signal);
  let subscribed = false;
  broker.aedes.on("subscribe", (subscriptions) => {
    if (subscriptions.some(({ topic }) => topic === "lab/oven")) subscribed = true;
  });
  await broker.publish("homeassistant/sensor/oven/config", '{"state_topic":"lab/oven","unit_of_measurement":"°C"}');
  await eventually(() => subscribed, "the subscription");
  await broker.publish("lab/oven", "181.5");
  await deps.until(1);
  t.match(deps.readings, [{ name: "oven", value: 181.5, unit: "Cel" }]);
  stop.abort();
  await running;
  await driver[Symbol.asyncDispose]();
});
