import type { Driver, DriverDeps } from "../core/driver.js";
import { type LinkConfig, linkSchema } from "./link/config.js";
import { type SmpConfig, smpSchema } from "./smp/config.js";

/** The keys of each kind of driver of this room, beside those of drivers/registry.ts. */
export const bridgeSchemas = { link: linkSchema, smp: smpSchema } as const;

export type BridgeConfig = LinkConfig | SmpConfig;

/** What opens the driver of a table. Its code is loaded when it is opened for the first time. */
export function bridgeOpener(config: BridgeConfig): (deps: DriverDeps, signal: AbortSignal) => Promise<Driver> {
  switch (config.type) {
    case "link":
      return async (deps, signal) => (await import("./link/link-driver.js")).openLinkDriver(config, deps, signal);
    case "smp":
      return async (deps, signal) => (await import("./smp/smp-driver.js")).openSmpDriver(config, deps, signal);
  }
}
