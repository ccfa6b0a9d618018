import type { Driver, DriverDeps } from "../core/driver.js";
import { type FlasherConfig, flasherSchema } from "./flasher/config.js";
import { type LinkConfig, linkSchema } from "./link/config.js";
import { type SmpConfig, smpSchema } from "./smp/config.js";

/** The keys of each kind of driver of this room, beside those of drivers/registry.ts. */
export const bridgeSchemas = { link: linkSchema, smp: smpSchema, flasher: flasherSchema } as const;

export type BridgeConfig = LinkConfig | SmpConfig | FlasherConfig;

export function isBridgeConfig<T extends { readonly type: string }>(config: T | BridgeConfig): config is BridgeConfig {
  return Object.hasOwn(bridgeSchemas, config.type);
}

/** What opens the driver of a table. Its code is loaded when it is opened for the first time. */
export function bridgeOpener(config: BridgeConfig): (deps: DriverDeps, signal: AbortSignal) => Promise<Driver> {
  switch (config.type) {
    case "link":
      return async (deps, signal) => (await import("./link/link-driver.js")).openLinkDriver(config, deps, signal);
    case "smp":
      return async (deps, signal) => (await import("./smp/smp-driver.js")).openSmpDriver(config, deps, signal);
    case "flasher":
      return async (deps, signal) =>
        (await import("./flasher/flasher-driver.js")).openFlasherDriver(config, deps, signal);
  }
}
