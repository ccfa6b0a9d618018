import type { Comparison, Rule } from "./grammar.js";

/** Where a rule stands. A value; times by the monotonic clock. */
export interface RuleState {
  /** Since when `when` has held without a break; `undefined`: it does not hold. */
  readonly sinceMs: number | undefined;
  /** When the reading was last seen. */
  readonly seenMs: number;
  /** It has fired, and what lets it fire again has not been seen yet. */
  readonly fired: boolean;
}

export const AT_REST: RuleState = { sinceMs: undefined, seenMs: -Infinity, fired: false };

type Value = number | boolean | string;

export function holds({ operator, value: limit }: Comparison, value: Value): boolean {
  if (operator === "==") return value === limit;
  if (operator === "!=") return value !== limit;
  if (typeof value !== "number" || typeof limit !== "number") return false;
  switch (operator) {
    case ">":
      return value > limit;
    case ">=":
      return value >= limit;
    case "<":
      return value < limit;
    case "<=":
      return value <= limit;
  }
}

/** Takes a reading. A pause of more than `staleMs` before it breaks what has held so far. */
export function seen(rule: Rule, state: RuleState, value: Value, nowMs: number, staleMs: number): RuleState {
  const { when, until } = rule;
  const isHolding = holds(when, value);
  const isFresh = nowMs - state.seenMs <= staleMs;
  return {
    sinceMs: isHolding ? ((isFresh ? state.sinceMs : undefined) ?? nowMs) : undefined,
    seenMs: nowMs,
    fired: state.fired && !(until ? holds(until, value) : !isHolding),
  };
}

/** When the rule is due to fire if nothing else is seen, or `undefined`: never. */
export function dueMs({ forMs }: Rule, { sinceMs, fired, seenMs }: RuleState, staleMs: number): number | undefined {
  if (sinceMs === undefined || fired) return undefined;
  const due = sinceMs + forMs;
  return due <= seenMs + staleMs ? due : undefined;
}
