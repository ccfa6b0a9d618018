import { createPrivateKey, createPublicKey, type KeyObject } from "node:crypto";
import { fromBase64, utf8 } from "../../core/bytes.js";
import { EdgeError, SyntaxInvalid } from "../../core/errors.js";
import { Secret } from "../../core/secret.js";
import { decryptText, encryptAes, parseAesKey, parseIv } from "./aes-ctr.js";
import { KeyFileInvalid, KeyInvalid, PassphraseNeeded } from "./errors.js";
import { type KeyPair, keyPairOf, parsePrivateKey, privateKeyText } from "./rsa.js";
import { eccPublicKeyText, signingAlgoOf } from "./signatures.js";

/** All that one device needs to be an atSign. Nothing in it shows when printed: keys are `KeyObject` or `Secret`. */
export interface AtKeys {
  /** Signs `pkam:` challenges: RSA-2048, or P-256 (then `publicText` is the point in hex). */
  readonly pkam: KeyPair;
  /** The pair of the atSign itself; its public half is `public:publickey@…`. Decrypts shared keys, signs data. */
  readonly encryption: KeyPair;
  /** Encrypts records for oneself; 32 bytes. */
  readonly selfKey: Secret<Uint8Array>;
  /** 32 bytes; of this enrolment. */
  readonly apkamSymmetricKey?: Secret<Uint8Array>;
  /** Goes into `pkam:`; absent for a legacy key. */
  readonly enrollmentId?: string;
  /** Members that this version does not know, by name: they are written back as they were. */
  readonly unknown?: Secret<Readonly<Record<string, unknown>>>;
}

type JsonObject = Readonly<Record<string, unknown>>;

/** The order in which Dart writes them; `<atSign>` repeats the self key and is read by nobody. */
const MEMBERS = [
  "aesPkamPublicKey",
  "aesEncryptPublicKey",
  "aesEncryptPrivateKey",
  "selfEncryptionKey",
  "apkamSymmetricKey",
  "enrollmentId",
  "aesPkamPrivateKey",
] as const;
type Member = (typeof MEMBERS)[number];

/**
 * Reads the text of a `.atKeys` file, in every layout that SDKs write without a passphrase.
 *
 * The protection inside the file is none (the key that decrypts it stands beside), so a wrong self key shows as a key
 * that cannot be read.
 *
 * @throws {KeyFileInvalid} naming the member; never with key material in the message.
 * @throws {PassphraseNeeded} on a wrapped file: `unwrapAtKeys` comes first.
 */
export function parseAtKeys(text: string): AtKeys {
  const file = parseJsonObject(text);
  if ("iv" in file) throw new PassphraseNeeded("the key file is protected by a passphrase");
  const selfKeyText = required(file, "selfEncryptionKey");
  const selfKey = at("selfEncryptionKey", () => parseAesKey(selfKeyText));
  const privateKey = (member: Member, parse: (text: string) => KeyObject): KeyObject =>
    at(member, () => parse(decryptText(required(file, member), selfKey, parseIv(null))));
  const encryption = keyPairOf(privateKey("aesEncryptPrivateKey", parsePrivateKey));
  const pkam = pkamPairOf(privateKey("aesPkamPrivateKey", parsePkamPrivateKey));
  samePublicKey(file, "aesEncryptPublicKey", encryption, selfKey);
  samePublicKey(file, "aesPkamPublicKey", pkam, selfKey);
  const symmetricText = optional(file, "apkamSymmetricKey");
  const enrollmentId = optional(file, "enrollmentId");
  const known: readonly string[] = MEMBERS;
  const unknown = Object.entries(file).filter(([name, value]) => !known.includes(name) && !isSelfKey(name, value));
  return {
    pkam,
    encryption,
    selfKey: new Secret<Uint8Array>(selfKey),
    ...(symmetricText !== undefined && {
      apkamSymmetricKey: new Secret<Uint8Array>(at("apkamSymmetricKey", () => parseAesKey(symmetricText))),
    }),
    ...(enrollmentId !== undefined && { enrollmentId }),
    ...(unknown.length > 0 && { unknown: new Secret<JsonObject>(Object.fromEntries(unknown)) }),
  };

  function isSelfKey(name: string, value: unknown): boolean {
    return name.startsWith("@") && typeof value === "string" && value.trim() === selfKeyText;
  }
}

/** The text of a `.atKeys` file, members in Dart's order. It is as secret as the keys. */
export function formatAtKeys(atSign: string, keys: AtKeys): Secret {
  const selfKey = keys.selfKey.reveal();
  const encrypt = (text: string): string => encryptAes(utf8(text), selfKey, parseIv(null)).toString("base64");
  const selfKeyText = base64(selfKey);
  const symmetric = keys.apkamSymmetricKey?.reveal();
  const file = {
    aesPkamPublicKey: encrypt(keys.pkam.publicText),
    aesEncryptPublicKey: encrypt(keys.encryption.publicText),
    aesEncryptPrivateKey: encrypt(privateKeyText(keys.encryption.privateKey)),
    selfEncryptionKey: selfKeyText,
    [atSign]: selfKeyText,
    ...(symmetric && { apkamSymmetricKey: base64(symmetric) }),
    ...(keys.enrollmentId !== undefined && { enrollmentId: keys.enrollmentId }),
    aesPkamPrivateKey: encrypt(privateKeyText(keys.pkam.privateKey)),
    ...keys.unknown?.reveal(),
  };
  return new Secret(JSON.stringify(file));
}

function parsePkamPrivateKey(text: string): KeyObject {
  let key: KeyObject;
  try {
    key = createPrivateKey({ key: fromBase64(text), format: "der", type: "pkcs8" });
  } catch {
    throw new KeyInvalid("expected a private key in base64 DER"); // no cause: it may speak of the content
  }
  return signingAlgoOf(key) === "rsa2048" ? parsePrivateKey(text) : key;
}

function pkamPairOf(privateKey: KeyObject): KeyPair {
  if (privateKey.asymmetricKeyType === "rsa") return keyPairOf(privateKey);
  return { publicText: eccPublicKeyText(privateKey), publicKey: createPublicKey(privateKey), privateKey };
}

/** A public key in the file may be missing, but not be another one. */
function samePublicKey(file: JsonObject, member: Member, pair: KeyPair, selfKey: Uint8Array): void {
  const encrypted = optional(file, member);
  if (encrypted === undefined) return;
  const text = at(member, () => decryptText(encrypted, selfKey, parseIv(null))).trim();
  if (text !== pair.publicText) throw new KeyFileInvalid(`${member}: does not belong to the private key`);
}

/** The outer object of a key file. @throws {KeyFileInvalid} without a word of the content. */
export function parseJsonObject(text: string): JsonObject {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new KeyFileInvalid("expected a JSON object"); // no cause: V8 repeats the text
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new KeyFileInvalid("expected a JSON object");
  }
  return value as JsonObject;
}

/** `null` and empty mean absent. Java pretty-prints, so values are trimmed. */
function optional(file: JsonObject, member: Member): string | undefined {
  const value = Object.hasOwn(file, member) ? file[member] : undefined;
  if (value === undefined || value === null) return undefined;
  if (typeof value !== "string") throw new KeyFileInvalid(`${member}: expected a text`);
  return value.trim() === "" ? undefined : value.trim();
}

function required(file: JsonObject, member: Member): string {
  const value = optional(file, member);
  if (value === undefined) throw new KeyFileInvalid(`${member}: is missing`);
  return value;
}

/** Puts the member's name before what is wrong with it. */
function at<T>(member: Member, parse: () => T): T {
  try {
    return parse();
  } catch (error) {
    if (!(error instanceof EdgeError)) throw error;
    throw new KeyFileInvalid(`${member}: ${error instanceof SyntaxInvalid ? "is not base64" : error.message}`);
  }
}

const base64 = (bytes: Uint8Array): string => Buffer.from(bytes).toString("base64");
