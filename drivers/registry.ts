import * as v from "valibot";
import { execSchema } from "./exec/config.js";
import { gpioSchema } from "./gpio/config.js";
import { hostSchema } from "./host/config.js";
import { modbusSchema } from "./modbus/config.js";
import { mqttSchema } from "./mqtt/config.js";
import { serialSchema } from "./serial/config.js";
import { simulatedSchema } from "./simulated/config.js";
import { sysfsSchema } from "./sysfs/config.js";
import type { ConfiguredDriver } from "./supervisor.js";

/** The keys of each kind of driver, for the parser, the reference page and the example file. */
export const driverSchemas = {
  exec: execSchema,
  gpio: gpioSchema,
  host: hostSchema,
  modbus: modbusSchema,
  mqtt: mqttSchema,
  serial: serialSchema,
  simulated: simulatedSchema,
  sysfs: sysfsSchema,
} as const;

export type DriverType = keyof typeof driverSchemas;

/** One `[[driver]]` table, whatever its kind. */
export const driverSchema = v.variant("type", [
  execSchema,
  gpioSchema,
  hostSchema,
  modbusSchema,
  mqttSchema,
  serialSchema,
  simulatedSchema,
  sysfsSchema,
]);
export type DriverConfig = v.InferOutput<typeof driverSchema>;

/** What opens the driver of a table. Its code and libraries are loaded when it is opened for the first time. */
export function configuredDriver(config: DriverConfig): ConfiguredDriver {
  const { id, type } = config;
  const untilPresent = arrival(config);
  return { id, type, open: opener(config), ...(untilPresent ? { untilPresent } : {}) };
}

function arrival(config: DriverConfig): ConfiguredDriver["untilPresent"] {
  if (config.type !== "serial" && config.type !== "modbus") return undefined;
  const { path } = config;
  const usb = config.type === "serial" ? config.usb : undefined;
  if (path === undefined && usb === undefined) return undefined;
  return async (signal) => {
    const { untilPathAppears, untilUsbAppears } = await import("./serial/arrival.js");
    if (path !== undefined) await untilPathAppears(path, signal);
    else if (usb !== undefined) await untilUsbAppears(usb, signal);
  };
}

function opener(config: DriverConfig): ConfiguredDriver["open"] {
  switch (config.type) {
    case "exec":
      return async (deps, signal) => (await import("./exec/exec-driver.js")).openExec(config, deps, signal);
    case "gpio":
      return async (deps, signal) => (await import("./gpio/gpio-driver.js")).openGpio(config, deps, signal);
    case "host":
      return async (deps, signal) => (await import("./host/host-driver.js")).openHost(config, deps, signal);
    case "modbus":
      return async (deps, signal) => (await import("./modbus/modbus-driver.js")).openModbus(config, deps, signal);
    case "mqtt":
      return async (deps, signal) => (await import("./mqtt/mqtt-driver.js")).openMqtt(config, deps, signal);
    case "serial":
      return async (deps, signal) => (await import("./serial/serial-driver.js")).openSerial(config, deps, signal);
    case "simulated":
      return async (deps, signal) =>
        (await import("./simulated/simulated-driver.js")).openSimulated(config, deps, signal);
    case "sysfs":
      return async (deps, signal) => (await import("./sysfs/sysfs-driver.js")).openSysfs(config, deps, signal);
  }
}
