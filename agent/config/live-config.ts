import { EdgeError } from "../../core/errors.js";
import type { Log } from "../../core/log.js";
import type { PartStatus } from "../health/health.js";
import { changedPaths } from "./changes.js";
import { type AgentConfig, ConfigInvalid, faultLine, type ParsedConfig } from "./parse.js";

/** What takes effect while the agent runs; all else waits for a restart. */
const LIVE = new Set(["driver", "allow", "rule", "logLevel"]);

export interface LiveConfigOptions {
  readonly config: AgentConfig;
  readonly load: () => Promise<ParsedConfig>;
  /** Puts the live sections of a checked configuration into effect. */
  readonly apply: (config: AgentConfig) => Promise<void>;
  readonly onChange?: (change: ConfigChange) => void;
  readonly log: Log;
}

export interface ConfigChange {
  /** Who asked: `SIGHUP`, or an atSign. */
  readonly by: string;
  /** Paths, without values. */
  readonly changed: readonly string[];
  /** Those that differ from what the agent was started with and take effect at its next start. */
  readonly atRestart: readonly string[];
}

/** The configuration in effect. It can be read anew while the agent runs; one with faults changes nothing. */
export class LiveConfig {
  readonly #options: LiveConfigOptions;
  #config: AgentConfig;
  #code: string | undefined;
  #atRestart: readonly string[] = [];
  #reloading: Promise<unknown> = Promise.resolve();

  constructor(options: LiveConfigOptions) {
    this.#options = options;
    this.#config = options.config;
  }

  get config(): AgentConfig {
    return this.#config;
  }

  /** Paths that differ from what the agent was started with and wait for its next start. */
  get atRestart(): readonly string[] {
    return this.#atRestart;
  }

  /** Puts the same configuration into effect once more, when what stands beside it has changed. */
  applyAgain(): Promise<void> {
    const done = this.#reloading.then(() => this.#options.apply(this.#config));
    this.#reloading = done.catch(() => undefined); // whoever asked is told
    return done;
  }

  health(): PartStatus[] {
    const code = this.#code ?? (this.#atRestart.length > 0 ? "RESTART_NEEDED" : undefined);
    return [{ name: "config", state: code === undefined ? "ok" : "degraded", code }];
  }

  /** Reads the configuration anew. @throws {ConfigInvalid}: the one before stays in effect. */
  reload(by: string): Promise<ConfigChange> {
    const done = this.#reloading.then(() => this.#reload(by));
    this.#reloading = done.catch(() => undefined); // whoever asked is told
    return done;
  }

  async #reload(by: string): Promise<ConfigChange> {
    const { load, apply, onChange, log } = this.#options;
    let next: ParsedConfig;
    try {
      next = await load();
    } catch (error) {
      if (!(error instanceof EdgeError)) throw error;
      this.#code = error.code;
      const faults = error instanceof ConfigInvalid ? error.faults.map(faultLine) : [error.message];
      log.error({ by, faults }, "the new configuration has faults: the one before stays in effect");
      throw error;
    }
    for (const warning of next.warnings)
      log.warn({ fault: faultLine(warning) }, "the configuration may not be what was meant");
    const isLive = (path: string): boolean => LIVE.has(path.split(".", 1)[0] ?? "");
    const changed = changedPaths(this.#config, next.config);
    this.#code = undefined;
    this.#config = next.config;
    this.#atRestart = changedPaths(this.#options.config, next.config).filter((path) => !isLive(path));
    await apply(next.config);
    const change = { by, changed, atRestart: this.#atRestart };
    onChange?.(change);
    log.info({ by, changed }, "configuration read anew");
    if (this.#atRestart.length > 0) log.warn({ paths: this.#atRestart }, "these changes take effect at the next start");
    return change;
  }
}
