import { createHash, createPublicKey, generateKeyPair, randomBytes, sign, type KeyObject } from "node:crypto";
import { isIP } from "node:net";
import { promisify } from "node:util";
import * as der from "./der.js";

export interface CertificateRequest {
  readonly commonName: string;
  /** DNS names and IP addresses; none: a certificate authority. */
  readonly hosts: readonly string[];
  readonly notBeforeMs: number;
  readonly notAfterMs: number;
}

export interface Issuer {
  readonly commonName: string;
  readonly key: KeyObject;
}

const ECDSA_WITH_SHA256 = der.sequence(der.oid("1.2.840.10045.4.3.2"));

/** A key on P-256, which every TLS library has and which a Raspberry Pi makes in a millisecond. */
export const makeKey = async (): Promise<KeyObject> =>
  (await promisify(generateKeyPair)("ec", { namedCurve: "P-256" })).privateKey;

/**
 * An X.509 v3 certificate (RFC 5280) as PEM: an authority when it has no hosts, otherwise a leaf that serves as server
 * and as client certificate, because an atServer shows the same one to its clients and to its peers.
 */
export function issueCertificate(request: CertificateRequest, subjectKey: KeyObject, issuer: Issuer): string {
  const isAuthority = request.hosts.length === 0;
  const spki = createPublicKey(subjectKey).export({ type: "spki", format: "der" });
  const serial = randomBytes(16);
  serial[0] = (serial[0] ?? 0) & 0x7f;
  const extensions = [
    extension("2.5.29.19", isAuthority ? der.sequence(der.booleanTrue) : der.sequence(), true),
    // keyCertSign and cRLSign, or digitalSignature.
    extension("2.5.29.15", isAuthority ? der.bitString(Buffer.of(0x06), 1) : der.bitString(Buffer.of(0x80), 7), true),
    extension("2.5.29.14", der.octetString(keyId(subjectKey))),
    extension("2.5.29.35", der.sequence(der.implicit(0, keyId(issuer.key)))),
  ];
  if (!isAuthority) {
    const serverAndClient = [der.oid("1.3.6.1.5.5.7.3.1"), der.oid("1.3.6.1.5.5.7.3.2")];
    extensions.push(extension("2.5.29.37", der.sequence(...serverAndClient)));
    extensions.push(extension("2.5.29.17", der.sequence(...request.hosts.map(generalName))));
  }
  const body = der.sequence(
    der.explicit(0, der.integer(Buffer.of(2))),
    der.integer(serial),
    ECDSA_WITH_SHA256,
    name(issuer.commonName),
    der.sequence(der.time(request.notBeforeMs), der.time(request.notAfterMs)),
    name(request.commonName),
    spki,
    der.explicit(3, der.sequence(...extensions)),
  );
  const certificate = der.sequence(body, ECDSA_WITH_SHA256, der.bitString(sign("sha256", body, issuer.key)));
  const lines = certificate.toString("base64").match(/.{1,64}/gu) ?? [];
  return `-----BEGIN CERTIFICATE-----\n${lines.join("\n")}\n-----END CERTIFICATE-----\n`;
}

const extension = (id: string, value: Buffer, critical = false): Buffer =>
  der.sequence(der.oid(id), ...(critical ? [der.booleanTrue] : []), der.octetString(value));

const name = (commonName: string): Buffer =>
  der.sequence(der.set(der.sequence(der.oid("2.5.4.3"), der.utf8String(commonName))));

const keyId = (key: KeyObject): Buffer =>
  createHash("sha1")
    .update(createPublicKey(key).export({ type: "spki", format: "der" }))
    .digest();

function generalName(host: string): Buffer {
  if (isIP(host) === 0) return der.implicit(2, Buffer.from(host, "ascii"));
  return der.implicit(7, ipOctets(host));
}

/** Network-order octets of an IP address: 4, or 16 with `::` filled up. */
function ipOctets(address: string): Buffer {
  if (isIP(address) === 4) return Buffer.from(address.split(".").map(Number));
  const [head = "", tail] = address.split("::");
  const words = (text: string): number[] =>
    text === "" ? [] : text.split(":").map((word) => Number.parseInt(word, 16));
  const before = words(head);
  const after = tail === undefined ? [] : words(tail);
  const all = [...before, ...new Array<number>(8 - before.length - after.length).fill(0), ...after];
  return Buffer.from(all.flatMap((word) => [word >> 8, word & 0xff]));
}
