import { createServer, type SecureContextOptions, type SecureContext, type TLSSocket } from "node:tls";
import type { Disposable } from "../../core/scope.js";
import { silentLog, type Log } from "../../core/log.js";

const HANDSHAKE_TIMEOUT_MS = 20_000;

export interface TlsIdentity {
  readonly keyPem: string;
  /** The leaf, then its issuers. */
  readonly certificatePem: string;
}

export interface ListenOptions {
  readonly host: string;
  /** 0: any free port. */
  readonly port: number;
  readonly identity: TlsIdentity;
  /** What client certificates are checked against; left out: the public authorities that Node knows. */
  readonly caPem?: string;
  /**
   * Ask for a client certificate, and let those without (or with a bad one) in all the same: the caller looks at
   * `socket.authorized`.
   */
  readonly requestCertificate?: boolean;
  /** Gives the certificate for a server name; `undefined` refuses the handshake. Left out: `identity` for every name. */
  readonly contextFor?: (serverName: string) => SecureContext | undefined;
  /** Gets every connection that has finished its handshake. The listener destroys it when disposed. */
  readonly onConnection: (socket: TLSSocket) => void;
  readonly log?: Log;
}

/** Sockets accepted over TLS 1.2 or 1.3. */
export class TlsListener implements Disposable {
  readonly port: number;
  readonly #server: ReturnType<typeof createServer>;
  readonly #sockets: ReadonlySet<TLSSocket>;
  readonly #caPem: string | undefined;
  #closed: Promise<void> | undefined;

  /** @internal Use {@link listenTls}. */
  constructor(
    server: ReturnType<typeof createServer>,
    sockets: ReadonlySet<TLSSocket>,
    port: number,
    caPem: string | undefined,
  ) {
    this.#server = server;
    this.#sockets = sockets;
    this.port = port;
    this.#caPem = caPem;
  }

  get connections(): number {
    return this.#sockets.size;
  }

  /** New connections see the new certificate; those that are open stay as they are. */
  setIdentity(identity: TlsIdentity): void {
    this.#server.setSecureContext(contextOptions(identity, this.#caPem));
  }

  /** Takes no more connections; those that are open go on. */
  stopAccepting(): Promise<void> {
    return (this.#closed ??= new Promise((resolve) => this.#server.close(() => resolve())));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = this.stopAccepting();
    for (const socket of this.#sockets) socket.destroy();
    await closed;
  }
}

/** @throws a Node system error such as EADDRINUSE or EACCES when the address cannot be listened on. */
export async function listenTls(options: ListenOptions, signal: AbortSignal): Promise<TlsListener> {
  signal.throwIfAborted();
  const { contextFor, log = silentLog } = options;
  const sockets = new Set<TLSSocket>();
  const server = createServer({
    ...contextOptions(options.identity, options.caPem),
    requestCert: options.requestCertificate ?? false,
    rejectUnauthorized: false,
    noDelay: true,
    handshakeTimeout: HANDSHAKE_TIMEOUT_MS,
    ...(contextFor && {
      SNICallback: (serverName: string, done: (error: Error | null, context?: SecureContext) => void) => {
        const context = contextFor(serverName);
        if (context) done(null, context);
        else done(new Error(`no certificate for ${serverName}`));
      },
    }),
  });
  server.on("secureConnection", (socket) => {
    sockets.add(socket);
    socket.once("close", () => sockets.delete(socket));
    options.onConnection(socket);
  });
  server.on("tlsClientError", (error, socket) => {
    log.debug({ remote: socket.remoteAddress, code: error.name, reason: error.message }, "TLS handshake failed");
  });
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen({ host: options.host, port: options.port }, () => {
      server.off("error", reject);
      resolve();
    });
  });
  server.on("error", (error) => log.error({ err: error }, "the listener failed"));
  const address = server.address();
  if (address === null || typeof address === "string") throw new Error("a TCP server without a port");
  return new TlsListener(server, sockets, address.port, options.caPem);
}

function contextOptions(identity: TlsIdentity, caPem: string | undefined): SecureContextOptions {
  return {
    key: identity.keyPem,
    cert: identity.certificatePem,
    minVersion: "TLSv1.2",
    ...(caPem !== undefined && { ca: caPem }),
  };
}
