import { createPrivateKey, X509Certificate, type KeyObject } from "node:crypto";
import { chmod, readFile, rename, writeFile } from "node:fs/promises";
import { isIP } from "node:net";
import { join } from "node:path";
import type { Clock } from "../../core/clock.js";
import { codeOf } from "../../core/errors.js";
import { makeFolder } from "../../core/make-folder.js";
import type { ServerIdentity } from "../transport/listen.js";
import { issueCertificate, makeKey } from "./certificate.js";

const DAY_MS = 86_400_000;
const AUTHORITY_DAYS = 3650;
/** Apple's clients refuse more than 398 days. */
const LEAF_DAYS = 397;
/** A leaf is made anew when it has less than this left. */
const RENEW_DAYS = 60;

/**
 * The development certificate authority of one platform: `ca.pem` and `ca.key` in the state folder, made on first use.
 * Clients are given `ca.pem`. Its leaves serve as server and as client certificate.
 */
export class DevCa {
  readonly caPem: string;
  readonly caFile: string;
  readonly #dir: string;
  readonly #key: KeyObject;
  readonly #clock: Clock;

  private constructor(dir: string, pair: ServerIdentity, clock: Clock) {
    this.#dir = dir;
    this.caFile = join(dir, "ca.pem");
    this.caPem = pair.cert;
    this.#key = createPrivateKey(pair.key);
    this.#clock = clock;
  }

  static async open(dir: string, clock: Clock): Promise<DevCa> {
    await makeFolder(dir);
    const kept = await readPair(dir, "ca");
    if (kept && daysLeft(kept, clock) > LEAF_DAYS) return new DevCa(dir, kept, clock);
    const key = await makeKey();
    const commonName = "atedge development CA";
    const dates = validity(clock, AUTHORITY_DAYS);
    const pair = {
      key: pemOf(key),
      cert: issueCertificate({ commonName, hosts: [], ...dates }, key, { commonName, key }),
    };
    await writePair(dir, "ca", pair);
    return new DevCa(dir, pair, clock);
  }

  /** A leaf for these DNS names and IP addresses, kept in the folder and renewed when it nears its end. */
  async leafFor(hosts: readonly [string, ...string[]]): Promise<ServerIdentity> {
    const file = `leaf-${hosts[0].replace(/[^A-Za-z0-9.-]/gu, "_")}`;
    const kept = await readPair(this.#dir, file);
    if (kept && daysLeft(kept, this.#clock) > RENEW_DAYS && this.#serves(kept, hosts)) return kept;
    const key = await makeKey();
    const issuer = { commonName: new X509Certificate(this.caPem).subject.replace(/^CN=/u, ""), key: this.#key };
    // A common name holds at most 64 characters (RFC 5280, ub-common-name); the names that count are in the SAN.
    const request = { commonName: hosts[0].slice(0, 64), hosts, ...validity(this.#clock, LEAF_DAYS) };
    const pair = { key: pemOf(key), cert: issueCertificate(request, key, issuer) + this.caPem };
    await writePair(this.#dir, file, pair);
    return pair;
  }

  #serves(pair: ServerIdentity, hosts: readonly string[]): boolean {
    const leaf = new X509Certificate(pair.cert);
    if (!leaf.verify(new X509Certificate(this.caPem).publicKey)) return false;
    return hosts.every((host) => (isIP(host) ? leaf.checkIP(host) : leaf.checkHost(host)) !== undefined);
  }
}

const pemOf = (key: KeyObject): string => key.export({ type: "pkcs8", format: "pem" }).toString();

/** Begins a day early: a device whose clock is a little slow must not call it "not yet valid". */
function validity(clock: Clock, days: number): { notBeforeMs: number; notAfterMs: number } {
  const now = clock.now();
  return { notBeforeMs: now - DAY_MS, notAfterMs: now + days * DAY_MS };
}

function daysLeft(pair: ServerIdentity, clock: Clock): number {
  return (Date.parse(new X509Certificate(pair.cert).validTo) - clock.now()) / DAY_MS;
}

async function readPair(dir: string, name: string): Promise<ServerIdentity | undefined> {
  try {
    const [key, cert] = await Promise.all([
      readFile(join(dir, `${name}.key`), "utf8"),
      readFile(join(dir, `${name}.pem`), "utf8"),
    ]);
    // A crash between the two renames leaves halves of two pairs.
    const matches = new X509Certificate(cert).checkPrivateKey(createPrivateKey(key));
    return matches ? { key, cert } : undefined;
  } catch (error) {
    if (codeOf(error) === "ENOENT") return undefined;
    throw error;
  }
}

async function writePair(dir: string, name: string, pair: ServerIdentity): Promise<void> {
  await replaceFile(join(dir, `${name}.key`), pair.key, 0o600);
  await replaceFile(join(dir, `${name}.pem`), pair.cert, 0o644);
}

async function replaceFile(path: string, text: string, mode: number): Promise<void> {
  const next = `${path}.new`;
  await writeFile(next, text, { mode });
  await chmod(next, mode);
  await rename(next, path);
}
