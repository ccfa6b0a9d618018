import type { Clock } from "../../core/clock.js";
import { codeOf } from "../../core/errors.js";
import type { Log } from "../../core/log.js";
import type { Disposable } from "../../core/scope.js";
import { ChildSignal, untilAborted } from "../../core/scope.js";
import { noop } from "../protocol/verbs/noop.js";
import { ConnectionLost } from "../transport/errors.js";
import type { Connection } from "./connection.js";
import type { Dialer } from "./dialer.js";
import { AnswerLost, NotSent } from "./errors.js";
import { Pacer, type Reconnect } from "./pacer.js";

export interface LinkHealth {
  readonly state: "idle" | "connecting" | "ready" | "waiting" | "refused";
  /** Connections made so far. */
  readonly connections: number;
  readonly lastErrorCode?: string;
}

export interface SendOptions {
  /** Send it a second time on a new connection when the answer was lost: it does no harm twice. */
  readonly repeatable?: boolean;
  readonly timeoutMs?: number;
}

export interface CommandLinkOptions {
  readonly dialer: Dialer;
  readonly clock: Clock;
  readonly log: Log;
  readonly reconnect?: Reconnect | undefined;
}

/** After so long a silence nobody knows whether a connection is still there. */
const PROBE_AFTER_MS = 60_000;
const PROBE_TIMEOUT_MS = 5_000;
const RETIRE_TIMEOUT_MS = 60_000;

/** The command connection: made when it is needed, and made anew after a loss. */
export class CommandLink implements Disposable {
  readonly #dialer: Dialer;
  readonly #log: Log;
  readonly #pacer: Pacer;
  readonly #life = new ChildSignal(new AbortController().signal);
  #connection: Connection | undefined;
  #connecting: Promise<Connection> | undefined;
  #connections = 0;
  #lastErrorCode: string | undefined;

  constructor({ dialer, clock, log, reconnect }: CommandLinkOptions) {
    this.#dialer = dialer;
    this.#log = log;
    this.#pacer = new Pacer(clock, { reconnect });
  }

  get health(): LinkHealth {
    return {
      state: this.#state,
      connections: this.#connections,
      ...(this.#lastErrorCode !== undefined && { lastErrorCode: this.#lastErrorCode }),
    };
  }

  /**
   * Sends a command and resolves with what its answer has after `data:`. A first attempt that found the connection gone
   * is followed by one more on a new connection, unless it may do harm twice. More attempts are the caller's to make:
   * connecting waits by itself with growing, random pauses.
   *
   * @throws {AtServerError}, {@link NotSent}, {@link AnswerLost}, and what connecting throws.
   */
  async send(line: string, { repeatable = false, timeoutMs }: SendOptions, signal: AbortSignal): Promise<string> {
    const send = async (): Promise<string> => {
      const connection = await this.#ready(signal);
      return await connection.send(line, timeoutMs === undefined ? {} : { timeoutMs }, signal);
    };
    try {
      return await send();
    } catch (error) {
      const again = error instanceof NotSent || (repeatable && error instanceof AnswerLost);
      if (!again) throw error;
      return await send();
    }
  }

  /** Commands from now on go over a new connection. Resolves when those under way have ended on the present one. */
  async renew(): Promise<void> {
    this.#pacer.reset();
    await this.#connecting?.catch(ignore);
    const old = this.#connection;
    this.#connection = undefined;
    if (old) await this.#retire(old).catch(ignore);
  }

  /** Commands are answered in their order. A second time, for one that had the connection in its hand already. */
  async #retire(old: Connection): Promise<void> {
    try {
      for (let round = 1; round <= 2; round += 1)
        await old.send(noop.format({ delayMs: 0 }), { timeoutMs: RETIRE_TIMEOUT_MS }, this.#life.signal);
    } finally {
      await old[Symbol.asyncDispose]();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#life.abort(new ConnectionLost("the client was closed"));
    await this.#connecting?.catch(() => undefined);
    await this.#connection?.[Symbol.asyncDispose]();
    await this.#life[Symbol.asyncDispose]();
  }

  get #state(): LinkHealth["state"] {
    if (this.#connection && !this.#connection.closedBy) return "ready";
    if (this.#pacer.refused) return "refused";
    if (this.#pacer.waitMs > 0) return "waiting";
    return this.#connecting ? "connecting" : "idle";
  }

  async #ready(signal: AbortSignal): Promise<Connection> {
    const connection = this.#connection;
    if (connection && !connection.closedBy) {
      if (connection.idleMs < PROBE_AFTER_MS) return connection;
      try {
        await connection.send(noop.format({ delayMs: 0 }), { timeoutMs: PROBE_TIMEOUT_MS }, signal);
        return connection;
      } catch (error) {
        signal.throwIfAborted();
        this.#log.debug({ code: codeOf(error) }, "the command connection was gone when it was needed");
      }
    }
    this.#connecting ??= this.#connect().finally(() => (this.#connecting = undefined));
    return await untilAborted(this.#connecting, signal);
  }

  /** Shared by all who wait for it, so none of them ends it. */
  async #connect(): Promise<Connection> {
    const { signal } = this.#life;
    if (this.#connection) {
      if (this.#connection.closedBy) this.#fail(this.#connection.closedBy);
      await this.#connection[Symbol.asyncDispose]();
      this.#connection = undefined;
    }
    await this.#pacer.wait(signal);
    try {
      const connection = await this.#dialer.dial({}, signal);
      this.#connection = connection;
      this.#connections += 1;
      this.#pacer.connected();
      this.#log.debug({ connections: this.#connections }, "command connection ready");
      return connection;
    } catch (error) {
      signal.throwIfAborted();
      this.#fail(error);
      if (this.#pacer.refused) this.#log.error({ err: error }, "the atServer refuses these keys");
      throw error;
    }
  }

  #fail(error: unknown): void {
    this.#lastErrorCode = codeOf(error) ?? "UNKNOWN";
    this.#pacer.failed(error);
  }
}

const ignore = (): void => undefined;
