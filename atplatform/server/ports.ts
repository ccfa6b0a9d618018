import { codeOf, EdgeError } from "../../core/errors.js";

/** A port cannot be listened on; the message says which, for what and why. */
export class PortUnavailable extends EdgeError {
  override readonly code: string = "PORT_UNAVAILABLE";
}

/** Every port of the range is taken. */
export class NoPortLeft extends EdgeError {
  override readonly code: string = "NO_PORT_LEFT";
}

export interface PortRange {
  readonly first: number;
  readonly last: number;
}

/** The ports to try: that of last time, then those of the range, or any. */
export function* candidates(last: number | null, range: PortRange | undefined): Generator<number> {
  if (!range) {
    if (last !== null) yield last;
    yield 0;
    return;
  }
  if (last !== null && last >= range.first && last <= range.last) yield last;
  for (let port = range.first; port <= range.last; port += 1) yield port;
}

/** What a port in use or out of bounds means to a person. @throws {PortUnavailable} */
export async function explained<T>(listening: Promise<T>, what: string, port: number): Promise<T> {
  try {
    return await listening;
  } catch (cause) {
    const code = codeOf(cause);
    if (code === "EADDRINUSE") throw new PortUnavailable(`port ${port} for ${what} is in use`, { cause });
    if (code === "EACCES")
      throw new PortUnavailable(`port ${port} for ${what} needs more rights (below 1024?)`, { cause });
    throw cause;
  }
}
