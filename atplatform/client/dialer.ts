import type { Clock } from "../../core/clock.js";
import type { AtSign } from "../protocol/at-sign.js";
import type { Connect, Directory } from "../transport/directory.js";
import { Connection, type ConnectionOptions } from "./connection.js";

export interface DialerOptions {
  readonly atSign: AtSign;
  readonly directory: Directory;
  readonly connect: Connect;
  readonly clock: Clock;
  readonly commandTimeoutMs: number;
  /** Left out: connections stay as they are after the handshake. */
  readonly logIn?: (connection: Connection, signal: AbortSignal) => Promise<void>;
}

/** Finds the atServer of one atSign, connects and logs in. */
export class Dialer {
  readonly #options: DialerOptions;

  constructor(options: DialerOptions) {
    this.#options = options;
  }

  /** @throws what directory, transport and login throw; nothing is left open then. */
  async dial(options: Pick<ConnectionOptions, "onNotification">, signal: AbortSignal): Promise<Connection> {
    const { atSign, directory, connect, clock, commandTimeoutMs, logIn } = this.#options;
    const address = await directory.find(atSign, signal);
    try {
      const connection = new Connection(await connect(address, signal), { clock, commandTimeoutMs, ...options });
      try {
        await logIn?.(connection, signal);
        return connection;
      } catch (error) {
        // What closed the connection says more than that it was closed, e.g. AT0012 in the place of a greeting.
        const closedBy = connection.closedBy;
        await connection[Symbol.asyncDispose]();
        throw closedBy ?? error;
      }
    } catch (error) {
      directory.forget(atSign); // the atServer may have moved
      throw error;
    }
  }
}
