import { createHash } from "node:crypto";
import { EdgeError } from "../../core/errors.js";
import { Secret } from "../../core/secret.js";
import { decryptText, encryptText, newIv, parseAesKey, parseIv } from "../crypto/aes-ctr.js";
import type { AtKeys } from "../crypto/at-keys.js";
import { keyPairOf, parsePrivateKey, privateKeyText } from "../crypto/rsa.js";
import type { EnrollParams } from "../protocol/verbs/enroll.js";
import { AnswerInvalid } from "./errors.js";
import { jsonObject } from "./record-json.js";

/** The two keys that every device of an atSign has. */
export type DefaultKeys = Pick<AtKeys, "encryption" | "selfKey">;

/**
 * They under an enrolment's symmetric key, as its approver gives them to the atServer. With two random IVs: with the
 * zero IV of old clients, the two ciphertexts give the self key away to whoever sees them (client.md, 4.5).
 */
export function encryptDefaultKeys(
  { encryption, selfKey }: DefaultKeys,
  symmetricKey: Uint8Array,
  { zeroIv = false }: { readonly zeroIv?: boolean } = {},
): EnrollParams {
  const [privateIv, selfIv] = zeroIv ? [parseIv(null), parseIv(null)] : [newIv(), newIv()];
  const selfKeyText = Buffer.from(selfKey.reveal()).toString("base64");
  const encryptedDefaultEncryptionPrivateKey = encryptText(
    privateKeyText(encryption.privateKey),
    symmetricKey,
    privateIv,
  );
  const encryptedDefaultSelfEncryptionKey = encryptText(selfKeyText, symmetricKey, selfIv);
  return {
    encryptedDefaultEncryptionPrivateKey,
    encryptedDefaultSelfEncryptionKey,
    ...(!zeroIv && {
      encPrivateKeyIV: Buffer.from(privateIv).toString("base64"),
      selfEncKeyIV: Buffer.from(selfIv).toString("base64"),
    }),
  };
}

/**
 * What `keys:get` answers, opened: `{"value":…}` from servers that keep no IV, with `"iv"` from others.
 *
 * @throws {AnswerInvalid} when the keys are not those of the published encryption key.
 */
export function decryptDefaultKeys(
  answers: { readonly privateKey: string; readonly selfKey: string },
  symmetricKey: Uint8Array,
  publishedKeyText: string,
): DefaultKeys {
  let keys: DefaultKeys;
  try {
    const encryption = keyPairOf(parsePrivateKey(open(answers.privateKey, symmetricKey)));
    keys = { encryption, selfKey: new Secret<Uint8Array>(parseAesKey(open(answers.selfKey, symmetricKey))) };
  } catch (cause) {
    if (!(cause instanceof EdgeError)) throw cause;
    throw new AnswerInvalid("the keys that the approver gave cannot be read (an atServer that drops their IVs?)", {
      cause,
    });
  }
  if (keys.encryption.publicText === publishedKeyText) return keys;
  throw new AnswerInvalid("the keys that the approver gave are not those of the published encryption key");
}

function open(answer: string, symmetricKey: Uint8Array): string {
  const { value, iv } = jsonObject(answer);
  if (typeof value !== "string") throw new AnswerInvalid("keys:get: expected a value");
  return decryptText(value, symmetricKey, parseIv(typeof iv === "string" ? iv : null));
}

/**
 * What device and approver compare over another channel: a request proves nothing by itself, and a server could swap the
 * key in it to get at the atSign's private key (client.md, 4.5).
 */
export const requestFingerprint = (encryptedApkamSymmetricKey: string): string =>
  `sha256:${createHash("sha256").update(encryptedApkamSymmetricKey).digest("hex")}`;
