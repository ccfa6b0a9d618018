import type { KeyObject } from "node:crypto";
import type { AtSign } from "../../atplatform/protocol/at-sign.js";
import { EdgeError } from "../../core/errors.js";
import type { Log } from "../../core/log.js";
import { publicKeyFromText } from "../../messages/envelope.js";
import { keyHashOf, KeyProofInvalid, verifyKeyProof } from "../../messages/key-proof.js";
import { atKeyOf, type DeviceAddress, proofKey } from "../../messages/names.js";
import { decidePin, fingerprintOf } from "../../messages/pins.js";
import { openSealed, SealInvalid } from "../../messages/seal.js";

/** What is asked of atServers about a peer. */
export interface PeerRecords {
  /** Base64 SPKI text of the peer's encryption public key; `fresh` passes by every cache. */
  publicKeyOf(peer: AtSign, options: { readonly fresh: boolean }, signal: AbortSignal): Promise<string>;
  /** The record `@us:name@peer` and the AES key that decrypted it; `undefined` when there is none. */
  sharedRecord(
    peer: AtSign,
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
        `If ${peer} made new keys, set key = "${actual}" for it in the configuration`,
    );
    this.peer = peer;
    this.actual = actual;
  }
}

export interface PeerTrustOptions {
  readonly us: AtSign;
  readonly address: DeviceAddress;
  readonly records: PeerRecords;
  /** Fingerprints that the configuration names; each is the only one that counts for its peer. */
  readonly configured: ReadonlyMap<string, string>;
  readonly remembered: PinStore;
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

  constructor(options: PeerTrustOptions) {
    this.#options = options;
  }

  /** The peer's encryption public key. @throws {PeerKeyChanged} @throws {SignatureInvalid} when it is none of ours. */
  async keyOf(peer: AtSign, signal: AbortSignal): Promise<KeyObject> {
    return (this.#pinned.get(peer) ?? (await this.#pin(peer, false, signal))).key;
  }

  /**
   * The peer's public key, once the peer has vouched for `aesKey`, with which it encrypts what it sends to us. A proof
   * that does not fit is fetched once more past all caches, and so is the public key.
   *
   * @throws {KeyProofInvalid} @throws {PeerKeyChanged}
   */
  async vouchedKeyOf(peer: AtSign, aesKey: Uint8Array, signal: AbortSignal): Promise<KeyObject> {
    const hash = keyHashOf(aesKey);
    const known = this.#pinned.get(peer);
    if (known?.vouched.has(hash)) return known.key;
    try {
      return await this.#vouch(peer, aesKey, false, signal);
    } catch (error) {
      if (!(error instanceof KeyProofInvalid)) throw error;
      return this.#vouch(peer, aesKey, true, signal);
    }
  }

  /** Asks for the peer's key once more, for when a signature does not fit. @throws {PeerKeyChanged} */
  async refresh(peer: AtSign, signal: AbortSignal): Promise<void> {
    await this.#pin(peer, true, signal);
  }

  async #vouch(peer: AtSign, aesKey: Uint8Array, fresh: boolean, signal: AbortSignal): Promise<KeyObject> {
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

  async #pin(peer: AtSign, fresh: boolean, signal: AbortSignal): Promise<Pinned> {
    const { records, configured, remembered, log } = this.#options;
    const text = await records.publicKeyOf(peer, { fresh }, signal);
    const actual = fingerprintOf(text);
    const decision = decidePin({ configured: configured.get(peer), remembered: remembered.get(peer), actual });
    if (decision.verdict === "changed") {
      this.#pinned.delete(peer);
      throw new PeerKeyChanged(peer, decision.expected, actual);
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
