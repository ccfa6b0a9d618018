import { homedir } from "node:os";
import { join } from "node:path";

/** Where the fleet is remembered. */
export const fleetFolder = (state: string | undefined): string =>
  state ?? join(homedir(), ".config", "atedge", "fleet");
