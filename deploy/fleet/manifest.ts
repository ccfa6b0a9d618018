import { parse } from "smol-toml";
import * as v from "valibot";
import { type AtSign, parseAtSign } from "../../atplatform/protocol/at-sign.js";
import { EdgeError, LimitExceeded, SyntaxInvalid } from "../../core/errors.js";
import { parseDevice, parseNamespace } from "../../messages/names.js";
import { parseCsv } from "./csv.js";

/** One board as its owner wants it to be. */
export interface FleetDevice {
  /** Unique in the manifest: the device name under its atSign. */
  readonly name: string;
  /** Of the hardware: inventory, no proof. */
  readonly serial: string;
  /** An atSign, or the name of a pool that gives one. */
  readonly home: { readonly atSign: AtSign } | { readonly pool: string };
  readonly tags: readonly string[];
  /** Name of a configuration template, and what is filled into it. */
  readonly template?: string;
  readonly values: Readonly<Record<string, string>>;
  /** Where `apply --ssh` finds the board. */
  readonly host?: string;
}

export interface Manifest {
  readonly namespace: string;
  readonly directory: string;
  /** Devices that one atSign may have. */
  readonly perAtSign: number;
  readonly pools: Readonly<Record<string, readonly AtSign[]>>;
  readonly devices: readonly FleetDevice[];
}

/** A fault of the manifest, with the place: file and line or entry. */
export class ManifestInvalid extends EdgeError {
  override readonly code: string = "MANIFEST_INVALID";
}

const MAX_BYTES = 32 * 1024 * 1024;
const MAX_DEVICES = 100_000;
const DEFAULT_PER_AT_SIGN = 25;

const DEVICE = v.strictObject({
  name: v.string(),
  serial: v.pipe(v.string(), v.regex(/^[\w.:-]{1,64}$/u, "expected up to 64 letters, digits and . : _ -")),
  atsign: v.optional(v.string()),
  pool: v.optional(v.string()),
  tags: v.optional(v.array(v.pipe(v.string(), v.regex(/^[a-z0-9][a-z0-9_.-]{0,39}$/u, "expected a short word")))),
  template: v.optional(v.pipe(v.string(), v.regex(/^[\w-]{1,60}$/u, "expected the name of a template"))),
  values: v.optional(v.record(v.string(), v.string())),
  host: v.optional(v.pipe(v.string(), v.regex(/^[\w.@:[\]-]{1,255}$/u, "expected [USER@]HOST"), v.regex(/^[^-]/u))),
});

const FILE = v.strictObject({
  namespace: v.optional(v.string(), "atedge"),
  directory: v.optional(v.string(), "root.atsign.org:64"),
  devices_per_atsign: v.optional(v.pipe(v.number(), v.integer(), v.minValue(1)), DEFAULT_PER_AT_SIGN),
  pools: v.optional(v.record(v.string(), v.array(v.string())), {}),
  device: v.optional(v.array(v.unknown()), []),
});

/**
 * Reads a manifest: TOML with `[[device]]` entries, or CSV whose header names the same fields (`tags` separated by
 * spaces; a column `value.NAME` for each value). All that a CSV cannot say has its default.
 *
 * @throws {ManifestInvalid}, {LimitExceeded}
 */
export function parseManifest(source: string, where: string): Manifest {
  if (source.length > MAX_BYTES) throw new LimitExceeded(`${where}: a manifest has at most ${MAX_BYTES / 2 ** 20} MiB`);
  const file = where.endsWith(".csv")
    ? { ...v.getDefaults(FILE), device: csvEntries(source, where) }
    : toml(source, where);
  const { devices_per_atsign: perAtSign, directory } = file;
  if (file.device.length > MAX_DEVICES)
    throw new LimitExceeded(`${where}: ${file.device.length} devices, a manifest has at most ${MAX_DEVICES}`);
  const pools = Object.fromEntries(
    Object.entries(file.pools).map(([name, atSigns]) => [
      name,
      atSigns.map((atSign) => checked(`${where}: pool ${name}`, () => parseAtSign(atSign))),
    ]),
  );
  const namespace = checked(where, () => parseNamespace(file.namespace));
  const devices = file.device.map((entry, at) => parseDeviceEntry(entry, pools, placeOf(where, entry, at)));
  refuseTwins(devices, where);
  return { namespace, directory, perAtSign, pools, devices };
}

function toml(source: string, where: string): v.InferOutput<typeof FILE> {
  let value: unknown;
  try {
    value = parse(source);
  } catch (cause) {
    throw new ManifestInvalid(`${where}: ${cause instanceof Error ? cause.message : "this is no TOML"}`, { cause });
  }
  return valid(FILE, value, where);
}

/** As `[[device]]` would have it. */
function csvEntries(source: string, where: string): unknown[] {
  return checked(where, () => parseCsv(source)).map((row) => {
    const entry: Record<string, unknown> = {};
    const values: Record<string, string> = {};
    for (const [name, text] of Object.entries(row)) {
      if (text === "") continue;
      if (name.startsWith("value.")) values[name.slice("value.".length)] = text;
      else entry[name] = name === "tags" ? text.split(/\s+/u) : text;
    }
    return { ...entry, values };
  });
}

function placeOf(where: string, entry: unknown, at: number): string {
  const name =
    typeof entry === "object" && entry !== null && "name" in entry ? ` (${String(entry.name).slice(0, 40)})` : "";
  return where.endsWith(".csv") ? `${where}, line ${at + 2}${name}` : `${where}, device ${at + 1}${name}`;
}

function parseDeviceEntry(entry: unknown, pools: Manifest["pools"], where: string): FleetDevice {
  const { name, serial, atsign, pool, tags = [], template, values = {}, host } = valid(DEVICE, entry, where);
  if ((atsign === undefined) === (pool === undefined))
    throw new ManifestInvalid(`${where}: expected either an atsign or a pool`);
  if (pool !== undefined && !Object.hasOwn(pools, pool))
    throw new ManifestInvalid(`${where}: there is no pool ${JSON.stringify(pool)}`);
  return {
    name: checked(where, () => parseDevice(name)),
    serial,
    home: pool === undefined ? { atSign: checked(where, () => parseAtSign(atsign ?? "")) } : { pool },
    tags,
    values,
    ...(template !== undefined && { template }),
    ...(host !== undefined && { host }),
  };
}

/** One name on two boards would be one device; one serial number twice is a copying mistake. */
function refuseTwins(devices: readonly FleetDevice[], where: string): void {
  for (const what of ["name", "serial"] as const) {
    const seen = new Set<string>();
    for (const device of devices) {
      if (seen.has(device[what]))
        throw new ManifestInvalid(`${where}: two devices have the ${what} ${JSON.stringify(device[what])}`);
      seen.add(device[what]);
    }
  }
}

function valid<Schema extends v.GenericSchema>(schema: Schema, value: unknown, where: string): v.InferOutput<Schema> {
  const result = v.safeParse(schema, value);
  if (result.success) return result.output;
  const [issue] = result.issues;
  throw new ManifestInvalid(`${where}: ${v.getDotPath(issue) ?? "the file"}: ${issue.message}`);
}

function checked<T>(where: string, read: () => T): T {
  try {
    return read();
  } catch (cause) {
    if (!(cause instanceof SyntaxInvalid)) throw cause;
    throw new ManifestInvalid(`${where}: ${cause.message}`, { cause });
  }
}
