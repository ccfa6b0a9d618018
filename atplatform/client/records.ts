import { fromBase64, fromUtf8 } from "../../core/bytes.js";
import { EdgeError, LimitExceeded } from "../../core/errors.js";
import { decryptText, encryptText, newIv, parseIv } from "../crypto/aes-ctr.js";
import { knownAlgorithm } from "../crypto/algorithms.js";
import type { AtKeys } from "../crypto/at-keys.js";
import { decodeBase2e15, encodeBase2e15 } from "../crypto/base2e15.js";
import { publicKeyChecksum } from "../crypto/digests.js";
import { DecryptionFailed } from "../crypto/errors.js";
import { parsePublicKey } from "../crypto/rsa.js";
import { signText, verifyText } from "../crypto/signatures.js";
import { makeAtKey } from "../protocol/at-key.js";
import type { AtSign } from "../protocol/at-sign.js";
import type { MetadataOptions } from "../protocol/metadata-options.js";
import { deleteVerb } from "../protocol/verbs/delete.js";
import type { RecordPart } from "../protocol/key-grammar.js";
import { llookup } from "../protocol/verbs/llookup.js";
import { lookup } from "../protocol/verbs/lookup.js";
import { plookup } from "../protocol/verbs/plookup.js";
import { scan } from "../protocol/verbs/scan.js";
import { updateMeta } from "../protocol/verbs/update-meta.js";
import { type Update, update } from "../protocol/verbs/update.js";
import type { CommandLink } from "./command-link.js";
import { AnswerInvalid, NotActivated, NoSharedKey, PublicKeyChanged } from "./errors.js";
import type { PublicKeys } from "./public-keys.js";
import {
  answerOrNone,
  json,
  parseMetadata,
  parseRecordJson,
  type RecordJson,
  type RecordMetadata,
} from "./record-json.js";
import { type RecordName, recordNameOf } from "./record-name.js";
import type { SharedKeys } from "./shared-keys.js";

export interface PutOptions {
  /** When it expires, from now. */
  readonly ttlMs?: number;
  /** When it becomes visible, from now. */
  readonly ttbMs?: number;
  /** How often the receiver's copy is refreshed; -1: never; left out: no copy is kept. In seconds. */
  readonly ttrSeconds?: number;
  /** The receiver's copy goes when the record is deleted. */
  readonly ccd?: boolean;
  /** False writes a self or shared record in clear text. */
  readonly encrypt?: boolean;
  /** Another AES key than the shared one; it goes along, encrypted for the receiver. */
  readonly encryptWith?: Uint8Array;
  /** For readers that ignore `ivNonce` (Java, Python, Rust, ESP32): shows the XOR of two such values to everybody. */
  readonly legacyZeroIv?: boolean;
}

export interface AtRecord {
  /** The name as the atServer has it; a copy's begins with `cached:`. */
  readonly key: string;
  /** Decrypted and decoded text; of a binary record `bytes` in Base2e15. `null`: the record has metadata only. */
  readonly value: string | null;
  /** Of a record with `isBinary`. */
  readonly bytes?: Buffer;
  readonly metadata: RecordMetadata;
  readonly wasEncrypted: boolean;
  /** What it was decrypted with, so that a seal made with that key can be checked. */
  readonly aesKey?: Uint8Array;
  /** Whether `dataSignature` of a public record is its owner's. Absent: there is none. */
  readonly signature?: "valid" | "invalid";
}

export interface RecordsOptions {
  readonly atSign: AtSign;
  readonly keys: AtKeys;
  readonly link: CommandLink;
  readonly publicKeys: PublicKeys;
  readonly sharedKeys: SharedKeys;
}

/** What Dart allows; an atServer takes 10,240,000 bytes a command. */
export const MAX_VALUE_BYTES = 10_230_000;

/** Records: put, get, delete and scan, with encryption by the rules of client.md, section 6. */
export class Records {
  readonly #options: RecordsOptions;

  constructor(options: RecordsOptions) {
    this.#options = options;
  }

  /** Writes a record of ours; resolves with the commit id (-1: not committed). */
  async put(
    name: Omit<RecordName, "by">,
    value: string | Uint8Array,
    options: PutOptions,
    signal: AbortSignal,
  ): Promise<number> {
    const line = update.format(await this.prepare(name, value, options, signal));
    return Number(await this.#options.link.send(line, { repeatable: true }, signal));
  }

  /** The command that {@link put} sends, encrypted and signed, for whoever sends it later. */
  async prepare(
    name: Omit<RecordName, "by">,
    value: string | Uint8Array,
    options: PutOptions,
    signal: AbortSignal,
  ): Promise<Update> {
    const { atSign } = this.#options;
    const isBinary = typeof value !== "string";
    const text = isBinary ? encodeBase2e15(value) : value;
    const key = makeAtKey({ scope: name.for, entity: name.key, owner: atSign });
    const { ttlMs, ttbMs, ttrSeconds, ccd } = options;
    const written = await this.#protect(name.for, text, options, signal);
    if (Buffer.byteLength(written.value) > MAX_VALUE_BYTES) {
      throw new LimitExceeded(`a value has at most ${MAX_VALUE_BYTES} bytes on the wire`);
    }
    const metadata: MetadataOptions = {
      ...(ttlMs !== undefined && { ttlMs }),
      ...(ttbMs !== undefined && { ttbMs }),
      ...(ttrSeconds !== undefined && { ttrSeconds }),
      ...(ccd !== undefined && { ccd }),
      ...(isBinary && { isBinary }),
      ...written.metadata,
    };
    return { key, value: written.value, options: metadata };
  }

  /** Reads a record, its metadata included. `undefined`: there is none, or it has expired. */
  async get(
    name: RecordName,
    { fresh = false }: { readonly fresh?: boolean },
    signal: AbortSignal,
  ): Promise<AtRecord | undefined> {
    const line = this.#lookupLine(name, fresh);
    const answer = await answerOrNone(this.#options.link.send(line, { repeatable: true }, signal));
    return answer === undefined ? undefined : await this.open(name, parseRecordJson(answer), signal);
  }

  /** Decrypts, decodes and checks a record as an atServer has it. */
  async open(name: RecordName, record: RecordJson, signal: AbortSignal): Promise<AtRecord> {
    const isPublic = name.for === "public" || /^(?:cached:)?public:/u.test(record.key);
    return isPublic ? await this.#openPublic(name, record, signal) : await this.#openPrivate(name, record, signal);
  }

  /** Metadata without the value; `undefined` when there is no such record. */
  async metadataOf(name: RecordName, signal: AbortSignal): Promise<RecordMetadata | undefined> {
    const line = this.#lookupLine(name, false, "meta");
    const answer = await answerOrNone(this.#options.link.send(line, { repeatable: true }, signal));
    return answer === undefined ? undefined : parseMetadata(answer);
  }

  /**
   * Changes when a record of ours expires, is born or refreshed; its value stays. Resolves with the commit id, or
   * `undefined` when there is no such record.
   */
  async setMetadata(
    name: Omit<RecordName, "by">,
    { ttlMs, ttbMs, ttrSeconds, ccd }: Pick<PutOptions, "ttlMs" | "ttbMs" | "ttrSeconds" | "ccd">,
    signal: AbortSignal,
  ): Promise<number | undefined> {
    const { atSign, link } = this.#options;
    const before = await this.metadataOf(name, signal);
    if (!before) return undefined; // `update:meta` would make one without a value
    const line = updateMeta.format({
      key: makeAtKey({ scope: name.for, entity: name.key, owner: atSign }),
      options: {
        ...(ttlMs !== undefined && { ttlMs }),
        ...(ttbMs !== undefined && { ttbMs }),
        ...(ttrSeconds !== undefined && { ttrSeconds }),
        ...(ccd !== undefined && { ccd }),
        // These two an atServer sets to false when they are left out (trap 30 of atserver.md).
        isBinary: before.isBinary ?? false,
        isEncrypted: before.isEncrypted ?? false,
      },
    });
    return Number(await link.send(line, { repeatable: true }, signal));
  }

  /** Deletes a record of ours. That there was none is no failure. */
  async delete(name: Omit<RecordName, "by">, signal: AbortSignal): Promise<void> {
    const key = makeAtKey({ scope: name.for, entity: name.key, owner: this.#options.atSign });
    await this.#options.link.send(deleteVerb.format({ key }), { repeatable: true }, signal);
  }

  /** Names on our atServer, or of what another atSign shares with us. */
  async scan(
    { regex, showHidden = false, of }: { readonly regex?: string; readonly showHidden?: boolean; readonly of?: AtSign },
    signal: AbortSignal,
  ): Promise<readonly string[]> {
    const line = scan.format({
      showHidden,
      ...(of !== undefined && of !== this.#options.atSign && { atSign: of }),
      ...(regex !== undefined && { regex }),
    });
    const answer = await this.#options.link.send(line, { repeatable: true }, signal);
    const names = answer === "null" ? [] : json(answer);
    if (!Array.isArray(names) || !names.every((name) => typeof name === "string")) {
      throw new AnswerInvalid("expected a list of names");
    }
    return names;
  }

  /** The records that {@link scan} lists, one after the other; one that goes meanwhile is left out. */
  async *readAll(options: Parameters<Records["scan"]>[0], signal: AbortSignal): AsyncGenerator<AtRecord, void> {
    for (const fullName of await this.scan(options, signal)) {
      const name = recordNameOf(fullName, this.#options.atSign);
      const record = name && (await this.get(name, {}, signal));
      if (record) yield record;
    }
  }

  async #protect(
    scope: RecordName["for"],
    text: string,
    { encrypt = true, encryptWith, legacyZeroIv = false }: PutOptions,
    signal: AbortSignal,
  ): Promise<{ readonly value: string; readonly metadata: MetadataOptions }> {
    const { keys, sharedKeys, atSign } = this.#options;
    if (scope === "public") {
      const dataSignature = signText(text, keys.encryption.privateKey);
      return { ...singleLine(text, { dataSignature, isEncrypted: false }) };
    }
    if (!encrypt) return singleLine(text, { isEncrypted: false, sharedKeyEnc: null, pubKeyCS: null, ivNonce: null });
    const peer = scope === atSign ? undefined : scope;
    const shared = peer && (await sharedKeys.forSending(peer, signal, encryptWith));
    const iv = legacyZeroIv ? parseIv(null) : newIv();
    return {
      value: encryptText(text, shared?.aesKey ?? encryptWith ?? keys.selfKey.reveal(), iv),
      metadata: {
        isEncrypted: true,
        ...(shared && { sharedKeyEnc: shared.sharedKeyEnc, pubKeyCS: shared.pubKeyCS }),
        ivNonce: legacyZeroIv ? null : Buffer.from(iv).toString("base64"),
      },
    };
  }

  #lookupLine({ key, for: scope, by }: RecordName, bypassCache: boolean, part: RecordPart = "all"): string {
    const { atSign } = this.#options;
    const owner = by ?? atSign;
    if (owner === atSign) {
      return llookup.format({ part, key: makeAtKey({ scope, entity: key, owner }) });
    }
    const verb = scope === "public" ? plookup : lookup;
    return verb.format({ part, bypassCache, entity: key.toLowerCase(), owner });
  }

  async #openPublic({ by }: RecordName, { key, data, metadata }: RecordJson, signal: AbortSignal): Promise<AtRecord> {
    const value = data === null ? null : decoded(data, metadata);
    const { dataSignature } = metadata;
    const signature =
      dataSignature !== undefined && value !== null
        ? await this.#checkSignature(by ?? this.#options.atSign, value, dataSignature, signal)
        : undefined;
    return {
      ...withBytes(value, metadata),
      key,
      value,
      metadata,
      wasEncrypted: false,
      ...(signature && { signature }),
    };
  }

  async #checkSignature(
    owner: AtSign,
    value: string,
    signature: string,
    signal: AbortSignal,
  ): Promise<"valid" | "invalid"> {
    const { publicKeys } = this.#options;
    try {
      const { text } = await publicKeys.get(owner, {}, signal);
      // In a batch Dart writes a newline as this text, and signs it as a newline.
      const texts = [value, value.replaceAll("~NL~", "\n")];
      return texts.some((text_) => verifyText(text_, signature, parsePublicKey(text))) ? "valid" : "invalid";
    } catch (error) {
      if (error instanceof NotActivated) return "invalid";
      throw error;
    }
  }

  async #openPrivate(name: RecordName, record: RecordJson, signal: AbortSignal): Promise<AtRecord> {
    const { key, data, metadata } = record;
    const plain = (value: string | null): AtRecord => ({
      ...withBytes(value, metadata),
      key,
      value,
      metadata,
      wasEncrypted: false,
    });
    if (data === null) return plain(null);
    const { isEncrypted, ivNonce, sharedKeyEnc } = metadata;
    const mustDecrypt = isEncrypted === true || ivNonce !== undefined || sharedKeyEnc !== undefined;
    if (!mustDecrypt && !looksEncrypted(data)) return plain(decoded(data, metadata));
    try {
      const { text, aesKey } = await this.#decrypt(name, data, metadata, signal);
      return { ...withBytes(text, metadata), key, value: text, metadata, wasEncrypted: true, aesKey };
    } catch (error) {
      if (mustDecrypt || !(error instanceof DecryptionFailed || error instanceof NoSharedKey)) throw error;
      return plain(decoded(data, metadata));
    }
  }

  async #decrypt(
    { for: scope, by }: RecordName,
    data: string,
    metadata: RecordMetadata,
    signal: AbortSignal,
  ): Promise<{ readonly text: string; readonly aesKey: Uint8Array }> {
    const { atSign, keys, sharedKeys } = this.#options;
    if (metadata.encAlgo !== undefined) knownAlgorithm("encAlgo", metadata.encAlgo);
    if (metadata.skeEncAlgo !== undefined) knownAlgorithm("skeEncAlgo", metadata.skeEncAlgo);
    if (by !== undefined && by !== atSign) return await this.#decryptReceived(by, data, metadata, signal);
    const isSelf = scope === undefined || scope === atSign;
    const aesKey = isSelf ? keys.selfKey.reveal() : await sharedKeys.existing(scope as AtSign, signal);
    if (!aesKey) throw new NoSharedKey(`we have no key for ${String(scope)}`);
    return { text: decryptText(data, aesKey, parseIv(metadata.ivNonce)), aesKey };
  }

  async #decryptReceived(
    sender: AtSign,
    data: string,
    { ivNonce, sharedKeyEnc, pubKeyCS }: RecordMetadata,
    signal: AbortSignal,
  ): Promise<{ readonly text: string; readonly aesKey: Uint8Array }> {
    const { keys, sharedKeys } = this.#options;
    if (pubKeyCS !== undefined && pubKeyCS !== publicKeyChecksum(keys.encryption.publicText)) {
      throw new PublicKeyChanged(`${sender} encrypted the record for another public key of ours`);
    }
    return await decryptWithAny(sharedKeys.forReading(sender, sharedKeyEnc, signal), data, parseIv(ivNonce));
  }
}

/** The text under the first key that fits. @throws {DecryptionFailed} when none does. */
export async function decryptWithAny(
  keys: AsyncIterable<Uint8Array>,
  data: string,
  iv: Uint8Array,
): Promise<{ readonly text: string; readonly aesKey: Uint8Array }> {
  let failure = new DecryptionFailed("there is no key for the value");
  for await (const aesKey of keys) {
    try {
      return { text: decryptText(data, aesKey, iv), aesKey };
    } catch (error) {
      if (!(error instanceof DecryptionFailed)) throw error;
      failure = error;
    }
  }
  throw failure;
}

/**
 * A value with line ends goes as base64, as a command is one line. An atServer keeps metadata that an update leaves out,
 * so what was said of the value before must be taken back: `null`.
 */
function singleLine(
  text: string,
  metadata: MetadataOptions,
): { readonly value: string; readonly metadata: MetadataOptions } {
  if (!/[\r\n]|\s$/u.test(text)) return { value: text, metadata: { ...metadata, encoding: null } };
  return { value: Buffer.from(text).toString("base64"), metadata: { ...metadata, encoding: "base64" } };
}

/** Old data says `EncodingType.base64`. */
function decoded(data: string, { encoding }: RecordMetadata): string {
  if (encoding !== "base64" && encoding !== "EncodingType.base64") return data;
  try {
    return fromUtf8(fromBase64(data));
  } catch (cause) {
    if (!(cause instanceof EdgeError)) throw cause;
    throw new AnswerInvalid("the record is not encoded as its metadata says", { cause });
  }
}

const withBytes = (value: string | null, { isBinary }: RecordMetadata): { readonly bytes?: Buffer } =>
  isBinary === true && value !== null ? { bytes: decodeBase2e15(value) } : {};

/** Old clients forgot to say that a value is encrypted: base64 of whole AES blocks may be one. */
const looksEncrypted = (data: string): boolean =>
  /^(?:[A-Za-z0-9+/]{4})+(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$|^[A-Za-z0-9+/]{2}==$/u.test(data) &&
  Buffer.from(data, "base64").length % 16 === 0;
