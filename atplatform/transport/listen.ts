import { setMaxListeners } from "node:events";
import type { AddressInfo } from "node:net";
import { createServer, type SecureContext, type Server, type TLSSocket } from "node:tls";
import { ChildSignal, type Disposable } from "../../core/scope.js";
import { TlsChannel } from "./tls-channel.js";

export interface ServerIdentity {
  /** PEM: the certificate and what chains it to its root. */
  readonly cert: string;
  readonly key: string;
}

export interface ListenOptions {
  /** All addresses unless given; `127.0.0.1` in tests. */
  readonly host?: string;
  /** 0 takes a free one; {@link TlsListener.port} tells. */
  readonly port: number;
  readonly identity: ServerIdentity;
  /** PEM text of roots that client certificates are checked against. Given, one is asked for, but none required. */
  readonly clientCa?: string;
  /** The context for a server name; `undefined` refuses the handshake. Left out, `identity` serves every name. */
  readonly contextFor?: (serverName: string) => SecureContext | undefined;
  readonly handshakeTimeoutMs?: number;
  /** A handshake that came to nothing, e.g. of a client that does not trust us. */
  readonly onHandshakeError?: (error: Error) => void;
  /** `serve` rejected; its connection is closed, the others go on. */
  readonly onFailure: (error: unknown) => void;
}

/** Serves one connection to its end. `signal` aborts when the listener is disposed. */
export type ServeChannel = (channel: TlsChannel, signal: AbortSignal) => Promise<void>;

/** A TLS port that is open until disposed; then every connection is closed and its `serve` waited for. */
export class TlsListener implements Disposable {
  readonly #server: Server;
  readonly #stop: ChildSignal;
  readonly #serving: ReadonlySet<Promise<void>>;

  readonly #clientCa: string | undefined;

  constructor(server: Server, clientCa: string | undefined, stop: ChildSignal, serving: ReadonlySet<Promise<void>>) {
    this.#server = server;
    this.#clientCa = clientCa;
    this.#stop = stop;
    this.#serving = serving;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  get connections(): number {
    return this.#serving.size;
  }

  /** For new connections, as after the renewal of a certificate. */
  setIdentity({ cert, key }: ServerIdentity): void {
    // The whole context is replaced, what client certificates are checked against included.
    const clientCa = this.#clientCa;
    this.#server.setSecureContext({
      cert,
      key,
      minVersion: "TLSv1.2",
      ...(clientCa !== undefined && { ca: clientCa }),
    });
  }

  /** Takes no more connections; those that are there go on. */
  stopAccepting(): void {
    if (this.#server.listening) this.#server.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.stopAccepting();
    await this.#stop[Symbol.asyncDispose]();
    await Promise.all(this.#serving);
  }
}

const DEFAULT_HANDSHAKE_TIMEOUT_MS = 10_000;

/**
 * Opens a TLS port. `serve` gets each connection after its handshake; it is closed when `serve` returns. When `signal`
 * aborts, all connections are closed, but only dispose closes the port.
 *
 * @throws the system error (`EADDRINUSE`, `EACCES`) when the port cannot be had.
 */
export async function listenTls(
  options: ListenOptions,
  serve: ServeChannel,
  signal: AbortSignal,
): Promise<TlsListener> {
  const { host, port, identity, clientCa, contextFor } = options;
  const stop = new ChildSignal(signal);
  setMaxListeners(0, stop.signal); // each connection has some, and takes them off
  const serving = new Set<Promise<void>>();
  const server = createServer({
    ...identity,
    minVersion: "TLSv1.2",
    handshakeTimeout: options.handshakeTimeoutMs ?? DEFAULT_HANDSHAKE_TIMEOUT_MS,
    ...(clientCa !== undefined && { ca: clientCa, requestCert: true, rejectUnauthorized: false }),
    ...(contextFor && {
      SNICallback: (name: string, done: (error: Error | null, context?: SecureContext) => void) => {
        const context = contextFor(name);
        if (context) done(null, context);
        else done(new Error("no such server name here"));
      },
    }),
  });
  server.on("tlsClientError", (error) => options.onHandshakeError?.(error));
  server.on("secureConnection", (socket: TLSSocket) => {
    const task = serveOne(new TlsChannel(socket), serve, stop.signal)
      .catch((error: unknown) => options.onFailure(error))
      .finally(() => serving.delete(task));
    serving.add(task);
  });
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen({ port, ...(host !== undefined && { host }) }, () => {
      server.off("error", reject);
      resolve();
    });
  });
  return new TlsListener(server, clientCa, stop, serving);
}

async function serveOne(channel: TlsChannel, serve: ServeChannel, signal: AbortSignal): Promise<void> {
  const abandon = (): void => void channel[Symbol.asyncDispose]();
  signal.addEventListener("abort", abandon, { once: true });
  try {
    if (!signal.aborted) await serve(channel, signal);
  } finally {
    signal.removeEventListener("abort", abandon);
    await channel[Symbol.asyncDispose]();
  }
}
