import type { Clock } from "../../core/clock.js";
import type { Reading } from "../../core/driver.js";
import type { ChannelConfig } from "../config/data-sections.js";
import { globOf } from "../control/glob.js";
import { Aggregate } from "./aggregate.js";

export interface ReductionOptions {
  readonly channels: readonly ChannelConfig[];
  readonly publish: (readings: readonly Reading[]) => Promise<void>;
  /** Sees every reading, converted and before any is left out. */
  readonly seen?: (readings: readonly Reading[]) => void;
  readonly clock: Clock;
}

interface Channel {
  readonly config: ChannelConfig;
  /** What was published last; `undefined` when it is not known to have been taken. */
  last: { readonly value: Reading["value"]; readonly atMs: number } | undefined;
  window: Aggregate | undefined;
}

/** Names come from outside, from topics above all: the channel that was silent longest is forgotten. */
const MAX_CHANNELS = 4096;

/**
 * Makes fewer readings of many, before any is accepted: a reading that is left out here was never in the outbox, and the
 * info record tells the readers by which rules. Nothing of it is kept on the disk. After a restart the first value of each
 * channel is taken; a window that was open is published when the agent ends in order, and begins anew after a crash.
 */
export class Reduction {
  readonly #options: ReductionOptions;
  readonly #rules: readonly { readonly fits: (name: string) => boolean; readonly config: ChannelConfig }[];
  /** By name; `undefined`: no rule fits. */
  readonly #channels = new Map<string, Channel | undefined>();
  #ended = false;
  readonly #counters = { taken: 0, leftOut: 0, clamped: 0, windows: 0 };

  constructor(options: ReductionOptions) {
    this.#options = options;
    this.#rules = options.channels.map((config) => ({ fits: globOf(config.name), config }));
  }

  /** Readings that a rule was for: how many came, were left out or clamped, and the windows that were published. */
  get counters(): Readonly<Record<string, number>> {
    return this.#counters;
  }

  /**
   * Resolves when what is left of the readings is in the outbox. Those of an open window are in memory until its end.
   *
   * @throws what `publish` throws; then the next value of the channels counts as the first.
   */
  async publish(readings: readonly Reading[]): Promise<void> {
    if (this.#rules.length === 0) {
      this.#options.seen?.(readings);
      return this.#options.publish(readings);
    }
    const kept = readings.flatMap((reading) => this.#reduce(reading));
    if (kept.length === 0) return;
    try {
      await this.#options.publish(kept);
    } catch (error) {
      for (const { name } of kept) this.#forget(name);
      throw error;
    }
  }

  /** Publishes windows at their end, until `signal` aborts, and then those that are open. */
  async run(signal: AbortSignal): Promise<void> {
    const { clock } = this.#options;
    if (!this.#rules.some(({ config }) => config.windowMs !== undefined)) return;
    while (!this.#ended) {
      await clock.sleep(LOOK_EVERY_MS, signal).catch(() => undefined);
      this.#ended = signal.aborted;
      await this.#publishWindows(this.#ended ? Infinity : clock.monotonicMs());
    }
  }

  #reduce(reading: Reading): readonly Reading[] {
    const { name, value } = reading;
    const isMeasurement = (reading.class ?? "measurement") === "measurement";
    const channel = isMeasurement ? this.#channelOf(name) : undefined;
    if (!channel || typeof value !== "number") this.#options.seen?.([reading]);
    if (!channel) return [reading];
    this.#counters.taken += 1;
    if (typeof value !== "number") return this.#isNews(channel, value) ? [reading] : [];
    const converted = this.#convert(reading, value, channel.config);
    this.#options.seen?.([converted]);
    const { windowMs } = channel.config;
    if (windowMs === undefined) return this.#isNews(channel, converted.value) ? [converted] : [];
    const { clock } = this.#options;
    const window = channel.window ?? new Aggregate(converted, clock.monotonicMs() + windowMs);
    window.add(converted, converted.value, reading.timeMs ?? clock.now());
    if (this.#ended) return window.readings(); // nobody would publish it
    channel.window = window;
    return [];
  }

  #convert(reading: Reading, raw: number, config: ChannelConfig): Reading & { readonly value: number } {
    const { scale = 1, offset = 0, unit = reading.unit, clampMin = -Infinity, clampMax = Infinity } = config;
    const value = raw * scale + offset;
    const clamped = Math.min(Math.max(value, clampMin), clampMax);
    if (clamped !== value) this.#counters.clamped += 1;
    return { ...reading, value: clamped, ...(unit !== undefined && { unit }) };
  }

  #isNews(channel: Channel, value: Reading["value"]): boolean {
    const { deadband, minIntervalMs = 0, maxIntervalMs = Infinity } = channel.config;
    const { last } = channel;
    const nowMs = this.#options.clock.monotonicMs();
    const ageMs = last === undefined ? Infinity : nowMs - last.atMs;
    const isNews =
      last === undefined ||
      (ageMs >= minIntervalMs && (ageMs >= maxIntervalMs || differs(last.value, value, deadband)));
    if (isNews) channel.last = { value, atMs: nowMs };
    else this.#counters.leftOut += 1;
    return isNews;
  }

  async #publishWindows(untilMs: number): Promise<void> {
    const due = [...this.#channels.values()].filter((channel) => (channel?.window?.endsMs ?? Infinity) <= untilMs);
    const windows = due.flatMap((channel) => channel?.window ?? []);
    for (const channel of due) if (channel) channel.window = undefined;
    if (windows.length === 0) return;
    this.#counters.windows += windows.length;
    // One call each: what the outbox refuses of one must not cost the others. It counts as refused there.
    await Promise.allSettled(windows.map((window) => this.#options.publish(window.readings())));
  }

  #channelOf(name: string): Channel | undefined {
    if (this.#channels.has(name)) return this.#channels.get(name);
    const config = this.#rules.find(({ fits }) => fits(name))?.config;
    const channel = config && { config, last: undefined, window: undefined };
    this.#channels.set(name, channel);
    if (this.#channels.size > MAX_CHANNELS) {
      const oldest = [...this.#channels].find(([, known]) => !known?.window); // values in no outbox are kept
      this.#channels.delete(oldest?.[0] ?? name);
    }
    return channel;
  }

  #forget(name: string): void {
    const channel = this.#channels.get(name);
    if (channel) channel.last = undefined;
  }
}

const LOOK_EVERY_MS = 250;

function differs(last: Reading["value"], value: Reading["value"], deadband: number | undefined): boolean {
  if (deadband === undefined) return true;
  return typeof last === "number" && typeof value === "number" ? Math.abs(value - last) > deadband : value !== last;
}
