import { randomUUID } from "node:crypto";
import type { JsonObject } from "../messages/json-field.js";
import { keyHashOf, signKeyProof } from "../messages/key-proof.js";
import { atKeyOf, proofKey, type DeviceAddress } from "../messages/names.js";
import { seal } from "../messages/seal.js";
import type { Platform } from "./platform.js";

/** What we send to the owner of a device: sealed, under an AES key that we have vouched for. */
export class Outbound {
  readonly #platform: Platform;
  readonly #owner: string;
  readonly #address: DeviceAddress;
  readonly #guard: ((aesKey: Uint8Array, signal: AbortSignal) => Promise<void>) | undefined;
  /** Hash of the AES key whose proof is with our atServer. */
  #published: string | undefined;

  /** @param guard throws when this AES key must not be used; left out, any that our atServer gives is. */
  constructor(
    platform: Platform,
    owner: string,
    address: DeviceAddress,
    guard?: (aesKey: Uint8Array, signal: AbortSignal) => Promise<void>,
  ) {
    this.#platform = platform;
    this.#owner = owner;
    this.#address = address;
    this.#guard = guard;
  }

  /** @param id the same on a repeat of the same message. */
  async send(
    message: { readonly name: string; readonly body: JsonObject; readonly ttlnMs: number; readonly id?: string },
    signal: AbortSignal,
  ): Promise<void> {
    const aesKey = await this.#provenKey(signal);
    const { name, ttlnMs, id = randomUUID() } = message;
    const text = seal(message.body, atKeyOf(this.#owner, name, this.#platform.atSign), aesKey);
    await this.#platform.notify({ id, to: this.#owner, name, text, aesKey, ttlnMs }, signal);
  }

  /** The AES key, once its proof is published. */
  async #provenKey(signal: AbortSignal): Promise<Uint8Array> {
    const { aesKey } = await this.#platform.sharedKeyFor(this.#owner, signal);
    const hash = keyHashOf(aesKey);
    if (hash === this.#published) return aesKey;
    await this.#guard?.(aesKey, signal);
    const { atSign, privateKey } = this.#platform;
    const name = proofKey(this.#address);
    const proof = signKeyProof({ from: atSign, to: this.#owner, aesKey }, privateKey);
    const text = seal({ ...proof }, atKeyOf(this.#owner, name, atSign), aesKey);
    await this.#platform.putShared(this.#owner, name, text, signal);
    this.#published = hash;
    return aesKey;
  }
}
