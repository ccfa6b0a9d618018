import { randomBytes } from "node:crypto";
import { encryptText, newAesKey, newIv } from "../crypto/aes-ctr.js";
import type { AtKeys } from "../crypto/at-keys.js";
import { encryptAesKey, newRsaKeyPair } from "../crypto/rsa.js";
import { AtServerError } from "../protocol/at-error.js";
import type { AtSign } from "../protocol/at-sign.js";
import { enroll, type EnrollOperation, type EnrollParams, type Namespaces } from "../protocol/verbs/enroll.js";
import { keys as keysVerb } from "../protocol/verbs/keys.js";
import { otp } from "../protocol/verbs/otp.js";
import type { CommandLink } from "./command-link.js";
import type { Connection } from "./connection.js";
import { AnswerInvalid } from "./errors.js";
import { logInWithKey } from "./login.js";
import { jsonObject } from "./record-json.js";

export interface ApprovalIvsOptions {
  readonly atSign: AtSign;
  readonly keys: Pick<AtKeys, "encryption" | "enrollmentId">;
  /** Logged in as the approver. */
  readonly link: CommandLink;
  /** A connection of its own that is not logged in. */
  readonly dial: (signal: AbortSignal) => Promise<Connection>;
}

/** `unknown`: the atServer does not let us find out. */
export type ApprovalIvs = "kept" | "dropped" | "unknown";

/** A probe that was cut short ends by itself. */
const PROBE_LIFE_MS = 60_000;

/**
 * Whether the atServer gives devices the IVs that an approval came with. The October 2024 one drops them, and a device
 * can then read what was encrypted with a zero IV only (client.md, 4.5).
 *
 * The approver's own enrolment tells when it was approved with IVs. Otherwise a throw-away enrolment does: asked for,
 * approved with random bytes in the place of keys, looked at and revoked.
 *
 * @param namespaces what the approver is about to grant, so that it may grant them to the throw-away one.
 */
export async function approvalIvs(
  options: ApprovalIvsOptions,
  namespaces: Namespaces,
  signal: AbortSignal,
): Promise<ApprovalIvs> {
  try {
    if (await ownHasIv(options, signal)) return "kept";
    return (await throwAwayHasIv(options, namespaces, signal)) ? "kept" : "dropped";
  } catch (error) {
    if (error instanceof AtServerError || error instanceof AnswerInvalid) return "unknown";
    throw error;
  }
}

async function ownHasIv({ atSign, keys, link }: ApprovalIvsOptions, signal: AbortSignal): Promise<boolean> {
  if (keys.enrollmentId === undefined) return false;
  try {
    return hasIv(await link.send(selfKeyOf(keys.enrollmentId, atSign), { repeatable: true }, signal));
  } catch (error) {
    if (error instanceof AtServerError) return false; // of the first enrolment some keep nothing at all
    throw error;
  }
}

async function throwAwayHasIv(
  { atSign, keys, link, dial }: ApprovalIvsOptions,
  namespaces: Namespaces,
  signal: AbortSignal,
): Promise<boolean> {
  const decide = (operation: EnrollOperation, params: EnrollParams): Promise<string> =>
    link.send(enroll.format({ operation, force: false, params }), {}, signal);
  const pkam = await newRsaKeyPair();
  const params = {
    appName: "probe",
    deviceName: `probe-${randomBytes(6).toString("hex")}`,
    namespaces: Object.fromEntries(Object.keys(namespaces).map((name) => [name, "r"] as const)),
    otp: await link.send(otp.format({ action: "get" }), {}, signal),
    encryptedAPKAMSymmetricKey: encryptAesKey(newAesKey(), keys.encryption.publicKey),
    apkamPublicKey: pkam.publicText,
    apkamKeysExpiryInMillis: PROBE_LIFE_MS,
  };
  await using connection = await dial(signal);
  const request = enroll.format({ operation: "request", force: false, params });
  const { enrollmentId } = jsonObject(await connection.send(request, {}, signal));
  if (typeof enrollmentId !== "string") throw new AnswerInvalid("the request was answered with no enrolment id");
  let ending: EnrollOperation = "deny";
  try {
    await decide("approve", { enrollmentId, ...nothingInParticular() });
    ending = "revoke";
    await using device = await dial(signal);
    await logInWithKey(device, atSign, { pkam, enrollmentId }, signal);
    return hasIv(await device.send(selfKeyOf(enrollmentId, atSign), {}, signal));
  } finally {
    for (const operation of [ending, "delete"] as const) {
      await decide(operation, { enrollmentId }).catch((error: unknown) => {
        if (!(error instanceof AtServerError)) throw error; // not every atServer can delete
      });
    }
  }
}

/** What an approval has, without a key in it. */
function nothingInParticular(): EnrollParams {
  const [key, privateKeyIv, selfKeyIv] = [newAesKey(), newIv(), newIv()];
  const text = Buffer.from(newAesKey()).toString("base64");
  return {
    encryptedDefaultEncryptionPrivateKey: encryptText(text, key, privateKeyIv),
    encPrivateKeyIV: privateKeyIv.toString("base64"),
    encryptedDefaultSelfEncryptionKey: encryptText(text, key, selfKeyIv),
    selfEncKeyIV: selfKeyIv.toString("base64"),
  };
}

const selfKeyOf = (enrollmentId: string, atSign: AtSign): string =>
  keysVerb.format({ operation: "get", keyName: `${enrollmentId}.default_self_enc_key.__manage${atSign}` });

function hasIv(answer: string): boolean {
  const { iv } = jsonObject(answer);
  return typeof iv === "string" && iv !== "";
}
