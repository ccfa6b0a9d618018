import type { OpenDriver } from "../../core/driver.js";
import { openFlashDriver } from "../update/flash-driver.js";
import type { SmpConfig } from "./config.js";
import { openSmpTarget } from "./smp-target.js";

/** Keeps the firmware of a board that speaks SMP. */
export const openSmpDriver: OpenDriver<SmpConfig> = async (config, deps, signal) => {
  signal.throwIfAborted();
  const { clock, openPort } = deps;
  const openTarget = async (targetSignal: AbortSignal) =>
    openSmpTarget({ port: await openPort(config.path, { baudRate: config.baud }, targetSignal), clock }, targetSignal);
  return openFlashDriver({ ...config, keys: config.firmware.keys, openTarget }, deps);
};
