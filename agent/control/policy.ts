import { isDeepStrictEqual } from "node:util";
import type { AtSign } from "../../atplatform/protocol/at-sign.js";
import type { Clock } from "../../core/clock.js";
import { CommandRejected } from "../../messages/command.js";
import type { AllowConfig } from "../config/schema.js";
import { globOf } from "./glob.js";
import { withinHours } from "./hours.js";
import { RateLimit } from "./rate-limit.js";
import type { Asked } from "./request-reader.js";

/** What the policy looks at in a command. */
export type Wanted = Pick<Asked, "target" | "command" | "args" | "sealed" | "dryRun">;

/** An atSign that an `[[allow]]` names. */
export interface Caller {
  readonly atSign: AtSign;
  /** Plain AtRpc, neither sealed nor signed, is taken from this one. */
  readonly unsigned: boolean;
  /** Whether some entry names the command, whatever its conditions. */
  readonly allows: (wanted: Pick<Wanted, "target" | "command" | "sealed">) => boolean;
  /** Arguments, hours and rate; counts the command unless it is a dry run. @throws {CommandRejected} */
  readonly admit: (wanted: Wanted, nowMs: number) => void;
}

/** The device's own target. No `*` reaches it: power over the agent itself is given by name. */
export const AGENT_TARGET = "agent";
/** To give up one's own command needs no permission beyond that to send it. */
export const CANCEL = "cancel";
/** Whom the rules of the configuration act as; without `@`, so no atSign can be it. */
export const RULES = "rules" as AtSign;

interface Entry {
  readonly config: AllowConfig;
  readonly isFor: (atSign: string) => boolean;
  readonly names: (wanted: Pick<Wanted, "target" | "command" | "sealed">) => boolean;
  readonly isOpen: (nowMs: number) => boolean;
  readonly rate: RateLimit | undefined;
}

export interface PolicyOptions {
  readonly device: string;
  readonly clock: Pick<Clock, "monotonicMs">;
}

/** Deny by default: who is not named is a stranger, and what no entry of the caller fits is not allowed. */
export class Policy {
  readonly #options: PolicyOptions;
  readonly #entries: readonly Entry[];

  /** @param before whose counts of commands go on where an entry is the same. */
  constructor(allow: readonly AllowConfig[], options: PolicyOptions, before?: Policy) {
    this.#options = options;
    this.#entries = allow.map((config) => {
      const same = before && before.#entries.find((entry) => isDeepStrictEqual(entry.config, config));
      return entryOf(config, options, same?.rate);
    });
  }

  /** @param atSign canonical. */
  callerOf(atSign: AtSign): Caller | undefined {
    const entries = this.#entries.filter((entry) => entry.isFor(atSign));
    if (entries.length === 0) return undefined;
    return {
      atSign,
      unsigned: entries.some(({ config }) => config.unsigned),
      allows: (wanted) => isCancel(wanted) || entries.some((entry) => entry.names(wanted)),
      admit: (wanted, nowMs) => admit(entries, atSign, wanted, nowMs),
    };
  }

  /** The entries as they are configured, for people; `applies` tells whether one is for this device. */
  show(): readonly (AllowConfig & { readonly applies: boolean })[] {
    return this.#entries.map(({ config }) => ({ ...config, applies: isForDevice(config, this.#options.device) }));
  }
}

function admit(entries: readonly Entry[], atSign: AtSign, wanted: Wanted, nowMs: number): void {
  if (isCancel(wanted)) return;
  let refusal: CommandRejected | undefined;
  for (const entry of entries) {
    if (!entry.names(wanted)) continue;
    const why = fault(entry, atSign, wanted, nowMs);
    if (!why) return;
    refusal ??= why;
  }
  throw refusal ?? new CommandRejected("not-allowed", `${wanted.target}/${wanted.command} is not allowed to ${atSign}`);
}

function fault(entry: Entry, atSign: AtSign, { args, dryRun }: Wanted, nowMs: number): CommandRejected | undefined {
  const { config, rate, isOpen } = entry;
  for (const [name, limits] of Object.entries(config.args ?? {})) {
    const why = argumentFault(Object.hasOwn(args, name) ? args[name] : undefined, limits);
    if (why !== undefined)
      return new CommandRejected("not-allowed", `${name}: the policy of this device asks for ${why}`);
  }
  if (!isOpen(nowMs)) {
    const hours = `${config.hours?.join(", ") ?? ""} (${config.timeZone})`;
    return new CommandRejected("not-now", `allowed at ${hours} only`);
  }
  if (rate && !(dryRun ? rate.hasRoom(atSign) : rate.take(atSign)))
    return new CommandRejected("too-often", `at most ${config.rate?.max} in ${config.rate?.perMs} ms are allowed`);
  return undefined;
}

type ArgumentLimits = NonNullable<AllowConfig["args"]>[string];

/** What is asked for instead, or `undefined` when the value is within the limits. */
function argumentFault(value: unknown, limits: ArgumentLimits): string | undefined {
  const { min, max, pattern, required } = limits;
  if (value === undefined) return required ? "a value" : undefined;
  const isNumber = typeof value === "number";
  if (min !== undefined && !(isNumber && value >= min)) return `at least ${min}`;
  if (max !== undefined && !(isNumber && value <= max)) return `at most ${max}`;
  if (limits.enum && !limits.enum.some((one) => one === value))
    return `one of ${limits.enum.map((one) => JSON.stringify(one)).join(", ")}`;
  if (pattern !== undefined && !(typeof value === "string" && new RegExp(`^(?:${pattern})$`, "u").test(value)))
    return `a text that fits ${pattern}`;
  return undefined;
}

function entryOf(config: AllowConfig, { device, clock }: PolicyOptions, rate: RateLimit | undefined): Entry {
  const applies = isForDevice(config, device);
  const patterns = config.commands.map((pattern) => {
    const [target = "", command = ""] = pattern.split("/");
    const [fitsTarget, fitsCommand] = [globOf(target), globOf(command)];
    return (wanted: Pick<Wanted, "target" | "command">) =>
      (wanted.target === AGENT_TARGET ? target === AGENT_TARGET : fitsTarget(wanted.target)) &&
      fitsCommand(wanted.command);
  });
  return {
    config,
    isFor: globOf(config.atsign),
    names: (wanted) => applies && (wanted.sealed || config.unsigned) && patterns.some((fits) => fits(wanted)),
    isOpen: config.hours ? withinHours(config.hours, config.timeZone) : () => true,
    rate: rate ?? (config.rate && new RateLimit({ clock, ...config.rate })),
  };
}

const isForDevice = ({ devices }: AllowConfig, device: string): boolean =>
  devices === undefined || devices.some((pattern) => globOf(pattern)(device));

const isCancel = ({ target, command }: Pick<Wanted, "target" | "command">): boolean =>
  target === AGENT_TARGET && command === CANCEL;
