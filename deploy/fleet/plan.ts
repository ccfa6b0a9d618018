import type { AtSign } from "../../atplatform/protocol/at-sign.js";
import { LimitExceeded } from "../../core/errors.js";
import type { DeviceRow, FleetStore } from "./fleet-store.js";
import type { FleetDevice, Manifest } from "./manifest.js";

/** What `apply` would do with a device, or why it is left alone. */
export type Step =
  | { readonly type: "bundle"; readonly why: "new" | "expired" | "moved" | "board replaced" | "unfinished" }
  | { readonly type: "keep"; readonly why: "bundled" | "enrolled" }
  /** Only a person decides that: `replace`, `transfer`, or a new name. */
  | { readonly type: "conflict"; readonly why: string };

export interface PlannedDevice {
  readonly device: FleetDevice;
  readonly atSign: AtSign;
  readonly step: Step;
}

export interface Plan {
  readonly devices: readonly PlannedDevice[];
  /** In the fleet, but not in the manifest: left alone. */
  readonly unlisted: readonly string[];
}

/**
 * What is to be done so that the fleet is as the manifest says. Changes nothing; the same manifest and fleet give the
 * same plan.
 *
 * @throws {LimitExceeded} when an atSign would have too many devices, or a pool is used up.
 */
export function planFleet(manifest: Manifest, store: FleetStore, nowMs: number): Plan {
  const rows = new Map(store.devices().map((row) => [row.name, row]));
  const places = placesOf(manifest, rows);
  const devices = manifest.devices.map((device) => {
    const atSign = places.get(device.name);
    if (atSign === undefined) throw new Error(`${device.name} was given no atSign`);
    return { device, atSign, step: stepFor(device, atSign, rows.get(device.name), store, nowMs) };
  });
  const listed = new Set(manifest.devices.map(({ name }) => name));
  const unlisted = [...rows.values()].filter(({ name, state }) => !listed.has(name) && state !== "retired");
  return { devices, unlisted: unlisted.map(({ name }) => name) };
}

function stepFor(
  device: FleetDevice,
  atSign: AtSign,
  row: DeviceRow | undefined,
  store: FleetStore,
  nowMs: number,
): Step {
  if (!row) return { type: "bundle", why: "new" };
  if (row.state === "retired") return { type: "conflict", why: "this name was retired: give the board another one" };
  if (row.state === "compromised" && store.atSign(row.atSign)?.compromised === true)
    return { type: "conflict", why: `${row.atSign} needs new keys first: \`atedge fleet compromise\` says how` };
  if (row.state === "enrolled" && row.atSign !== atSign)
    return { type: "conflict", why: `it is enrolled at ${row.atSign}: \`atedge fleet transfer\` moves it` };
  if (row.state === "enrolled" && row.serial !== device.serial)
    return { type: "conflict", why: `it is enrolled as board ${row.serial}: \`atedge fleet replace\` changes that` };
  if (row.state === "enrolled") return { type: "keep", why: "enrolled" };
  const bundle = store.openBundles(device.name).at(-1);
  if (bundle?.state === "begun" || (row.state === "bundled" && !bundle)) return { type: "bundle", why: "unfinished" };
  if (!bundle) return { type: "bundle", why: "new" };
  if (bundle.atSign !== atSign) return { type: "bundle", why: "moved" };
  if (bundle.serial !== device.serial) return { type: "bundle", why: "board replaced" };
  if (bundle.expiresAtMs <= nowMs) return { type: "bundle", why: "expired" };
  return { type: "keep", why: "bundled" };
}

/** Who has an atSign keeps it; a pool fills its atSigns in the order in which it names them. */
function placesOf({ devices, pools, perAtSign }: Manifest, rows: ReadonlyMap<string, DeviceRow>): Map<string, AtSign> {
  const places = new Map<string, AtSign>();
  const counts = new Map<AtSign, number>();
  const place = (name: string, atSign: AtSign): void => {
    places.set(name, atSign);
    counts.set(atSign, (counts.get(atSign) ?? 0) + 1);
  };
  for (const { name, home } of devices) {
    const row = rows.get(name);
    if ("atSign" in home) place(name, home.atSign);
    else if (row && row.state !== "retired" && pools[home.pool]?.includes(row.atSign) === true) place(name, row.atSign);
  }
  for (const { name, home } of devices) {
    if (places.has(name) || "atSign" in home) continue;
    const atSigns = pools[home.pool] ?? [];
    const free = atSigns.find((atSign) => (counts.get(atSign) ?? 0) < perAtSign);
    if (free === undefined)
      throw new LimitExceeded(
        `the pool ${home.pool} is used up: its ${atSigns.length} atSigns have ${perAtSign} devices each; add one, or raise devices_per_atsign`,
      );
    place(name, free);
  }
  for (const [atSign, count] of counts) {
    if (count > perAtSign)
      throw new LimitExceeded(
        `${atSign} would have ${count} devices, ${perAtSign} are allowed: spread them over a pool, or raise devices_per_atsign`,
      );
  }
  return places;
}
