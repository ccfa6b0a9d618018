import { EdgeError } from "../../core/errors.js";

/** No connection came about: name, route, port or TLS handshake. The cause tells which. */
export class ConnectFailed extends EdgeError {
  override readonly code: string = "CONNECT_FAILED";
}

/** The peer's certificate does not prove that it is the host we asked for. */
export class CertificateRefused extends ConnectFailed {
  override readonly code = "CERTIFICATE_REFUSED";
}

/**
 * The peer's certificate is "not yet valid": our clock is behind, as on a board without battery that has just booted.
 * Never a reason to skip the check.
 */
export class ClockFault extends ConnectFailed {
  override readonly code = "CLOCK_FAULT";
}

/** The HTTP proxy did not make the connection; the message has its status line (407: it wants other credentials). */
export class ProxyRefused extends ConnectFailed {
  override readonly code = "PROXY_REFUSED";
}

/** A connection that was there has gone. */
export class ConnectionLost extends EdgeError {
  override readonly code = "CONNECTION_LOST";
}

/** The directory knows no such atSign: a value for some callers, so it is an error of its own. */
export class AtSignUnknown extends EdgeError {
  override readonly code = "ATSIGN_UNKNOWN";
}
