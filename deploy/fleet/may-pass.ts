import { AtServerError } from "../../atplatform/protocol/at-error.js";
import { codeOf } from "../../core/errors.js";

/** The way to an atServer, or a clock that is still behind: a board that has just booted, a platform that restarts. */
const MAY_PASS: ReadonlySet<string> = new Set([
  "CONNECT_FAILED",
  "CONNECTION_LOST",
  "CLOCK_FAULT",
  "TIMED_OUT",
  "NOT_SENT",
  "ANSWER_LOST",
]);

export const mayPass = (error: unknown): boolean => MAY_PASS.has(codeOf(error) ?? "");

/** The atServer takes no more enrolment requests now: from this address, or on this connection. It has no code of its own. */
export const isOverLimit = (error: unknown): boolean =>
  error instanceof AtServerError && /exceeded the limit/iu.test(error.description);
