import { connect as connectTcp, type Socket } from "node:net";
import { connect as connectTls, type PeerCertificate, type TLSSocket } from "node:tls";
import { codeOf, TimedOut } from "../../core/errors.js";
import { untilAborted } from "../../core/scope.js";

/** An MQTT broker that answered. */
export interface FoundBroker {
  readonly url: string;
  /** Whether it lets in whoever comes without a user and a password. */
  readonly isOpen: boolean;
  /** It asked for a certificate of ours and hung up. */
  readonly wantsCertificate?: true;
  /** Of TLS: whom its certificate is for, who signed it, and why this machine does not trust it. */
  readonly certificate?: { readonly subject: string; readonly issuer: string; readonly distrusted?: string };
}

/** CONNECT of MQTT 3.1.1, a clean session with no client id, keep alive 10 s (section 3.1). */
const CONNECT = Buffer.from([0x10, 12, 0, 4, 0x4d, 0x51, 0x54, 0x54, 4, 2, 0, 10, 0, 0]);
const DISCONNECT = Buffer.from([0xe0, 0]);

/** Asks the port whether it speaks MQTT; `undefined` when it does not within `ms`. */
export async function findBroker(
  {
    host,
    port,
    tls,
    ms = 2000,
  }: { readonly host: string; readonly port: number; readonly tls: boolean; readonly ms?: number },
  signal: AbortSignal,
): Promise<FoundBroker | undefined> {
  signal.throwIfAborted();
  // What it shows is looked at, not trusted: nothing secret is sent.
  const socket = tls ? connectTls({ host, port, rejectUnauthorized: false }) : connectTcp({ host, port });
  const limit = setTimeout(() => socket.destroy(new TimedOut(`${host}:${port} does not answer`)), ms);
  const bracketed = host.includes(":") ? `[${host}]` : host;
  const url = `${tls ? "mqtts" : "mqtt"}://${bracketed}:${port}`;
  try {
    const returnCode = await untilAborted(connAck(socket, tls), signal);
    if (returnCode === undefined) return undefined;
    const certificate = "getPeerCertificate" in socket ? { certificate: certificateOf(socket) } : {};
    return { url, isOpen: returnCode === 0, ...certificate };
  } catch (error) {
    signal.throwIfAborted();
    // The name that OpenSSL gives to alert 116 (RFC 8446, 6.2).
    const wantsCertificate = codeOf(error) === "ERR_SSL_TLSV13_ALERT_CERTIFICATE_REQUIRED";
    return wantsCertificate ? { url, isOpen: false, wantsCertificate } : undefined;
  } finally {
    clearTimeout(limit);
    socket.destroy();
  }
}

/** The return code of its CONNACK (section 3.2.2.3), or `undefined` for something else than an answer. */
function connAck(socket: Socket, tls: boolean): Promise<number | undefined> {
  return new Promise((resolve, reject) => {
    let held = Buffer.alloc(0);
    socket.once("error", reject);
    socket.once("close", () => resolve(undefined));
    socket.once(tls ? "secureConnect" : "connect", () => socket.write(CONNECT));
    socket.on("data", (chunk: Buffer) => {
      held = Buffer.concat([held, chunk]).subarray(0, 4);
      if (held.length < 4) return;
      const isConnAck = held[0] === 0x20 && held[1] === 2 && (held[3] ?? 6) <= 5;
      if (isConnAck && held[3] === 0) socket.write(DISCONNECT);
      resolve(isConnAck ? held[3] : undefined);
    });
  });
}

function certificateOf(socket: TLSSocket): NonNullable<FoundBroker["certificate"]> {
  const { subject, issuer } = socket.getPeerCertificate();
  const distrusted = socket.authorized ? undefined : String(socket.authorizationError);
  return { subject: named(subject), issuer: named(issuer), ...(distrusted === undefined ? {} : { distrusted }) };
}

function named(name: PeerCertificate["subject"] | undefined): string {
  return [name?.CN, name?.O].flat().find((text) => text !== undefined) ?? "no name";
}
