import type { Clock } from "../../core/clock.js";
import { AtServerError } from "../protocol/at-error.js";
import type { AtSign } from "../protocol/at-sign.js";
import type { Connect, Directory } from "../transport/directory.js";
import type { TlsChannel } from "../transport/tls-channel.js";
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
    const { atSign, directory, clock, commandTimeoutMs, logIn } = this.#options;
    const connection = new Connection(await this.#connect(signal), { clock, commandTimeoutMs, ...options });
    try {
      await logIn?.(connection, signal);
      return connection;
    } catch (error) {
      // What closed the connection says more than that it was closed, e.g. AT0012 in the place of a greeting.
      const cause = error instanceof AtServerError ? error : (connection.closedBy ?? error);
      await connection[Symbol.asyncDispose]();
      directory.forget(atSign); // another may have moved in there
      throw cause;
    }
  }

  /** An atServer that is not where it was is looked up anew at once. */
  async #connect(signal: AbortSignal): Promise<TlsChannel> {
    const { atSign, directory, connect } = this.#options;
    const isOld = directory.remembers(atSign);
    const address = await directory.find(atSign, signal);
    try {
      return await connect(address, signal);
    } catch (error) {
      directory.forget(atSign);
      signal.throwIfAborted();
      if (!isOld) throw error;
      const now = await directory.find(atSign, signal);
      if (now.host === address.host && now.port === address.port) throw error;
      return await connect(now, signal);
    }
  }
}
