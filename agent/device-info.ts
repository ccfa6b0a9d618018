import type { DriverSupervisor } from "../drivers/supervisor.js";
import { type DeviceInfo, type HealthInfo } from "../messages/info.js";
import { MAX_REQUESTS_A_CALLER } from "./control/command-desk.js";
import { MAX_RESULT_LENGTH } from "./control/command-runner.js";
import { AGENT_TARGET } from "./control/policy.js";
import type { AgentTarget } from "./control/targets.js";
import type { AgentConfig } from "./config/parse.js";
import type { AgentHealth } from "./health/health.js";
import { MAX_SIGNED_LENGTH } from "../messages/envelope.js";

export interface InfoSources {
  readonly version: string;
  readonly config: Pick<AgentConfig, "driver" | "channel" | "maxBatch" | "maxDelayMs" | "stateIntervalMs">;
  readonly drivers: Pick<DriverSupervisor, "commands">;
  readonly agent: AgentTarget;
  readonly health: AgentHealth;
}

/** What the device tells its readers about itself. */
export function deviceInfo({ version, config, drivers, agent, health }: InfoSources): Omit<DeviceInfo, "at"> {
  const { maxBatch, maxDelayMs, stateIntervalMs } = config;
  return {
    version,
    drivers: config.driver.map(({ id, type }) => ({ id, type })),
    commands: [...drivers.commands(), { target: AGENT_TARGET, commands: agent.commands }].flatMap(
      ({ target, commands }) =>
        commands.map(({ name, idempotent, argsSchema }) => ({
          target,
          command: name,
          idempotent,
          ...(argsSchema === undefined ? {} : { argsSchema }),
        })),
    ),
    limits: {
      maxBatch,
      maxDelayMs,
      stateIntervalMs,
      maxCommandLength: MAX_SIGNED_LENGTH,
      maxResultLength: MAX_RESULT_LENGTH,
      maxRequestsACaller: MAX_REQUESTS_A_CALLER,
    },
    health: healthInfo(health),
    ...(config.channel.length > 0 && { channels: config.channel }),
  };
}

function healthInfo({ state, parts }: AgentHealth): HealthInfo {
  return {
    state,
    parts: parts.map(({ name, state, sinceMs, code }) => ({
      name,
      state,
      since: Math.round(sinceMs),
      ...(code === undefined ? {} : { code }),
    })),
  };
}
