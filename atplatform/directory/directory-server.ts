import type { Clock } from "../../core/clock.js";
import type { Log } from "../../core/log.js";
import { type Disposable } from "../../core/scope.js";
import { listenTls, type ServerIdentity, type TlsListener } from "../transport/listen.js";
import { pull } from "../transport/pull.js";
import type { TlsChannel } from "../transport/tls-channel.js";
import { QueryFramer, type Query } from "./query-framer.js";

/** A miss costs this long from the second on; the third and later end the connection (spec 1.4). */
const MISS_WAIT_MS = 3_000;
/** Generous: `at_c` keeps a connection for minutes and probes it with a blank line. */
const IDLE_MS = 30 * 60_000;
const SWEEP_MS = 60_000;
const MAX_CONNECTIONS = 2_000;

export interface DirectoryOptions {
  readonly host: string;
  readonly port: number;
  readonly identity: ServerIdentity;
  /** `host:port` of a bare, canonical atSign. */
  readonly find: (name: string) => string | undefined;
  readonly clock: Clock;
  readonly log: Log;
}

/** Counted since the start. */
export interface DirectoryCounters {
  lookups: number;
  misses: number;
  refused: number;
}

interface Connection {
  readonly channel: TlsChannel;
  lastQueryMs: number;
}

/**
 * The atDirectory ("root server") of spec section 1: answers `alice\n` with `host:port\r\n@`. There is no write on the
 * wire.
 */
export class DirectoryServer implements Disposable {
  readonly counters: DirectoryCounters = { lookups: 0, misses: 0, refused: 0 };
  readonly #options: DirectoryOptions;
  readonly #connections = new Set<Connection>();
  readonly #sweeper: NodeJS.Timeout;
  #listener: TlsListener | undefined;
  #stopping = false;

  private constructor(options: DirectoryOptions) {
    this.#options = options;
    this.#sweeper = setInterval(() => this.#sweep(), SWEEP_MS).unref();
  }

  /** @throws a Node system error when the address cannot be listened on. */
  static async open(options: DirectoryOptions, signal: AbortSignal): Promise<DirectoryServer> {
    const server = new DirectoryServer(options);
    const { host, port, identity, log } = options;
    const onHandshakeError = (error: Error): void => log.debug({ reason: error.message }, "TLS handshake failed");
    const onFailure = (error: unknown): void => log.error({ err: error }, "a directory connection failed");
    const listen = { host, port, identity, onHandshakeError, onFailure };
    server.#listener = await listenTls(listen, (channel, stop) => server.#serve(channel, stop), signal);
    return server;
  }

  get port(): number {
    return this.#listener?.port ?? 0;
  }

  get connections(): number {
    return this.#connections.size;
  }

  setIdentity(identity: ServerIdentity): void {
    this.#listener?.setIdentity(identity);
  }

  /** From now on a new connection is told that the directory stops (D16). */
  stopAnswering(): void {
    this.#stopping = true;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#sweeper);
    await this.#listener?.[Symbol.asyncDispose]();
  }

  async #serve(channel: TlsChannel, stop: AbortSignal): Promise<void> {
    if (this.#connections.size >= MAX_CONNECTIONS) {
      this.counters.refused += 1;
      return;
    }
    const connection = { channel, lastQueryMs: this.#options.clock.monotonicMs() };
    this.#connections.add(connection);
    try {
      if (this.#stopping) await channel.write("Stop in progress. Can't accept new requests.");
      else await this.#answerAll(connection, stop);
    } catch (error) {
      if (!stop.aborted) this.#options.log.debug({ reason: String(error) }, "directory connection dropped");
    } finally {
      this.#connections.delete(connection);
    }
  }

  /** Returns when the client leaves or has missed too often; throws on bytes that are no query. */
  async #answerAll(connection: Connection, stop: AbortSignal): Promise<void> {
    const { channel } = connection;
    const { clock, find } = this.#options;
    const framer = new QueryFramer();
    const cut = (chunk: Buffer, into: Query[]): void => void into.push(...framer.push(chunk));
    let misses = 0;
    await channel.write("@");
    for await (const query of pull(channel, cut, stop)) {
      if (query.type === "exit") return;
      connection.lastQueryMs = clock.monotonicMs();
      this.counters.lookups += 1;
      const address = query.name === "" ? undefined : find(query.name);
      if (address === undefined && query.name !== "") {
        this.counters.misses += 1;
        misses += 1;
        if (misses > 1) await clock.sleep(MISS_WAIT_MS, stop);
        if (misses > 2) return;
      }
      await channel.write(`${address ?? "null"}\r\n@`);
    }
  }

  #sweep(): void {
    const limit = this.#options.clock.monotonicMs() - IDLE_MS;
    for (const { channel, lastQueryMs } of this.#connections) if (lastQueryMs < limit) channel.end();
  }
}
