import { X509Certificate, createPrivateKey } from "node:crypto";
import { readFile, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { createSecureContext, rootCertificates, type SecureContext } from "node:tls";
import type { Clock } from "../../core/clock.js";
import { EdgeError } from "../../core/errors.js";
import type { ServerIdentity } from "../transport/listen.js";
import { DevCa } from "./dev-ca.js";

/** Files as an ACME client leaves them; `{host}` in a path stands for the host name. */
export interface CertificateFiles {
  /** The certificate, then its issuers. */
  readonly certFile: string;
  readonly keyFile: string;
}

export interface IdentityOptions {
  readonly stateDir: string;
  /** Left out: a development CA of our own. */
  readonly files?: CertificateFiles | undefined;
  /** PEM text of further authorities that peers may have their certificates from. */
  readonly extraCaPem?: string | undefined;
  readonly clock: Clock;
}

/** Certificate and key do not go together, or one of them is none. */
export class CertificateUnusable extends EdgeError {
  override readonly code: string = "CERTIFICATE_UNUSABLE";
}

const LOOPBACK_NAMES = ["localhost", "127.0.0.1", "::1"] as const;
const LOOPBACK: ReadonlySet<string> = new Set(LOOPBACK_NAMES);

export const isLoopback = (host: string): boolean => LOOPBACK.has(host);

/** Names under `localhost` are this machine as well (RFC 6761, 6.3), each with a certificate of its own. */
export const isThisMachine = (host: string): boolean => isLoopback(host) || host.endsWith(".localhost");

/** What the servers of a platform show, and whom they trust. */
export class Identities {
  /** What clients are to trust, when it is our own authority. */
  readonly devCa: DevCa | undefined;
  /** PEM texts of all authorities that a client certificate or a peer may be vouched for by. */
  readonly authoritiesPem: string;
  readonly #options: IdentityOptions;

  private constructor(options: IdentityOptions, devCa: DevCa | undefined) {
    const { extraCaPem = "" } = options;
    this.#options = options;
    this.devCa = devCa;
    this.authoritiesPem = (devCa ? devCa.caPem : `${rootCertificates.join("\n")}\n`) + extraCaPem;
  }

  static async open(options: IdentityOptions): Promise<Identities> {
    const devCa = options.files ? undefined : await DevCa.open(options.stateDir, options.clock);
    return new Identities(options, devCa);
  }

  /**
   * Read anew from the files, or renewed if it nears its end.
   *
   * @throws {CertificateUnusable}, or a system error when a file cannot be read.
   */
  async forHost(host: string): Promise<ServerIdentity> {
    if (this.devCa) return await this.devCa.leafFor(isLoopback(host) ? [...LOOPBACK_NAMES] : [host]);
    const { certFile = "", keyFile = "" } = this.#options.files ?? {};
    // By this file the reference's certificate updater asks for a reload, and learns that it was done (spec 10.3).
    await rm(join(dirname(certFile.replaceAll("{host}", host)), "restart"), { force: true });
    const [cert, key] = await Promise.all([
      readFile(certFile.replaceAll("{host}", host), "utf8"),
      readFile(keyFile.replaceAll("{host}", host), "utf8"),
    ]);
    try {
      if (new X509Certificate(cert).checkPrivateKey(createPrivateKey(key))) return { cert, key };
    } catch (cause) {
      throw new CertificateUnusable(`${certFile} or ${keyFile} cannot be read as PEM`, { cause });
    }
    throw new CertificateUnusable(`the key in ${keyFile} is not that of the certificate in ${certFile}`);
  }

  /** For connections to peers, and for server names on a shared port. */
  context(identity: ServerIdentity): SecureContext {
    return createSecureContext({ ...identity, ca: this.authoritiesPem, minVersion: "TLSv1.2" });
  }
}
