import { existsSync, readdirSync } from "node:fs";
import type { Clock } from "../core/clock.js";
import type { LastKnown, TimeBase } from "./store/time-base.js";
import { bootId, machineMonotonicMs } from "./store/time-base.js";

/** What the machine says of its wall clock. */
export type ClockTrust = "synchronised" | "unsynchronised" | "unknown";

export interface AgentTimeOptions {
  readonly clock: Pick<Clock, "now" | "monotonicMs">;
  /** Asked again until the time is known. */
  readonly trust?: () => ClockTrust;
  readonly boot?: string;
  /** As {@link TimeBase.monotonicMs}. */
  readonly machineMonotonicMs?: () => number;
  /** No board that runs this was switched on earlier. */
  readonly earliestMs?: number;
}

/** What an atServer's clock showed at an instant between two of ours, milliseconds since 1970. */
export interface ServerClock {
  readonly shownMs: number;
  /** By our monotonic clock. Left out: any time before now, as with a notification that came. */
  readonly askedMs?: number;
  /** Now unless given. */
  readonly answeredMs?: number;
}

export interface ClockHealth {
  readonly known: boolean;
  readonly code: ClockCode | undefined;
  /** Our time without the wall clock's, milliseconds. */
  readonly wallBehindMs: number;
  /** Bounds of the atServer's clock without ours; `undefined`: not known. */
  readonly serverAheadFromMs: number | undefined;
  readonly serverAheadToMs: number | undefined;
}

export type ClockCode =
  /** Nobody has told us the time in this boot: readings wait for their dates, commands are refused. */
  | "CLOCK_UNKNOWN"
  /** The wall clock was set back, or is behind what is known to have passed. */
  | "CLOCK_BEHIND"
  /** The wall clock has jumped ahead, and nobody has confirmed it. */
  | "CLOCK_AHEAD"
  /** What we once took for the time is ahead of the atServer's clock. */
  | "TIME_AHEAD_OF_SERVER";

/** NTP corrects so much in one step, or a clock drifts so far; more than that has to be confirmed. */
const MAX_STEP_MS = 600_000;
/** A clock that is off by more is worth a word. */
const TOLERATED_MS = 60_000;

/**
 * The time of the whole agent: the later of the wall clock, as far as it can be believed, and of the atServer's clock,
 * and never earlier than what was known to have passed. It runs on by the monotonic clock whatever happens to the wall
 * clock, so a clock that is set back makes no old command young and no old reading new, and one that jumps ahead expires
 * nothing.
 */
export class AgentTime implements TimeBase {
  readonly boot: string;
  readonly #clock: AgentTimeOptions["clock"];
  readonly #trust: () => ClockTrust;
  readonly #machineMonotonicMs: () => number;
  readonly #earliestMs: number;
  #known = false;
  /** What has passed for sure, and when by the monotonic clock that was known. */
  #passedMs = 0;
  #atMs: number;
  /** The atServer's clock is at least and at most so much ahead of our monotonic clock. */
  #serverFromMs: number | undefined;
  #serverToMs: number | undefined;

  constructor(options: AgentTimeOptions) {
    this.#clock = options.clock;
    this.#trust = options.trust ?? clockTrust;
    this.boot = options.boot ?? bootId();
    this.#machineMonotonicMs = options.machineMonotonicMs ?? machineMonotonicMs;
    this.#earliestMs = options.earliestMs ?? Date.UTC(2026, 0, 1);
    this.#atMs = this.#clock.monotonicMs();
  }

  get known(): boolean {
    this.nowMs();
    return this.#known;
  }

  /** Milliseconds since 1970; `undefined` before the time is known. */
  now(): number | undefined {
    const nowMs = this.nowMs();
    return this.#known ? Math.round(nowMs) : undefined;
  }

  /** The best there is: the earliest that it can be while the time is not known. */
  nowMs(): number {
    const monotonicMs = this.#clock.monotonicMs();
    const wallMs = this.#clock.now();
    const passedMs = this.#passedMs + monotonicMs - this.#atMs;
    const believed = this.#believes(wallMs, passedMs, monotonicMs);
    if (believed && !this.#known) this.#known = true;
    this.#passedMs = believed ? Math.max(wallMs, passedMs) : passedMs;
    this.#atMs = monotonicMs;
    return this.#passedMs;
  }

  wallMs(): number {
    return this.#clock.now();
  }

  monotonicMs(): number {
    return this.#machineMonotonicMs();
  }

  /** What an earlier run knew to have passed; within one boot it is known what has passed since. */
  resume({ ms, boot, monotonicMs }: LastKnown): void {
    const isSameBoot = boot === this.boot && monotonicMs !== undefined;
    const sinceMs = isSameBoot ? Math.max(0, this.#machineMonotonicMs() - monotonicMs) : 0;
    this.#passedMs = Math.max(this.#passedMs, ms + sinceMs);
    this.#atMs = this.#clock.monotonicMs();
    this.#known ||= isSameBoot && ms >= this.#earliestMs;
  }

  /** The atServer's clock was seen: by a notification that came, or in the answer to a question. */
  serverShowed({ shownMs, askedMs, answeredMs }: ServerClock): void {
    if (shownMs < this.#earliestMs) return;
    const monotonicMs = this.#clock.monotonicMs();
    const fromMs = shownMs - (answeredMs ?? monotonicMs);
    this.#serverFromMs = Math.max(this.#serverFromMs ?? -Infinity, fromMs);
    if (askedMs !== undefined) {
      this.#serverToMs = Math.min(this.#serverToMs ?? Infinity, shownMs - askedMs);
      // The atServer's own clock was set: the latest look counts.
      if (this.#serverToMs < this.#serverFromMs) {
        this.#serverFromMs = fromMs;
        this.#serverToMs = shownMs - askedMs;
      }
    }
    const passedMs = this.nowMs();
    this.#passedMs = Math.max(passedMs, this.#serverFromMs + monotonicMs);
    this.#atMs = monotonicMs;
    this.#known = true;
  }

  get health(): ClockHealth {
    const nowMs = this.nowMs();
    const wallBehindMs = Math.round(nowMs - this.#clock.now());
    const ahead = (offsetMs: number | undefined): number | undefined =>
      offsetMs === undefined ? undefined : Math.round(offsetMs + this.#atMs - nowMs);
    const serverAheadToMs = ahead(this.#serverToMs);
    const code = !this.#known
      ? "CLOCK_UNKNOWN"
      : wallBehindMs > TOLERATED_MS
        ? "CLOCK_BEHIND"
        : wallBehindMs < -TOLERATED_MS
          ? "CLOCK_AHEAD"
          : (serverAheadToMs ?? 0) < -TOLERATED_MS
            ? "TIME_AHEAD_OF_SERVER"
            : undefined;
    return { known: this.#known, code, wallBehindMs, serverAheadFromMs: ahead(this.#serverFromMs), serverAheadToMs };
  }

  /** Whether the wall clock shows the time, as far as can be told. */
  #believes(wallMs: number, passedMs: number, monotonicMs: number): boolean {
    if (wallMs < this.#earliestMs) return false;
    if (this.#isServersTime(wallMs, monotonicMs)) return true;
    if (this.#known) return wallMs - passedMs <= MAX_STEP_MS;
    return wallMs >= passedMs - MAX_STEP_MS && this.#trust() !== "unsynchronised";
  }

  #isServersTime(wallMs: number, monotonicMs: number): boolean {
    if (this.#serverFromMs === undefined) return false;
    return Math.abs(wallMs - (this.#serverFromMs + monotonicMs)) <= TOLERATED_MS;
  }
}

const TIMESYNCD = "/run/systemd/timesync";

/**
 * Where systemd-timesyncd keeps the clock and no battery does, the clock starts at the last shutdown, or at what the
 * system was built: it shows no time before it was set. Elsewhere nobody can tell.
 */
export function clockTrust(): ClockTrust {
  if (existsSync(`${TIMESYNCD}/synchronized`)) return "synchronised";
  if (!existsSync(TIMESYNCD)) return "unknown";
  return hasBattery() ? "unknown" : "unsynchronised";
}

function hasBattery(): boolean {
  try {
    return readdirSync("/sys/class/rtc").length > 0;
  } catch {
    return false;
  }
}
