import { createHash, type KeyObject } from "node:crypto";
import type { AtSign } from "../../atplatform/protocol/at-sign.js";
import { atStep } from "../../core/steps.js";
import { keyHashOf, signKeyProof } from "../../messages/key-proof.js";
import { atKeyOf, proofKey } from "../../messages/names.js";
import { PeerKeyChanged } from "../../messages/peer-trust.js";
import { fingerprintOf } from "../../messages/pins.js";
import { seal } from "../../messages/seal.js";
import type { UplinkDeps } from "./uplink-client.js";

/**
 * The AES key that we may use for one peer: made for the pinned public key and no other, and vouched for by a proof
 * record before the first message that uses it.
 */
export class PeerKeys {
  readonly #deps: UplinkDeps;
  readonly #peer: AtSign;
  /** The key that the proof was put for, or is being put for. */
  #proof: { readonly hash: string; readonly put: Promise<void> } | undefined;

  constructor(deps: UplinkDeps, peer: AtSign) {
    this.#deps = deps;
    this.#peer = peer;
  }

  /**
   * @throws {PeerKeyChanged} when the peer's public key is not the pinned one, {@link OwnKeyChanged} when our atServer
   * gives another AES key than before, and what the link throws.
   */
  async forSending(signal: AbortSignal): Promise<Uint8Array> {
    const { client, trust } = this.#deps;
    let pinned = await trust.keyOf(this.#peer, signal); // before any key is made for it
    const { aesKey, pubKeyCS } = await client.sharedKeyFor(this.#peer, signal);
    if (checksumOf(pinned) !== pubKeyCS) {
      // Client and trust ask at different times: the peer's key is another one by now, or was swapped in between.
      await trust.refresh(this.#peer, signal);
      pinned = await trust.keyOf(this.#peer, signal);
      if (checksumOf(pinned) !== pubKeyCS)
        throw new PeerKeyChanged(this.#peer, fingerprintOf(textOf(pinned)), "another");
    }
    const hash = keyHashOf(aesKey);
    if (this.#proof?.hash !== hash) {
      await this.#deps.ownKeys.check(this.#peer, pinned, aesKey);
      this.#proof = { hash, put: this.#putProof(aesKey, signal) };
    }
    await this.#proof.put.catch((error: unknown) => {
      this.#proof = undefined;
      throw error;
    });
    return aesKey;
  }

  async #putProof(aesKey: Uint8Array, signal: AbortSignal): Promise<void> {
    const { client, us, address, privateKey } = this.#deps;
    const name = proofKey(address);
    const envelope = signKeyProof({ from: us, to: this.#peer, aesKey }, privateKey);
    const text = seal({ ...envelope }, atKeyOf(this.#peer, name, us), aesKey);
    await atStep("proof.put", () => client.put({ key: name, for: this.#peer }, text, { encryptWith: aesKey }, signal));
  }
}

const MAX_PEERS = 256;

/** Keys of all peers, so that each proof is put once. */
export function keyRing(deps: UplinkDeps): (peer: AtSign) => PeerKeys {
  const peers = new Map<AtSign, PeerKeys>();
  return (peer) => {
    const known = peers.get(peer) ?? new PeerKeys(deps, peer);
    if (peers.size >= MAX_PEERS) peers.clear(); // what is forgotten is proven once more
    peers.set(peer, known);
    return known;
  };
}

/** `pubKeyCS` (client.md, 2.4): MD5 of the base64 text of a public key. */
const checksumOf = (key: KeyObject): string => createHash("md5").update(textOf(key)).digest("hex");
const textOf = (key: KeyObject): string => key.export({ format: "der", type: "spki" }).toString("base64");
