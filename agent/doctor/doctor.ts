import { type Clock, systemClock } from "../../core/clock.js";
import { loadConfig } from "../config/load.js";
import { ConfigInvalid, faultLine, type ParsedConfig } from "../config/parse.js";
import { bad, type Finding, ok } from "./finding.js";
import { agentAt, checkAgent, type RunningAgent } from "./running-agent.js";
import { checkDisk, checkKeys, checkLocalClock, checkPolicy, checkUser, notReached } from "./site-checks.js";

export interface DoctorOptions {
  readonly configFile: string;
  /** Asked instead of the one that runs on this machine: when it is we ourselves. */
  readonly agent?: RunningAgent;
  /** Without the checks that connect to somebody. */
  readonly offline?: boolean;
  readonly clock?: Clock;
}

/**
 * Looks at everything that has to be right for a device to work, in the order in which one thing needs the other, and
 * says of each what is wrong and what to do. It changes nothing but for a record on the atServer that expires within a
 * minute and a file in the state folder that it removes at once. No secret is in what it says.
 */
export async function* examine(
  { configFile, agent, offline = false, clock = systemClock }: DoctorOptions,
  signal: AbortSignal,
): AsyncGenerator<Finding, void> {
  let parsed: ParsedConfig;
  try {
    parsed = await loadConfig(configFile);
  } catch (error) {
    if (!(error instanceof ConfigInvalid)) throw error;
    for (const fault of error.faults)
      yield bad(
        "config",
        faultLine(fault),
        fault.path === "" ? undefined : `docs/reference/config.md; then \`atedge config check\``,
      );
    yield checkLocalClock(clock.now());
    return yield* notReached(["keys", "disk", "directory", "drivers"], "the configuration has to be right first");
  }
  const { config, warnings } = parsed;
  yield ok("config", `${configFile} is good`);
  yield await checkUser(config);
  yield* checkPolicy(config, warnings);
  const { findings, keys } = await checkKeys(config);
  yield* findings;
  yield checkLocalClock(clock.now());
  yield* await checkDisk(config);
  const running = await checkAgent(agent ?? agentAt(config.stateDir));
  yield* running.findings;
  if (!offline) {
    const { checkReach } = await import("./reach-checks.js");
    yield* checkReach({ config, keys, clock }, signal);
  }
  const { checkDrivers } = await import("./device-checks.js");
  yield* checkDrivers(config, running.isRunning, signal);
}

/** All of it at once, as one value. `state` is the worst. */
export async function doctorReport(
  options: DoctorOptions,
  signal: AbortSignal,
): Promise<{ readonly state: Finding["state"]; readonly findings: readonly Finding[] }> {
  const findings: Finding[] = [];
  for await (const finding of examine(options, signal)) findings.push(finding);
  return { state: worstOf(findings), findings };
}

export function worstOf(findings: readonly Finding[]): Finding["state"] {
  return (["bad", "warn"] as const).find((worst) => findings.some(({ state }) => state === worst)) ?? "ok";
}
