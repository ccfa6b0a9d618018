import { readFileSync } from "node:fs";
import type { Clock } from "../../core/clock.js";

/** What the store knows of time: a board without a battery clock boots in the past. */
export interface TimeBase {
  /** Whether {@link nowMs} can be believed. Once it can, it stays so for this boot. */
  readonly known: boolean;
  /** Milliseconds since 1970. Never goes back. */
  nowMs(): number;
  /** What the wall clock shows, by which drivers date their readings; the time unless given. */
  wallMs?(): number;
  /** This boot of the machine: 32 lower-case hex digits. */
  readonly boot: string;
  /** Milliseconds since an instant that is the same for the whole boot, whichever process asks. */
  monotonicMs(): number;
  /** Told at start what an earlier run has remembered. */
  resume?(last: LastKnown): void;
}

/** A time that is known to have passed. */
export interface LastKnown {
  /** Milliseconds since 1970; 0: nothing is known. */
  readonly ms: number;
  /** When, by the monotonic clock of which boot. */
  readonly boot?: string | undefined;
  readonly monotonicMs?: number | undefined;
}

/** No board that runs this was switched on earlier. */
const EARLIEST_MS = Date.UTC(2026, 0, 1);

/** The wall clock counts as known when it shows a time at which this program existed. */
export function systemTimeBase(clock: Clock): TimeBase {
  return {
    get known() {
      return clock.now() >= EARLIEST_MS;
    },
    nowMs: () => clock.now(),
    boot: bootId(),
    monotonicMs: machineMonotonicMs,
  };
}

/** CLOCK_MONOTONIC, which Linux counts from boot. */
export const machineMonotonicMs = (): number => Number(process.hrtime.bigint() / 1_000_000n);

export function bootId(): string {
  try {
    return readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim().replaceAll("-", "");
  } catch {
    return "0".repeat(32);
  }
}
