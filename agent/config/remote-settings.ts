import { readFile } from "node:fs/promises";
import { join } from "node:path";
import * as v from "valibot";
import { replaceSecretFile } from "../../atplatform/crypto/at-keys-file.js";
import type { Clock } from "../../core/clock.js";
import { codeOf } from "../../core/errors.js";
import type { Log } from "../../core/log.js";
import { atStep } from "../../core/steps.js";
import { Wake } from "../uplink/wake.js";
import type { Settings } from "./settings.js";

/** Settings that go back by themselves unless somebody keeps them in time. */
export interface Trial {
  readonly by: string;
  /** What held before. */
  readonly before: Settings;
  readonly withinMs: number;
  /** The end by the machine's monotonic clock, in the boot that it began in. */
  readonly boot: string;
  readonly untilMonotonicMs: number;
  /** The end by the calendar, for another boot; `null` when the time was not known. */
  readonly untilMs: number | null;
  /** Starts of the agent since. */
  readonly starts: number;
}

export interface SettingsTime {
  readonly boot: string;
  /** Of the machine: goes on whichever process asks. */
  monotonicMs(): number;
  now(): number | undefined;
}

/** An agent that has started so often with settings on trial does not live well with them. */
const MAX_STARTS = 3;
const FILE = "remote-settings.json";

const settingValues = v.record(v.string(), v.union([v.number(), v.boolean(), v.string()]));
const fileSchema = v.object({
  set: settingValues,
  disabled: v.array(v.string()),
  trial: v.nullable(
    v.object({
      ...{ by: v.string(), before: settingValues, withinMs: v.number(), boot: v.string() },
      ...{ untilMonotonicMs: v.number(), untilMs: v.nullable(v.number()), starts: v.number() },
    }),
  ),
});
type State = v.InferOutput<typeof fileSchema>;
const NOTHING: State = { set: {}, disabled: [], trial: null };

/**
 * What operators have set from afar, in the state folder: the configuration file itself is the machine owner's. Every
 * change is on the disk before it takes effect, the trial and its countdown too.
 */
export class RemoteSettings {
  readonly #path: string;
  readonly #time: SettingsTime;
  readonly #log: Log;
  readonly #wake = new Wake();
  #state: State;

  private constructor(path: string, time: SettingsTime, log: Log, state: State) {
    this.#path = path;
    this.#time = time;
    this.#log = log;
    this.#state = state;
  }

  /** To be called at a start of the agent, which counts: settings on trial whose time is over are gone then. */
  static async open(stateDir: string, time: SettingsTime, log: Log): Promise<RemoteSettings> {
    const path = join(stateDir, FILE);
    const settings = new RemoteSettings(path, time, log, await readState(path, log));
    const { trial } = settings.#state;
    if (!trial) return settings;
    const starts = trial.starts + 1;
    if (starts > MAX_STARTS || (settings.leftMs ?? 0) <= 0) await settings.rollBack();
    else await settings.#keepWhenPossible({ ...settings.#state, trial: { ...trial, starts } });
    return settings;
  }

  get set(): Settings {
    return this.#state.set;
  }

  get disabled(): ReadonlySet<string> {
    return new Set(this.#state.disabled);
  }

  get trial(): Trial | undefined {
    return this.#state.trial ?? undefined;
  }

  /** Until the settings on trial go back, milliseconds; `undefined` when there are none. */
  get leftMs(): number | undefined {
    const { trial } = this.#state;
    if (!trial) return undefined;
    if (trial.boot === this.#time.boot) return trial.untilMonotonicMs - this.#time.monotonicMs();
    const nowMs = this.#time.now();
    // A reboot without a clock: the whole time once more, but for a bounded number of starts.
    return nowMs === undefined || trial.untilMs === null
      ? trial.withinMs
      : Math.min(trial.withinMs, trial.untilMs - nowMs);
  }

  /** Resolves when it is on the disk. @throws what the disk throws. */
  async begin(set: Settings, by: string, withinMs: number): Promise<void> {
    const nowMs = this.#time.now();
    const trial: Trial = {
      ...{ by, before: this.set, withinMs, boot: this.#time.boot, starts: 0 },
      untilMonotonicMs: this.#time.monotonicMs() + withinMs,
      untilMs: nowMs === undefined ? null : nowMs + withinMs,
    };
    await this.#keep({ ...this.#state, set: { ...set }, trial: { ...trial, before: { ...trial.before } } });
  }

  /** The settings on trial stay. */
  async keep(): Promise<void> {
    await this.#keep({ ...this.#state, trial: null });
  }

  /** The settings on trial go back; in memory they do so even when the disk fails. */
  async rollBack(): Promise<void> {
    const { trial } = this.#state;
    if (!trial) return;
    this.#log.warn({ by: trial.by, set: this.#state.set }, "nobody has kept the settings on trial: they go back");
    await this.#keepWhenPossible({ ...this.#state, set: trial.before, trial: null });
  }

  async setDisabled(id: string, isDisabled: boolean): Promise<void> {
    const others = this.#state.disabled.filter((other) => other !== id);
    await this.#keep({ ...this.#state, disabled: isDisabled ? [...others, id] : others });
  }

  /** Calls `onBack` after settings on trial have gone back, until aborted. */
  async run(onBack: () => Promise<void>, clock: Clock, signal: AbortSignal): Promise<void> {
    for (;;) {
      await this.#wake.wait(this.leftMs === undefined ? undefined : Math.max(1, this.leftMs), clock, signal);
      if (this.leftMs === undefined || this.leftMs > 0) continue;
      await this.rollBack();
      await onBack();
    }
  }

  async #keep(state: State): Promise<void> {
    await atStep("config.keep", () => replaceSecretFile(this.#path, JSON.stringify(state)));
    this.#state = state;
    this.#wake.wake();
  }

  async #keepWhenPossible(state: State): Promise<void> {
    this.#state = state;
    await this.#keep(state).catch((error: unknown) => {
      if (codeOf(error) === undefined) throw error;
      this.#log.error({ err: error }, "remote settings cannot be kept");
    });
  }
}

async function readState(path: string, log: Log): Promise<State> {
  try {
    return v.parse(fileSchema, JSON.parse(await readFile(path, "utf8")));
  } catch (error) {
    if (codeOf(error) !== "ENOENT")
      log.error({ err: error, path }, "remote settings cannot be read: none are in effect");
    return NOTHING;
  }
}
