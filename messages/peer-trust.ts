import type { KeyObject } from "node:crypto";
import { EdgeError } from "../core/errors.js";
import type { Log } from "../core/log.js";
import { publicKeyFromText } from "./envelope.js";
import { keyHashOf, KeyProofInvalid, verifyKeyProof } from "./key-proof.js";
import { atKeyOf, type DeviceAddress, proofKey } from "./names.js";
import { decidePin, fingerprintOf } from "./pins.js";
import { openSealed, SealInvalid } from "./seal.js";

/** What is asked of atServers about a peer. AtSigns canonical, with `@`. */
export interface PeerRecords {
  /** Base64 SPKI text of the peer's encryption public key; `fresh` passes by every cache. */
  publicKeyOf(peer: string, options: { readonly fresh: boolean }, signal: AbortSignal): Promise<string>;
  /** The record `@us:name@peer` and the AES key that decrypted it; `undefined` when there is none. */
  sharedRecord(
    peer: string,
    name: string,
    options: { readonly fresh: boolean },
    signal: AbortSignal,
  ): Promise<{ readonly text: string; readonly aesKey: Uint8Array } | undefined>;
}

/** Fingerprints of keys that were accepted on first use. */
export interface PinStore {
  get(peer: string): string | undefined;
  /** Resolves when it is safe on the disk. */
  set(peer: string, fingerprint: string): Promise<void>;
}

/** The peer's public key is another one than the pinned. Nothing is sent to it or taken from it until a human decides. */
export class PeerKeyChanged extends EdgeError {
  override readonly code = "PEER_KEY_CHANGED";
  readonly peer: string;
  readonly actual: string;

  constructor(peer: string, expected: string, actual: string) {
    super(
      `the encryption key of ${peer} has changed: expected ${expected}, its atServer gives ${actual}. ` +
        `If ${peer} made new keys, and only then, pin ${actual} for it`,
    );
    this.peer = peer;
    this.actual = actual;
  }
}

export interface PeerTrustOptions {
  readonly us: string;
  readonly address: DeviceAddress;
  readonly records: PeerRecords;
  /** Fingerprints that a human gave; each is the only one that counts for its peer. */
  readonly configured: ReadonlyMap<string, string>;
  readonly remembered: PinStore;
  /** Told each time that a peer's key is found to be another one. */
  readonly onChanged?: (error: PeerKeyChanged) => void;
  readonly log: Log;
}

interface Pinned {
  readonly key: KeyObject;
  /** Hashes of the AES keys that the peer has vouched for. */
  readonly vouched: Set<string>;
}

const MAX_VOUCHED = 64;

/** Whose key is whose: pins the peers' public keys, and takes an AES key only when its sender has signed for it. */
export class PeerTrust {
  readonly #options: PeerTrustOptions;
  readonly #pinned = new Map<string, Pinned>();
  #configured: ReadonlyMap<string, string>;

  constructor(options: PeerTrustOptions) {
    this.#options = options;
    this.#configured = options.configured;
  }

  /** Takes other fingerprints of a human's; every peer's key is looked at anew. */
  configure(configured: ReadonlyMap<string, string>): void {
    this.#configured = configured;
    this.#pinned.clear();
  }

  /** The peer's encryption public key. @throws {PeerKeyChanged} @throws {SignatureInvalid} when it is no RSA key. */
  async keyOf(peer: string, signal: AbortSignal): Promise<KeyObject> {
    return (this.#pinned.get(peer) ?? (await this.#pin(peer, false, signal))).key;
  }

  /**
   * The peer's public key, once the peer has vouched for `aesKey`, with which it encrypts what it sends to us. A proof
   * that does not fit is fetched once more past all caches, and so is the public key.
   *
   * @throws {KeyProofInvalid} @throws {PeerKeyChanged}
   */
  async vouchedKeyOf(peer: string, aesKey: Uint8Array, signal: AbortSignal): Promise<KeyObject> {
    const known = this.#pinned.get(peer);
    if (known?.vouched.has(keyHashOf(aesKey))) return known.key;
    try {
      return await this.#vouch(peer, aesKey, false, signal);
    } catch (error) {
      if (!(error instanceof KeyProofInvalid)) throw error;
      return this.#vouch(peer, aesKey, true, signal);
    }
  }

  /** Asks for the peer's key once more, as when a signature does not fit. @throws {PeerKeyChanged} */
  async refresh(peer: string, signal: AbortSignal): Promise<void> {
    await this.#pin(peer, true, signal);
  }

  async #vouch(peer: string, aesKey: Uint8Array, fresh: boolean, signal: AbortSignal): Promise<KeyObject> {
    const { us, address, records } = this.#options;
    const known = this.#pinned.get(peer);
    const pinned = known && !fresh ? known : await this.#pin(peer, fresh, signal);
    const name = proofKey(address);
    const record = await records.sharedRecord(peer, name, { fresh }, signal);
    if (!record) throw new KeyProofInvalid(`${peer} has published no proof of its key`);
    // The record is sealed with the key that it vouches for.
    const proof = opened(peer, () => openSealed(record.text, atKeyOf(us, name, peer), aesKey));
    verifyKeyProof(proof, { from: peer, to: us, aesKey }, pinned.key);
    if (pinned.vouched.size >= MAX_VOUCHED) pinned.vouched.clear();
    pinned.vouched.add(keyHashOf(aesKey));
    return pinned.key;
  }

  async #pin(peer: string, fresh: boolean, signal: AbortSignal): Promise<Pinned> {
    const { records, remembered, onChanged, log } = this.#options;
    const text = await records.publicKeyOf(peer, { fresh }, signal);
    const actual = fingerprintOf(text);
    const decision = decidePin({ configured: this.#configured.get(peer), remembered: remembered.get(peer), actual });
    if (decision.verdict === "changed") {
      this.#pinned.delete(peer);
      const changed = new PeerKeyChanged(peer, decision.expected, actual);
      onChanged?.(changed);
      throw changed;
    }
    const key = publicKeyFromText(text);
    if (decision.verdict === "first-use") {
      await remembered.set(peer, actual);
      log.warn({ peer, fingerprint: actual }, "first use: this key of the peer is trusted from now on; compare it");
    }
    const known = this.#pinned.get(peer);
    if (known?.key.equals(key)) return known;
    const pinned = { key, vouched: new Set<string>() };
    this.#pinned.set(peer, pinned);
    return pinned;
  }
}

function opened<T>(peer: string, open: () => T): T {
  try {
    return open();
  } catch (cause) {
    if (!(cause instanceof SealInvalid)) throw cause;
    throw new KeyProofInvalid(`the proof of ${peer} is not sealed with this AES key`, { cause });
  }
}
