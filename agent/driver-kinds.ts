import { type DriverConfig, configuredDriver, driverSchemas } from "../drivers/registry.js";
import type { ConfiguredDriver } from "../drivers/supervisor.js";
import { type BridgeConfig, bridgeOpener, bridgeSchemas, isBridgeConfig } from "../firmware-bridge/registry.js";

/** The keys of every kind of driver, by its `type`. */
export const allDriverSchemas = { ...driverSchemas, ...bridgeSchemas } as const;

export type AnyDriverConfig = DriverConfig | BridgeConfig;

/** The driver of a `[[driver]]` table, as the supervisor wants it. */
export function anyConfiguredDriver(config: AnyDriverConfig): ConfiguredDriver {
  if (!isBridgeConfig(config)) return { ...configuredDriver(config), config };
  return { id: config.id, type: config.type, open: bridgeOpener(config), config };
}
