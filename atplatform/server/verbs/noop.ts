import { noop } from "../../protocol/verbs/noop.js";
import { data } from "../reply.js";
import { verb } from "../verb.js";

/** `noop` waits and answers `ok`: the heartbeat of long-lived connections. */
export const noopVerb = verb(noop, false, async ({ delayMs }, { signal }, { clock }) => {
  if (delayMs > 0) await clock.sleep(delayMs, signal);
  return data("ok");
});
