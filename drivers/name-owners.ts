import type { Reading } from "../core/driver.js";
import type { Log } from "../core/log.js";

/** Names that are looked after at most; a device that makes up new ones for ever must not fill the memory. */
const MAX_NAMES = 10_000;

/**
 * Knows which driver gave a name to a reading first, since two drivers with one name are one to whoever reads. The
 * readings are taken all the same.
 */
export class NameOwners {
  readonly #owners = new Map<string, string>();
  readonly #shared = new Map<string, Map<string, string>>();

  /** Looks at what a driver gives; warns once of each name that is another's. */
  claim(driverId: string, readings: readonly Reading[], log: Log): void {
    for (const { name } of readings) {
      const owner = this.#owners.get(name);
      if (owner === driverId) continue;
      if (owner === undefined) {
        if (this.#owners.size < MAX_NAMES) this.#owners.set(name, driverId);
        continue;
      }
      const shared = this.#shared.get(driverId) ?? new Map<string, string>();
      this.#shared.set(driverId, shared);
      if (shared.has(name)) continue;
      shared.set(name, owner);
      log.warn(
        { reading: name, other: owner },
        "two drivers give a reading of one name: rename one, readers cannot tell them apart",
      );
    }
  }

  /** The names that the driver shares, and with whom. */
  sharedBy(driverId: string): ReadonlyMap<string, string> {
    return this.#shared.get(driverId) ?? new Map<string, string>();
  }

  /** A driver that is gone owns nothing, and shares with nobody. */
  forget(driverId: string): void {
    for (const [name, owner] of this.#owners) if (owner === driverId) this.#owners.delete(name);
    this.#shared.delete(driverId);
    for (const shared of this.#shared.values()) {
      for (const [name, owner] of shared) if (owner === driverId) shared.delete(name);
    }
  }
}
