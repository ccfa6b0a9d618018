import { isIP } from "node:net";
import { connect, createSecureContext, rootCertificates, type SecureContext, type TLSSocket } from "node:tls";
import { type Clock, systemClock } from "../../core/clock.js";
import { withDeadline } from "../../core/deadline.js";
import { codeOf } from "../../core/errors.js";
import { CertificateRefused, ClockFault, ConnectFailed } from "./errors.js";
import { formatHostPort, type HostPort } from "./host-port.js";
import { TlsChannel } from "./tls-channel.js";

/** The last session of each peer, for a shorter handshake. One object for one set of options: trust is not checked anew. */
export class TlsSessions {
  readonly #sessions = new Map<string, Buffer>();
  readonly #maxPeers: number;

  constructor(maxPeers = 64) {
    this.#maxPeers = maxPeers;
  }

  take(peer: string): Buffer | undefined {
    return this.#sessions.get(peer);
  }

  keep(peer: string, session: Buffer): void {
    this.#sessions.delete(peer);
    this.#sessions.set(peer, session);
    const oldest = this.#sessions.size > this.#maxPeers ? this.#sessions.keys().next() : undefined;
    if (oldest && !oldest.done) this.#sessions.delete(oldest.value);
  }
}

export interface ConnectOptions extends HostPort {
  /** PEM text of further roots, on top of the public ones. */
  readonly ca?: string | undefined;
  /** PEM texts of a certificate to show, as atServers do to one another. */
  readonly identity?: { readonly cert: string; readonly key: string } | undefined;
  readonly timeoutMs?: number | undefined;
  readonly sessions?: TlsSessions | undefined;
  readonly clock?: Clock | undefined;
}

const DEFAULT_TIMEOUT_MS = 10_000;

/**
 * A TLS 1.2 or 1.3 connection whose certificate was checked against roots and host name.
 *
 * @throws {CertificateRefused}, {@link ClockFault} (certificate not yet valid), {@link ConnectFailed} or `TimedOut`.
 */
export async function connectTls(options: ConnectOptions, signal: AbortSignal): Promise<TlsChannel> {
  const { clock = systemClock, timeoutMs = DEFAULT_TIMEOUT_MS } = options;
  const what = `a TLS connection to ${formatHostPort(options)}`;
  return await withDeadline((signal) => handshake(options, signal), { clock, timeoutMs, what }, signal);
}

function handshake(options: ConnectOptions, signal: AbortSignal): Promise<TlsChannel> {
  const { host, port, sessions } = options;
  const peer = formatHostPort(options);
  const session = sessions?.take(peer);
  const servername = isIP(host) === 0 ? { servername: host } : {};
  return new Promise((resolve, reject) => {
    if (signal.aborted) return reject(signal.reason as Error);
    const socket = connect({
      host,
      port,
      ...servername,
      secureContext: contextOf(options),
      ...(session && { session }),
    });
    const settle = (): void => {
      signal.removeEventListener("abort", aborted);
      socket.off("error", failed);
      socket.off("close", closed);
    };
    const aborted = (): void => {
      settle();
      socket.on("error", () => undefined);
      socket.destroy();
      reject(signal.reason as Error);
    };
    const failed = (error: Error): void => {
      settle();
      socket.destroy();
      reject(connectError(peer, error));
    };
    const closed = (): void => failed(new Error("closed during the handshake"));
    signal.addEventListener("abort", aborted, { once: true });
    socket.once("error", failed);
    socket.once("close", closed);
    socket.once("secureConnect", () => {
      settle();
      resolve(new TlsChannel(socket));
    });
    if (sessions) keepSessions(socket, peer, sessions);
  });
}

const MAX_CONTEXTS = 16;
const contexts = new Map<string, SecureContext>();

/** Kept, because reading all roots anew takes 40 ms of a fast processor. */
function contextOf({ ca, identity }: ConnectOptions): SecureContext {
  const name = JSON.stringify([ca, identity?.cert]);
  let context = contexts.get(name);
  if (!context) {
    context = createSecureContext({
      minVersion: "TLSv1.2",
      // Without `ca` Node takes its roots and those of NODE_EXTRA_CA_CERTS.
      ...(ca !== undefined && { ca: [...rootCertificates, ca] }),
      ...identity,
    });
    if (contexts.size >= MAX_CONTEXTS) contexts.clear();
    contexts.set(name, context);
  }
  return context;
}

function keepSessions(socket: TLSSocket, peer: string, sessions: TlsSessions): void {
  socket.on("session", (session: Buffer) => sessions.keep(peer, session));
}

/** Codes of OpenSSL's verification, as Node gives them; the host name check has its own. */
const REFUSALS = /^(?:CERT_|UNABLE_TO_|SELF_SIGNED|DEPTH_ZERO_|INVALID_|ERR_TLS_CERT|HOSTNAME_MISMATCH|ERROR_IN_CERT)/u;

function connectError(peer: string, cause: Error): ConnectFailed {
  const code = codeOf(cause) ?? cause.message;
  if (code === "CERT_NOT_YET_VALID") {
    return new ClockFault(`the certificate of ${peer} is not yet valid: this machine's clock is behind`, { cause });
  }
  if (REFUSALS.test(code)) return new CertificateRefused(`the certificate of ${peer} was refused: ${code}`, { cause });
  return new ConnectFailed(`no connection to ${peer}: ${code}`, { cause });
}
