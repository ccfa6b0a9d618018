import type { KeyObject } from "node:crypto";
import { EdgeError } from "../core/errors.js";
import { keyHashOf } from "./key-proof.js";
import type { PinStore } from "./peer-trust.js";
import { fingerprintOf } from "./pins.js";

/** Our atServer gives another AES key for a peer than before. Nothing is sent with it until a human accepts it. */
export class OwnKeyChanged extends EdgeError {
  override readonly code = "OWN_KEY_CHANGED";
}

export interface OwnKeyGuardOptions {
  readonly remembered: PinStore;
  /** `sha256:…` of AES keys that a human has accepted. */
  readonly accepted?: ReadonlySet<string>;
  /** What a human does to accept a key; ends the error's message. */
  readonly howToAccept: (fingerprint: string, name: string) => string;
}

/**
 * Our atServer keeps, encrypted for us, the AES keys that we send with. Anybody can encrypt for us, so it could hand us
 * a key that it knows, and read along. The first key for a peer's public key is remembered; another one later stops.
 * A peer with a new public key, which a human has accepted, gets a new AES key as a matter of course.
 */
export class OwnKeyGuard {
  readonly #options: OwnKeyGuardOptions;

  constructor(options: OwnKeyGuardOptions) {
    this.#options = options;
  }

  /** @param peerKey the peer's pinned public key. @throws {OwnKeyChanged} */
  async check(peer: string, peerKey: KeyObject, aesKey: Uint8Array): Promise<void> {
    const { remembered, accepted, howToAccept } = this.#options;
    const pinned = fingerprintOf(peerKey.export({ format: "der", type: "spki" }).toString("base64"));
    const name = `aes:${peer}:${pinned}`;
    const fingerprint = `sha256:${keyHashOf(aesKey)}`;
    const known = remembered.get(name);
    if (known === fingerprint) return;
    if (known !== undefined && !accepted?.has(fingerprint)) {
      throw new OwnKeyChanged(
        `our atServer gives another AES key for ${peer} than before: it could be one that it knows. ` +
          `If you renewed it on purpose, and only then, ${howToAccept(fingerprint, name)}`,
      );
    }
    await remembered.set(name, fingerprint);
  }
}
