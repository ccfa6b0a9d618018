import type { AgentConfig } from "../config/parse.js";
import type { LocalControl } from "../local-control.js";
import { loadAgentKeys } from "./agent-keys.js";
import { checkEnrollment, type EnrollmentCheckOptions } from "./manager-keys.js";
import type { AtClient } from "../../atplatform/client/at-client.js";

export interface UseKeysOptions extends EnrollmentCheckOptions {
  readonly config: AgentConfig;
  readonly client: AtClient;
}

/** `use-keys`: the key file was replaced, and the agent goes on with what it is now. Gives `{enrollmentId}`. */
export function addUseKeys(control: Pick<LocalControl, "add">, options: UseKeysOptions): void {
  const { config, client, log } = options;
  control.add("use-keys", async (_, signal) => {
    const keys = await loadAgentKeys(config);
    await client.useEnrollment(keys, signal);
    await checkEnrollment({ ...options, keys }, signal);
    log.info({ enrollmentId: keys.enrollmentId }, "the agent goes on with other keys");
    return { enrollmentId: keys.enrollmentId ?? null };
  });
}
