import type { OpenDriver } from "../../core/driver.js";
import { openFlashDriver } from "../update/flash-driver.js";
import { UpdateStore } from "../update/update-store.js";
import type { FlasherConfig } from "./config.js";
import { openExternalFlasher } from "./external-flasher.js";

/** Keeps the firmware of a board that a program writes. */
export const openFlasherDriver: OpenDriver<FlasherConfig> = async (config, deps, signal) => {
  signal.throwIfAborted();
  const { flash, probe, path: port, timeoutMs } = config;
  const folder = await deps.stateDir();
  const openTarget = async () => {
    const { update, installed } = await new UpdateStore(folder).load();
    const versions = new Map(installed.map(({ hash, version }) => [hash, version]));
    if (update?.manifest) versions.set(update.sha256, update.version);
    const versionOf = (sha256: string): string => versions.get(sha256) ?? "";
    return openExternalFlasher({ flash, probe, port, folder, timeoutMs, versionOf });
  };
  return openFlashDriver({ ...config, keys: config.firmware.keys, selfTest: probe && "probe", openTarget }, deps);
};
