import { type Clock, systemClock } from "../../core/clock.js";
import type { Traffic } from "../../core/traffic.js";
import type { AtSign } from "../protocol/at-sign.js";
import { connectTls, TlsSessions } from "../transport/connect.js";
import { type Connect, Directory, type DirectoryAddress } from "../transport/directory.js";
import type { ProxyChoice } from "../transport/proxy.js";
import type { Connection } from "./connection.js";
import { Dialer } from "./dialer.js";

/** How the atServer of an atSign is reached, for all who do. */
export interface ReachOptions {
  readonly atSign: AtSign;
  readonly directory: DirectoryAddress;
  /** PEM text of a further root, such as a platform's own `ca.pem`. */
  readonly ca?: string;
  /** The way through an HTTP proxy; as `HTTPS_PROXY` and `NO_PROXY` say unless given. */
  readonly proxy?: ProxyChoice;
  /** `sha256:…` of TLS public keys, one of which directory and atServer must have in their chains, on top of `ca`. */
  readonly tlsPins?: readonly string[];
  readonly clock?: Clock;
  readonly connectTimeoutMs?: number;
  readonly commandTimeoutMs?: number;
  /** Counts what goes over the wire, to directory and atServer. */
  readonly traffic?: Traffic;
}

const CONNECT_TIMEOUT_MS = 10_000;
const COMMAND_TIMEOUT_MS = 30_000;

/** Left out, `logIn`: connections stay as they are after the handshake. */
export function dialerFor(
  options: ReachOptions,
  logIn?: (connection: Connection, signal: AbortSignal) => Promise<void>,
): Dialer {
  const { atSign, directory: address, ca, proxy, tlsPins: pins, traffic, clock = systemClock } = options;
  const { connectTimeoutMs: timeoutMs = CONNECT_TIMEOUT_MS, commandTimeoutMs = COMMAND_TIMEOUT_MS } = options;
  const sessions = new TlsSessions();
  const connect: Connect = (to, signal) =>
    connectTls({ ...to, ca, proxy, pins, traffic, sessions, clock, timeoutMs }, signal);
  const directory = new Directory({ address, connect, clock, answerTimeoutMs: timeoutMs });
  return new Dialer({ atSign, directory, connect, clock, commandTimeoutMs, ...(logIn && { logIn }) });
}
