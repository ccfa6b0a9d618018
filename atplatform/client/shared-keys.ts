import { createHash } from "node:crypto";
import type { Clock } from "../../core/clock.js";
import { untilAborted } from "../../core/scope.js";
import { newAesKey } from "../crypto/aes-ctr.js";
import { DecryptionFailed } from "../crypto/errors.js";
import type { KeyPair } from "../crypto/rsa.js";
import { decryptAesKey, encryptAesKey, parsePublicKey } from "../crypto/rsa.js";
import type { AtSign } from "../protocol/at-sign.js";
import { deleteVerb } from "../protocol/verbs/delete.js";
import { llookup } from "../protocol/verbs/llookup.js";
import { lookup } from "../protocol/verbs/lookup.js";
import { update } from "../protocol/verbs/update.js";
import { BoundedMap } from "./bounded-map.js";
import type { CommandLink } from "./command-link.js";
import { NoSharedKey } from "./errors.js";
import type { PublicKeys } from "./public-keys.js";
import { answerOrNone, parseRecordJson } from "./record-json.js";

/** The AES key that one atSign uses for another, as the sender needs it. */
export interface SharedKey {
  /** 32 bytes. */
  readonly aesKey: Uint8Array;
  /** The key's text encrypted for the receiver; goes with every value. */
  readonly sharedKeyEnc: string;
  /** Checksum of the receiver's public key that was used for it. */
  readonly pubKeyCS: string;
}

export interface SharedKeysOptions {
  readonly atSign: AtSign;
  readonly encryption: KeyPair;
  readonly link: CommandLink;
  readonly publicKeys: PublicKeys;
  readonly clock: Clock;
  /** Of the client: a key in the making is shared by all who wait for it, so none of them ends it. */
  readonly life: AbortSignal;
  readonly random?: () => number;
}

const MAX_KEPT = 1000;
/** How long the receiver's atServer may use its copy of our record, 45 days, as Dart says. */
const TTR_SECONDS = 3_888_000;
const RACE_MIN_MS = 200;
const RACE_SPREAD_MS = 600;

/**
 * Shared AES keys, both directions (client.md, 5). A key is directional: the one that we encrypt with for bob is ours,
 * the one that bob encrypts with for us is his.
 */
export class SharedKeys {
  readonly #options: SharedKeysOptions;
  /** One promise a peer: two sends at once must not make two keys. */
  readonly #own = new Map<AtSign, Promise<Uint8Array>>();
  readonly #encrypted = new BoundedMap<string, string>(MAX_KEPT);
  readonly #copyChecked = new BoundedMap<AtSign, string>(MAX_KEPT);
  readonly #received = new BoundedMap<AtSign, Uint8Array>(MAX_KEPT);
  readonly #decrypted = new BoundedMap<string, Uint8Array>(MAX_KEPT);

  constructor(options: SharedKeysOptions) {
    this.#options = options;
  }

  /**
   * For sending to `peer`; the key is made, and written to both records, when there is none. Or for a key that the
   * caller brings, e.g. the one that a stored message was sealed with.
   */
  async forSending(peer: AtSign, signal: AbortSignal, brought?: Uint8Array): Promise<SharedKey> {
    const aesKey = brought ?? (await untilAborted(this.#ownKey(peer), signal));
    const { encrypted, checksum } = await this.#encryptFor(peer, aesKey, signal);
    if (!brought) await this.#keepTheirCopy(peer, encrypted, checksum, signal);
    return { aesKey, sharedKeyEnc: encrypted, pubKeyCS: checksum };
  }

  /** The key that we use for `peer`, or `undefined` when there is none yet; for reading our own shared records. */
  async existing(peer: AtSign, signal: AbortSignal): Promise<Uint8Array | undefined> {
    return (await this.#own.get(peer)?.catch(() => undefined)) ?? (await this.#lookUpOwn(peer, signal));
  }

  /**
   * Keys with which a value of `sender` may be encrypted, the likeliest first: the one that came with it, the one that
   * is known, the one that the sender's atServer has now. Lazy: each costs more than the one before.
   *
   * @throws {NoSharedKey} at the end when there was none at all.
   */
  async *forReading(
    sender: AtSign,
    sharedKeyEnc: string | undefined,
    signal: AbortSignal,
  ): AsyncGenerator<Uint8Array, void> {
    const sent = sharedKeyEnc === undefined ? undefined : this.#decryptSent(sharedKeyEnc);
    if (sent) yield sent;
    const known = this.#received.get(sender);
    if (known) yield known;
    const first = known ? undefined : await this.#lookUpReceived(sender, false, signal);
    if (first) yield first;
    const fresh = await this.#lookUpReceived(sender, true, signal);
    if (fresh) yield fresh;
    if (!sent && !known && !first && !fresh) {
      throw new NoSharedKey(`${sender} has shared no key with ${this.#options.atSign}`);
    }
  }

  /** The sender has announced another key. */
  forget(sender: AtSign): void {
    this.#received.delete(sender);
  }

  #ownKey(peer: AtSign): Promise<Uint8Array> {
    const known = this.#own.get(peer);
    if (known) return known;
    if (this.#own.size >= MAX_KEPT) this.#own.clear();
    const found = this.#findOrMake(peer, this.#options.life);
    this.#own.set(peer, found);
    found.catch(() => this.#own.delete(peer));
    return found;
  }

  async #findOrMake(peer: AtSign, signal: AbortSignal): Promise<Uint8Array> {
    const found = await this.#lookUpOwn(peer, signal);
    if (found) return found;
    const { atSign, encryption, link, clock, random = Math.random } = this.#options;
    const made = newAesKey();
    await link.send(deleteVerb.format({ key: theirRecord(atSign, peer) }), { repeatable: true }, signal);
    const value = encryptAesKey(made, encryption.publicKey);
    const line = update.format({ key: ownRecord(atSign, peer), value, options: { isEncrypted: false } });
    await link.send(line, { repeatable: true }, signal);
    // Another device of ours may be doing the same: whose record stands after a while has won (client.md, 5.4).
    await clock.sleep(RACE_MIN_MS + Math.round(random() * RACE_SPREAD_MS), signal);
    return (await this.#lookUpOwn(peer, signal)) ?? made;
  }

  async #lookUpOwn(peer: AtSign, signal: AbortSignal): Promise<Uint8Array | undefined> {
    const { atSign, encryption, link } = this.#options;
    const line = llookup.format({ part: "value", key: ownRecord(atSign, peer) });
    const value = await answerOrNone(link.send(line, { repeatable: true }, signal));
    return value === undefined ? undefined : decryptAesKey(value, encryption.privateKey);
  }

  /** Sees to it, once for each public key of theirs, that the receiver's record is there. */
  async #keepTheirCopy(peer: AtSign, encrypted: string, checksum: string, signal: AbortSignal): Promise<void> {
    const checked = this.#copyChecked.get(peer);
    if (checked === checksum) return;
    const isKnownToBeOld = checked !== undefined;
    if (isKnownToBeOld || !(await this.#theirCopyIsFor(peer, checksum, signal))) {
      await this.#writeTheirCopy(peer, encrypted, checksum, signal);
    }
    this.#copyChecked.set(peer, checksum);
  }

  /** Whether the receiver's record is there and, as far as it says so, made for this public key. */
  async #theirCopyIsFor(peer: AtSign, checksum: string, signal: AbortSignal): Promise<boolean> {
    const { atSign, link } = this.#options;
    const line = llookup.format({ part: "all", key: theirRecord(atSign, peer) });
    const answer = await answerOrNone(link.send(line, { repeatable: true }, signal));
    return answer !== undefined && (parseRecordJson(answer).metadata.pubKeyCS ?? checksum) === checksum;
  }

  async #writeTheirCopy(peer: AtSign, value: string, pubKeyCS: string, signal: AbortSignal): Promise<void> {
    const { atSign, link } = this.#options;
    const options = { ttrSeconds: TTR_SECONDS, isEncrypted: false, pubKeyCS };
    const line = update.format({ key: theirRecord(atSign, peer), value, options });
    await link.send(line, { repeatable: true }, signal);
  }

  async #encryptFor(
    peer: AtSign,
    aesKey: Uint8Array,
    signal: AbortSignal,
  ): Promise<{ readonly encrypted: string; readonly checksum: string }> {
    const { text, checksum } = await this.#options.publicKeys.get(peer, {}, signal);
    const name = `${checksum} ${sha256(aesKey)}`;
    let encrypted = this.#encrypted.get(name);
    if (encrypted === undefined) {
      encrypted = encryptAesKey(aesKey, parsePublicKey(text));
      this.#encrypted.set(name, encrypted);
    }
    return { encrypted, checksum };
  }

  /** A Dart AtRpc object can attach the key of another peer, so what is no ciphertext for us is passed over. */
  #decryptSent(sharedKeyEnc: string): Uint8Array | undefined {
    try {
      return this.#decryptKey(sharedKeyEnc);
    } catch (error) {
      if (error instanceof DecryptionFailed) return undefined;
      throw error;
    }
  }

  #decryptKey(sharedKeyEnc: string): Uint8Array {
    const name = sha256(sharedKeyEnc);
    let key = this.#decrypted.get(name);
    if (!key) {
      key = decryptAesKey(sharedKeyEnc, this.#options.encryption.privateKey);
      this.#decrypted.set(name, key);
    }
    return key;
  }

  async #lookUpReceived(sender: AtSign, bypassCache: boolean, signal: AbortSignal): Promise<Uint8Array | undefined> {
    const line = lookup.format({ part: "value", bypassCache, entity: "shared_key", owner: sender });
    const value = await answerOrNone(this.#options.link.send(line, { repeatable: true }, signal));
    if (value === undefined) return undefined;
    const key = this.#decryptKey(value);
    this.#received.set(sender, key);
    return key;
  }
}

const ownRecord = (atSign: AtSign, peer: AtSign): string => `shared_key.${peer.slice(1)}${atSign}`;
const theirRecord = (atSign: AtSign, peer: AtSign): string => `${peer}:shared_key${atSign}`;

const sha256 = (value: string | Uint8Array): string => createHash("sha256").update(value).digest("base64");
