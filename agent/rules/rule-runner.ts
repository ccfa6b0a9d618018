import { readFile } from "node:fs/promises";
import { join } from "node:path";
import * as v from "valibot";
import { replaceSecretFile } from "../../atplatform/crypto/at-keys-file.js";
import type { Clock } from "../../core/clock.js";
import type { Reading } from "../../core/driver.js";
import { codeOf } from "../../core/errors.js";
import type { Log } from "../../core/log.js";
import { TaskGroup } from "../../core/scope.js";
import { atStep } from "../../core/steps.js";
import { CommandRejected } from "../../messages/command.js";
import type { Audit } from "../audit/audit-log.js";
import type { RuleConfig } from "../config/schema.js";
import type { Outcome } from "../control/ledger.js";
import { RULES } from "../control/policy.js";
import type { Asked } from "../control/request-reader.js";
import type { PartStatus } from "../health/health.js";
import { Wake } from "../uplink/wake.js";
import { AT_REST, dueMs, type RuleState, seen } from "./evaluate.js";
import { parseRule, type Rule } from "./grammar.js";

export interface RuleRunnerOptions {
  readonly rules: readonly RuleConfig[];
  readonly stateDir: string;
  /** By policy, ledger and driver. @throws {CommandRejected} when it was not begun. */
  readonly command: (asked: Asked, signal: AbortSignal) => Promise<Outcome | undefined>;
  readonly audit: Audit;
  readonly clock: Clock;
  readonly log: Log;
}

interface ActiveRule {
  readonly config: RuleConfig;
  readonly rule: Rule;
  state: RuleState;
  value: Reading["value"] | undefined;
  /** Not before this, after a command that could not be begun. */
  retryMs: number;
  isFiring: boolean;
}

/** What must outlive the agent: a rule that has fired does not fire again because the agent was started again. */
const fileSchema = v.record(v.string(), v.object({ fired: v.boolean(), count: v.number() }));
type Kept = v.InferOutput<typeof fileSchema>;

const FILE = "rules.json";
const RETRY_MS = 30_000;
/** For the ledger; nobody sends a rule's command late. */
const LIFE_MS = 60_000;

/** Watches the readings for the rules of the configuration, and gives their commands. */
export class RuleRunner {
  readonly #options: RuleRunnerOptions;
  readonly #wake = new Wake();
  #rules: readonly ActiveRule[] = [];
  #kept: Kept = {};
  #fired = 0;
  #code: string | undefined;
  #writing: Promise<void> = Promise.resolve();

  constructor(options: RuleRunnerOptions) {
    this.#options = options;
    this.configure(options.rules);
  }

  /** Takes other rules; one that is the same goes on where it stands. */
  configure(rules: readonly RuleConfig[]): void {
    this.#rules = rules.map((config) => {
      const known = this.#rules.find((old) => old.config.name === config.name && old.config.rule === config.rule);
      const fresh = { state: this.#resting(config.name), value: undefined, retryMs: -Infinity, isFiring: false };
      return Object.assign(known ?? fresh, { config, rule: parseRule(config.rule) });
    });
  }

  health(): PartStatus[] {
    if (this.#rules.length === 0) return [];
    const counters = { rules: this.#rules.length, fired: this.#fired };
    return [{ name: "rules", state: this.#code === undefined ? "ok" : "degraded", code: this.#code, counters }];
  }

  /** Looks at readings; one that was taken too long ago says nothing about now. */
  take(readings: readonly Reading[]): void {
    if (this.#rules.length === 0) return;
    const { clock } = this.#options;
    const nowMs = clock.monotonicMs();
    for (const { name, value, timeMs } of readings) {
      for (const active of this.#rules) {
        const { rule, config, state } = active;
        if (rule.reading !== name) continue;
        if (timeMs !== undefined && clock.now() - timeMs > config.staleMs) continue;
        const before = this.#dueMs(active);
        active.state = seen(rule, state, value, nowMs, config.staleMs);
        active.value = value;
        if (state.fired && !active.state.fired) this.#keep(active);
        if (this.#dueMs(active) !== before) this.#wake.wake();
      }
    }
  }

  /** Fires what is due, until aborted. */
  async run(signal: AbortSignal): Promise<void> {
    await this.#load();
    await using group = new TaskGroup(signal);
    const { clock } = this.#options;
    while (!group.signal.aborted) {
      const due = this.#rules.map((active) => this.#dueMs(active)).filter((ms) => ms !== undefined);
      const waitMs = due.length === 0 ? undefined : Math.max(0, Math.min(...due) - clock.monotonicMs());
      await this.#wake.wait(waitMs, clock, group.signal).catch(() => undefined); // aborted: the loop ends
      for (const active of this.#rules) {
        const ms = this.#dueMs(active);
        // One rule's slow driver holds up no other rule.
        if (ms !== undefined && ms <= clock.monotonicMs()) group.start((inner) => this.#fire(active, inner));
      }
    }
    await group.join();
  }

  #dueMs({ rule, state, config, retryMs, isFiring }: ActiveRule): number | undefined {
    const due = isFiring ? undefined : dueMs(rule, state, config.staleMs);
    return due === undefined ? undefined : Math.max(due, retryMs);
  }

  async #fire(active: ActiveRule, signal: AbortSignal): Promise<void> {
    const { command, audit, clock, log } = this.#options;
    const { config, rule } = active;
    const { target, command: name } = rule;
    active.isFiring = true;
    active.state = { ...active.state, fired: true };
    const count = this.#countOf(config.name) + 1;
    const id = `rule.${config.name}.${count}`;
    const nowMs = clock.now();
    const asked: Asked = {
      ...{ caller: RULES, reqId: 0, id, target, command: name, args: config.args, sealed: true, dryRun: false },
      ...{ issuedAtMs: nowMs, expiresAtMs: nowMs + LIFE_MS },
    };
    try {
      log.info({ rule: config.name, value: active.value, target, command: name }, "a rule fires");
      void audit.append("rule", {
        rule: config.name,
        reading: rule.reading,
        value: active.value,
        target,
        command: name,
        id,
      });
      const outcome = await command(asked, signal);
      this.#fired += 1;
      this.#code = outcome === undefined || outcome.type === "success" ? undefined : "COMMAND_FAILED";
      await this.#write(config.name, { fired: active.state.fired, count });
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof CommandRejected)) throw error;
      // Nothing was done. As long as the condition holds, it is tried again.
      this.#code = error.reason;
      log.warn({ rule: config.name, reason: error.reason, why: error.message }, "a rule's command was refused");
      active.retryMs = clock.monotonicMs() + RETRY_MS;
      active.state = { ...active.state, fired: false };
    } finally {
      active.isFiring = false;
      this.#wake.wake();
    }
  }

  /** Resolves when what the rules have done is kept. */
  flush(): Promise<void> {
    return this.#writing;
  }

  #resting(name: string): RuleState {
    return { ...AT_REST, fired: this.#kept[name]?.fired ?? false };
  }

  /** Names a rule's commands in the ledger; without a file it begins above what earlier files can have held. */
  #countOf(name: string): number {
    const kept = this.#kept[name] ?? { fired: false, count: Math.floor(this.#options.clock.now() / 1000) };
    this.#kept = { ...this.#kept, [name]: kept };
    return kept.count;
  }

  #keep({ config, state }: ActiveRule): void {
    void this.#write(config.name, { fired: state.fired, count: this.#countOf(config.name) });
  }

  #write(name: string, kept: Kept[string]): Promise<void> {
    this.#kept = { ...this.#kept, [name]: kept };
    const text = JSON.stringify(this.#kept);
    const path = join(this.#options.stateDir, FILE);
    this.#writing = this.#writing
      .then(() => atStep("rule.keep", () => replaceSecretFile(path, text)))
      .catch((error: unknown) => {
        if (codeOf(error) === undefined) throw error;
        this.#options.log.error({ err: error }, "what the rules have done cannot be kept");
      });
    return this.#writing;
  }

  async #load(): Promise<void> {
    const path = join(this.#options.stateDir, FILE);
    try {
      this.#kept = { ...v.parse(fileSchema, JSON.parse(await readFile(path, "utf8"))), ...this.#kept };
    } catch (error) {
      if (codeOf(error) !== "ENOENT")
        this.#options.log.error({ err: error, path }, "what the rules had done is not known");
    }
    for (const active of this.#rules)
      active.state = { ...active.state, fired: active.state.fired || (this.#kept[active.config.name]?.fired ?? false) };
  }
}
