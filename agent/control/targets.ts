import type { CommandDescription } from "../../core/driver.js";
import type { DriverSupervisor } from "../../drivers/supervisor.js";
import type { JsonObject } from "../../messages/json-field.js";
import { AGENT_TARGET } from "./policy.js";

/** Who asks, and by what id. */
export interface AskedBy {
  readonly caller: string;
  readonly id: string;
}

export interface TargetCommand extends CommandDescription {
  /** It only tells something: it runs beside others, and the ledger does not keep its result, which may be large. */
  readonly reads?: boolean;
}

/** What commands can be sent to: the drivers, and the agent itself. */
export interface CommandTargets {
  /** `undefined` when there is no such target. */
  commandsOf(target: string): readonly TargetCommand[] | undefined;
  isUp(target: string): boolean;
  /** @throws {CommandRefused} when nothing was done, {CommandUncertain} when something may have been. */
  call(target: string, command: string, args: JsonObject, by: AskedBy, signal: AbortSignal): Promise<unknown>;
}

/** The agent as a target. */
export interface AgentTarget {
  readonly commands: readonly TargetCommand[];
  call(command: string, args: JsonObject, by: AskedBy, signal: AbortSignal): Promise<unknown>;
}

export function targetsOf(
  drivers: Pick<DriverSupervisor, "call" | "commands" | "health">,
  agent?: AgentTarget,
): CommandTargets {
  const isAgent = (target: string): boolean => target === AGENT_TARGET && agent !== undefined;
  return {
    commandsOf: (target) =>
      isAgent(target) ? agent?.commands : drivers.commands().find((driver) => driver.target === target)?.commands,
    isUp: (target) => isAgent(target) || drivers.health().some(({ id, state }) => id === target && state === "running"),
    call: (target, command, args, by, signal) =>
      agent && isAgent(target) ? agent.call(command, args, by, signal) : drivers.call(target, command, args, signal),
  };
}
