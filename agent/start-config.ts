import type { AgentTime } from "./agent-time.js";
import { loadConfig } from "./config/load.js";
import { type AgentConfig, ConfigInvalid, faultLine, type ParsedConfig } from "./config/parse.js";
import { RemoteSettings } from "./config/remote-settings.js";
import { type AgentLog, openLog } from "./log.js";
import type { LogRing } from "./log-ring.js";

export interface StartConfig {
  readonly config: AgentConfig;
  readonly settings: RemoteSettings;
  readonly log: AgentLog;
  /** The file and the remote settings as they are then. @throws {ConfigInvalid} */
  readonly load: () => Promise<ParsedConfig>;
}

/**
 * The configuration that the agent starts with. Remote settings that do not fit the file any more are no reason not to
 * start: those on trial go back, others are left out, loudly.
 *
 * @throws {ConfigInvalid} when the file itself has faults.
 */
export async function startConfig(configFile: string, time: AgentTime, logs: LogRing): Promise<StartConfig> {
  const plain = await loadConfig(configFile);
  const log = openLog({ level: plain.config.logLevel, keep: (line) => logs.add(line) });
  const settings = await RemoteSettings.open(plain.config.stateDir, time, log.child({ part: "config" }));
  const load = (): Promise<ParsedConfig> => loadConfig(configFile, settings.set);
  const { config, warnings } = await load()
    .catch(async (error: unknown) => {
      if (!(error instanceof ConfigInvalid) || !settings.trial) throw error;
      await settings.rollBack();
      return load();
    })
    .catch((error: unknown) => {
      if (!(error instanceof ConfigInvalid)) throw error;
      const faults = error.faults.map(faultLine);
      log.error({ faults }, "what was set remotely does not fit the file: the agent starts without it");
      return plain;
    });
  log.setLevel(config.logLevel);
  for (const warning of warnings)
    log.warn({ fault: faultLine(warning) }, "the configuration may not be what was meant");
  return { config, settings, log, load };
}
