import type { AnyDriverConfig } from "../driver-kinds.js";

/** A reading that the configuration names, and where. */
export interface NamedReading {
  readonly path: readonly (string | number)[];
  readonly name: string;
}

/** The names that a driver's table gives to readings; those that come from topics or sensors are not known yet. */
export function namedReadings(config: AnyDriverConfig): NamedReading[] {
  switch (config.type) {
    case "serial":
    case "modbus":
    case "mqtt":
      return listed("reading", config.reading).filter(({ name }) => !name.includes("{"));
    case "gpio":
      return [...listed("input", config.input), ...listed("output", config.output)];
    case "simulated":
      return config.shape === "replay" ? [] : [{ path: ["name"], name: config.name }];
    default:
      return [];
  }
}

function listed(key: string, list: readonly { readonly name: string }[]): NamedReading[] {
  return list.map(({ name }, at) => ({ path: [key, at, "name"], name }));
}
