import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import * as v from "valibot";
import { execSchema } from "../../drivers/exec/config.js";
import { openExecOf } from "../../drivers/exec/exec-driver.js";
import { openHost } from "../../drivers/host/host-driver.js";
import { hostSchema } from "../../drivers/host/config.js";
import { openMqtt } from "../../drivers/mqtt/mqtt-driver.js";
import { mqttSchema } from "../../drivers/mqtt/config.js";
import { openSerial } from "../../drivers/serial/serial-driver.js";
import { serialSchema } from "../../drivers/serial/config.js";
import { openSimulated } from "../../drivers/simulated/simulated-driver.js";
import { simulatedSchema } from "../../drivers/simulated/config.js";
import { driverContract } from "../contracts/driver.js";
import { openAedes } from "../fixtures/mqtt-brokers.js";
import { openMosquitto } from "../fixtures/mqtt-mosquitto.js";
import { PtyDevice } from "../fixtures/pty-device.js";

void driverContract(t, "host", async () => {
  const config = v.parse(hostSchema, { id: "machine", type: "host", intervalMs: 100 });
  return {
    open: (deps, signal) => openHost(config, deps, signal),
    stimulate: async () => undefined,
    async [Symbol.asyncDispose]() {},
  };
});

void driverContract(t, "simulated", async () => {
  const config = v.parse(simulatedSchema, { id: "sine", type: "simulated", intervalMs: 5 });
  return {
    open: (deps, signal) => openSimulated(config, deps, signal),
    stimulate: async () => undefined,
    command: { name: "set", args: { value: 3 }, result: { value: 3 } },
    async [Symbol.asyncDispose]() {},
  };
});

void driverContract(t, "exec", async () => {
  const dir = await mkdtemp(join(tmpdir(), "atedge-exec-"));
  const pidFile = join(dir, "pid");
  await writeFile(join(dir, "program"), EXEC_PROGRAM, { mode: 0o755 });
  const config = v.parse(execSchema, { id: "own", type: "exec", folder: dir, program: "program", args: [pidFile] });
  return {
    open: (deps, signal) => openExecOf([process.getuid?.() ?? 0])(config, deps, signal),
    stimulate: async () => undefined,
    removeDevice: async () => void process.kill(Number(await readFile(pidFile, "utf8")), "SIGKILL"),
    command: { name: "echo", args: { on: true }, result: { on: true } },
    silentCommand: { name: "deaf", args: {} },
    [Symbol.asyncDispose]: () => rm(dir, { recursive: true, force: true }),
  };
});

void driverContract(t, "serial", async () => {
  const device = await PtyDevice.open();
  device.onLine = (line) => {
    const { id, cmd, on } = JSON.parse(line) as { id: number; cmd: string; on?: boolean };
    return cmd === "relay" ? JSON.stringify({ id, relay: on }) : undefined;
  };
  const config = v.parse(serialSchema, {
    id: "vent",
    type: "serial",
    path: device.path,
    command: [{ name: "relay", args: { on: { type: "boolean" } } }, { name: "sleep" }],
  });
  return {
    open: (deps, signal) => openSerial(config, deps, signal),
    stimulate: async () => device.say('{"t":21.5}'),
    removeDevice: async () => device.unplug(),
    command: { name: "relay", args: { on: true }, result: { id: 1, relay: true } },
    silentCommand: { name: "sleep", args: {} },
    [Symbol.asyncDispose]: () => device[Symbol.asyncDispose](),
  };
});

const EXEC_PROGRAM = `#!${process.execPath}
require("node:fs").writeFileSync(process.argv[2], String(process.pid));
const say = (message) => console.log(JSON.stringify(message));
say({ commands: [{ name: "echo" }, { name: "deaf" }] });
setInterval(() => say({ readings: [{ name: "t", value: 1, unit: "Cel" }] }), 20);
require("node:readline").createInterface({ input: process.stdin }).on("line", (line) => {
  const { call, command, args } = JSON.parse(line);
  if (command === "echo") say({ answer: call, result: args });
}).on("close", () => process.exit(0));
`;

const mqttKeys = {
  id: "bench",
  type: "mqtt",
  reading: [{ topic: "bench/+/temperature", name: "temperature.{1}", pointer: "/value", unit: "Cel" }],
  command: [
    { name: "lamp", topic: "lamp/set", args: { state: { type: "string" } }, answerTopic: "lamp" },
    { name: "deaf", topic: "nobody/set", answerTopic: "nobody" },
  ],
};
const mqttRig = {
  command: { name: "lamp", args: { state: "ON" }, result: { state: "ON" } },
  silentCommand: { name: "deaf", args: {} },
};

void driverContract(t, "mqtt 3.1.1, with aedes,", async () => {
  const broker = await openAedes();
  broker.onMessage("lamp/set", (payload) => void broker.publish("lamp", payload));
  const config = v.parse(mqttSchema, { ...mqttKeys, url: broker.url });
  return {
    ...mqttRig,
    open: (deps, signal) => openMqtt(config, deps, signal),
    stimulate: () => broker.publish("bench/north wall/temperature", '{"value":21.5}'),
    removeDevice: () => broker.cut(),
    [Symbol.asyncDispose]: () => broker[Symbol.asyncDispose](),
  };
});

void driverContract(t, "mqtt 5, with mosquitto,", async () => {
  const broker = await openMosquitto();
  await broker.onMessage("lamp/set", (payload) => void broker.publish("lamp", payload));
  const config = v.parse(mqttSchema, { ...mqttKeys, url: broker.url, version: "5" });
  return {
    ...mqttRig,
    open: (deps, signal) => openMqtt(config, deps, signal),
    stimulate: () => broker.publish("bench/north wall/temperature", '{"value":21.5}'),
    removeDevice: () => broker.kill(),
    [Symbol.asyncDispose]: () => broker[Symbol.asyncDispose](),
  };
});
