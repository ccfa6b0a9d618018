import type { AtSign } from "../../atplatform/protocol/at-sign.js";
import type { AllowConfig } from "../config/schema.js";

/** An atSign that an `[[allow]]` names. */
export interface Caller {
  readonly atSign: AtSign;
  /** Plain AtRpc, neither sealed nor signed, is taken from this one. */
  readonly unsigned: boolean;
  readonly allows: (target: string, command: string) => boolean;
}

/** Deny by default: who is not named is a stranger, and what no pattern of the caller fits is not allowed. */
export class Policy {
  readonly #callers: ReadonlyMap<string, Caller>;

  constructor(allow: readonly AllowConfig[]) {
    this.#callers = new Map(allow.map((entry) => [entry.atsign, callerOf(entry)]));
  }

  /** @param atSign canonical; names are compared exactly. */
  callerOf(atSign: AtSign): Caller | undefined {
    return this.#callers.get(atSign);
  }
}

function callerOf({ atsign, unsigned, commands }: AllowConfig): Caller {
  const patterns = commands.map((pattern) => pattern.split("/"));
  return {
    atSign: atsign,
    unsigned,
    allows: (target, command) => patterns.some(([t, c]) => (t === "*" || t === target) && (c === "*" || c === command)),
  };
}
