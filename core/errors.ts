/**
 * A failure that callers act on. `code` is stable and part of the interface; the message is for people. Its `name` is
 * `Error`: class names do not outlive minification.
 * A broken assumption is a plain `Error` and ends the process.
 */
export class EdgeError extends Error {
  readonly code: string = "EDGE_ERROR";
}

/** Input that does not have the expected form; the message says where and what was expected. */
export class SyntaxInvalid extends EdgeError {
  override readonly code: string = "SYNTAX_INVALID";
}

/** A bound was reached (bytes, entries, connections); the message names the bound. */
export class LimitExceeded extends EdgeError {
  override readonly code: string = "LIMIT_EXCEEDED";
}

/** Something did not answer within its time. */
export class TimedOut extends EdgeError {
  override readonly code: string = "TIMED_OUT";
}

/** The device behind a driver went away: cable pulled, broker closed. The supervisor opens it again. */
export class DeviceGone extends EdgeError {
  override readonly code: string = "DEVICE_GONE";
}

/** The `code` of an {@link EdgeError} or a Node system error, or `undefined`. */
export function codeOf(error: unknown): string | undefined {
  if (typeof error !== "object" || error === null || !("code" in error)) return undefined;
  return typeof error.code === "string" ? error.code : undefined;
}
