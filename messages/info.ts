import { MAX_NAME_LENGTH, MAX_UNIT_LENGTH } from "./senml.js";
import { JsonField, type JsonObject } from "./json-field.js";

/** What a device is and can do, for people and consoles: one record with a ttl. */
export interface DeviceInfo {
  /** When it was put together, milliseconds since 1970. */
  readonly at: number;
  /** Version of the agent. */
  readonly version: string;
  readonly drivers: readonly DriverInfo[];
  readonly commands: readonly CommandInfo[];
  /** Bounds by name, e.g. `windowMessages`, `maxArgsBytes`, `stateIntervalMs`. */
  readonly limits: Readonly<Record<string, number>>;
  readonly health: HealthInfo;
  /** Left out: every reading is sent as it was measured. */
  readonly channels?: readonly ChannelInfo[];
}

/** How the device reduces channels before it takes their readings; `*` in a name stands for any text. */
export interface ChannelInfo {
  readonly name: string;
  readonly unit?: string | undefined;
  /** Value sent = value measured × scale + offset, then clamped. */
  readonly scale?: number | undefined;
  readonly offset?: number | undefined;
  readonly clampMin?: number | undefined;
  readonly clampMax?: number | undefined;
  /** What differs no more from the last one sent is left out. */
  readonly deadband?: number | undefined;
  readonly minIntervalMs?: number | undefined;
  readonly maxIntervalMs?: number | undefined;
  /** Only least, mean and largest of each such time are sent: `NAME.min`, `NAME.mean`, `NAME.max`. */
  readonly windowMs?: number | undefined;
}

export interface DriverInfo {
  readonly id: string;
  readonly type: string;
}

export interface CommandInfo {
  readonly target: string;
  readonly command: string;
  readonly idempotent: boolean;
  /** A JSON Schema; left out: any object. */
  readonly argsSchema?: JsonObject;
}

export interface HealthInfo {
  readonly state: HealthState;
  readonly parts: readonly {
    readonly name: string;
    readonly state: HealthState;
    /** Since when, milliseconds since 1970. */
    readonly since: number;
    /** Code of the last error. */
    readonly code?: string;
  }[];
}

export type HealthState = "ok" | "degraded" | "failed";

const HEALTH_STATES = ["ok", "degraded", "failed"] as const;
const name = { max: 64 };

/** Body of the record `info.<device>.<ns>`, to be sealed. */
export function formatInfo({ at, version, drivers, commands, limits, health, channels }: DeviceInfo): JsonObject {
  return { v: 1, at, version, drivers, commands, limits, health, ...(channels && { channels }) };
}

/** @param value what `openSealed` gave. @throws {SyntaxInvalid} @throws {LimitExceeded} */
export function parseInfo(value: unknown): DeviceInfo {
  const fields = new JsonField(value, "info").object();
  fields.at("v").exactly(1);
  const limits = fields.at("limits").object();
  const channels = fields.optional("channels")?.array({ max: 256 }).map(parseChannel);
  return {
    at: fields.at("at").timeMs(),
    version: fields.at("version").text(name),
    drivers: fields.at("drivers").array({ max: 256 }).map(parseDriver),
    commands: fields.at("commands").array({ max: 1024 }).map(parseCommand),
    limits: Object.fromEntries(limits.names().map((key) => [key, limits.at(key).integer(0, Number.MAX_SAFE_INTEGER)])),
    health: parseHealth(fields.at("health")),
    ...(channels && { channels }),
  };
}

const CHANNEL_NUMBERS = [
  ...(["scale", "offset", "clampMin", "clampMax", "deadband"] as const),
  ...(["minIntervalMs", "maxIntervalMs", "windowMs"] as const),
];

function parseChannel(field: JsonField): ChannelInfo {
  const fields = field.object();
  const numbers = CHANNEL_NUMBERS.flatMap((key) => {
    const number = fields.optional(key)?.number();
    return number === undefined ? [] : [[key, number] as const];
  });
  const unit = fields.optional("unit")?.text({ max: MAX_UNIT_LENGTH });
  return {
    name: fields.at("name").text({ max: MAX_NAME_LENGTH }),
    ...(unit !== undefined && { unit }),
    ...(Object.fromEntries(numbers) as Partial<Record<(typeof CHANNEL_NUMBERS)[number], number>>),
  };
}

function parseDriver(field: JsonField): DriverInfo {
  const fields = field.object();
  return { id: fields.at("id").text(name), type: fields.at("type").text(name) };
}

function parseCommand(field: JsonField): CommandInfo {
  const fields = field.object();
  const argsSchema = fields.optional("argsSchema")?.object().object;
  return {
    target: fields.at("target").text(name),
    command: fields.at("command").text(name),
    idempotent: fields.at("idempotent").boolean(),
    ...(argsSchema && { argsSchema }),
  };
}

function parseHealth(field: JsonField): HealthInfo {
  const fields = field.object();
  return {
    state: fields.at("state").oneOf(HEALTH_STATES),
    parts: fields
      .at("parts")
      .array({ max: 64 })
      .map((entry) => {
        const part = entry.object();
        const code = part.optional("code")?.text(name);
        return {
          name: part.at("name").text(name),
          state: part.at("state").oneOf(HEALTH_STATES),
          since: part.at("since").timeMs(),
          ...(code !== undefined && { code }),
        };
      }),
  };
}
