import { createHash } from "node:crypto";
import { connect as openTcp, isIP } from "node:net";
import type { SecureContext, TLSSocket } from "node:tls";
import { type Clock, systemClock } from "../../core/clock.js";
import { withDeadline } from "../../core/deadline.js";
import { codeOf } from "../../core/errors.js";
import type { Traffic } from "../../core/traffic.js";
import { CertificateRefused, ClockFault, ConnectFailed } from "./errors.js";
import { formatHostPort, type HostPort } from "./host-port.js";
import { lookupHost } from "./lookup.js";
import { openTunnel, type ProxyChoice, proxyFromEnvironment } from "./proxy.js";
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

  drop(peer: string): void {
    this.#sessions.delete(peer);
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
  /** `environment` unless given. */
  readonly proxy?: ProxyChoice | undefined;
  /**
   * `sha256:<64 hex digits>` of public keys in SPKI form: one of them must be in the peer's chain, on top of all other
   * checks. Left out or empty: any key that a root vouches for.
   */
  readonly pins?: readonly string[] | undefined;
  /** Counts what goes over the wire. */
  readonly traffic?: Traffic | undefined;
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

async function handshake(options: ConnectOptions, signal: AbortSignal): Promise<TlsChannel> {
  const { host, port, proxy: choice = "environment", sessions, pins = [] } = options;
  const proxy = choice === "environment" ? proxyFromEnvironment(options) : choice === "none" ? undefined : choice;
  const secureContext = await contextOf(options);
  const { connect } = await loadTls();
  // The TLS socket itself counts clear text only.
  const plain = { host, port, lookup: lookupHost };
  const tunnel = proxy ? await openTunnel(proxy, options, signal) : options.traffic && openTcp(plain);
  if (tunnel) options.traffic?.count(tunnel);
  const peer = formatHostPort(options);
  const session = sessions?.take(peer);
  const servername = isIP(host) === 0 ? { servername: host } : {};
  return await new Promise((resolve, reject) => {
    if (signal.aborted) {
      tunnel?.destroy();
      return reject(signal.reason as Error);
    }
    const socket = connect({
      ...(tunnel ? { socket: tunnel, host } : plain),
      ...servername,
      secureContext,
      ...(session && { session }),
    });
    // Nobody else would hear of it, and it would end the process.
    tunnel?.on("error", (error) => socket.destroy(error));
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
      // A session is taken up only by who made it, so what was checked then holds.
      if (pins.length > 0 && !socket.isSessionReused() && !isPinned(socket, pins)) {
        socket.destroy();
        sessions?.drop(peer);
        return reject(new CertificateRefused(`the certificate of ${peer} has none of the pinned keys`));
      }
      resolve(new TlsChannel(socket));
    });
    if (sessions) keepSessions(socket, peer, sessions);
  });
}

function isPinned(socket: TLSSocket, pins: readonly string[]): boolean {
  for (let link = socket.getPeerX509Certificate(); link; link = link.issuerCertificate) {
    const digest = createHash("sha256")
      .update(link.publicKey.export({ type: "spki", format: "der" }))
      .digest("hex");
    if (pins.includes(`sha256:${digest}`)) return true;
  }
  return false;
}

const MAX_CONTEXTS = 16;
const contexts = new Map<string, SecureContext>();

/** With the first connection only: it costs 1.5 MB of RSS. */
const loadTls = async () => await import("node:tls");

/** Kept, because reading all roots anew takes 40 ms of a fast processor. */
async function contextOf({ ca, identity }: ConnectOptions): Promise<SecureContext> {
  const name = JSON.stringify([ca, identity?.cert]);
  let context = contexts.get(name);
  if (!context) {
    const { createSecureContext, rootCertificates } = await loadTls();
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
