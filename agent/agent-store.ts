import type { Clock } from "../core/clock.js";
import { codeOf, EdgeError } from "../core/errors.js";
import type { Log } from "../core/log.js";
import type { AgentTime } from "./agent-time.js";
import type { AgentConfig } from "./config/parse.js";
import { openStore, type Store } from "./store/store.js";

/** The state folder cannot be used. */
export class StateDirUnusable extends EdgeError {
  override readonly code = "STATE_DIR_UNUSABLE";
}

export interface AgentStoreDeps {
  readonly clock: Clock;
  readonly time: AgentTime;
  readonly log: Log;
  readonly enrolledAnew: boolean;
}

/** The agent's store as the configuration wants it. @throws {StateDirUnusable} and what {@link openStore} throws. */
export async function openAgentStore(
  config: AgentConfig,
  { clock, time, log, enrolledAnew }: AgentStoreDeps,
): Promise<Store> {
  const { stateDir, outbox, durability, reader } = config;
  const { maxBytes, minFreeBytes, commitIntervalMs } = outbox;
  try {
    return await openStore({
      folder: stateDir,
      readers: reader.map(({ atsign }) => atsign),
      clock,
      time,
      log: log.child({ part: "store" }),
      space: { maxBytes, minFreeBytes },
      durability,
      commitIntervalMs,
      enrolledAnew,
    });
  } catch (cause) {
    const code = codeOf(cause);
    if (cause instanceof EdgeError || code === undefined) throw cause;
    throw new StateDirUnusable(
      `the state folder ${stateDir} cannot be used (${code}): make it writable for this user, or name another with stateDir`,
      { cause },
    );
  }
}
