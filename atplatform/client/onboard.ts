import { systemClock } from "../../core/clock.js";
import { codeOf } from "../../core/errors.js";
import { Secret } from "../../core/secret.js";
import { newAesKey } from "../crypto/aes-ctr.js";
import type { AtKeys } from "../crypto/at-keys.js";
import { checkAtKeysPath, readAtKeysFile, writeAtKeysFile } from "../crypto/at-keys-file.js";
import { KeyFileExists } from "../crypto/errors.js";
import { newRsaKeyPair } from "../crypto/rsa.js";
import { AtServerError } from "../protocol/at-error.js";
import type { AtSign } from "../protocol/at-sign.js";
import { deleteVerb } from "../protocol/verbs/delete.js";
import { enroll } from "../protocol/verbs/enroll.js";
import { lookup } from "../protocol/verbs/lookup.js";
import { update } from "../protocol/verbs/update.js";
import { AtSignUnknown, CertificateRefused, ConnectFailed } from "../transport/errors.js";
import type { Connection } from "./connection.js";
import { encryptDefaultKeys } from "./default-keys.js";
import { AlreadyActivated, AnswerInvalid } from "./errors.js";
import { logInWithKey, logInWithSecret } from "./login.js";
import { dialerFor, type ReachOptions } from "./reach.js";
import { answerOrNone, jsonObject } from "./record-json.js";

export type OnboardStep = "wait" | "keys" | "secret" | "enroll" | "login" | "publish" | "finish";

export interface OnboardOptions extends ReachOptions {
  /** The CRAM secret of the registrar; of no use any more afterwards. */
  readonly secret: Secret;
  /** Where the keys go. When the file is there already, an onboarding that was cut short goes on with its keys. */
  readonly keyFile: string;
  readonly appName?: string;
  readonly deviceName?: string;
  /** How often, two seconds apart, to look for an atServer that is still being set up. */
  readonly attempts?: number;
  readonly onStep?: (step: OnboardStep) => void;
}

const ATTEMPT_EVERY_MS = 2_000;
const DEFAULT_ATTEMPTS = 50;

/**
 * Makes an atSign one's own: keys are made here, the atServer gets the public ones, and the registrar's secret is
 * deleted (client.md, 4.3). At no point would a crash lose the atSign: the key file is written before the server
 * learns of a key, and the secret goes last.
 *
 * @throws {AlreadyActivated} when somebody else's key is published already.
 * @throws {AtServerError} (AT0401: wrong secret; AT0015: it is used up), {@link AtSignUnknown}, {@link ConnectFailed}.
 */
export async function onboard(options: OnboardOptions, signal: AbortSignal): Promise<AtKeys> {
  const { atSign, keyFile, secret, onStep = () => undefined } = options;
  const dialer = dialerFor(options);
  const dial: Dial = (signal) => dialer.dial({}, signal);
  onStep("wait");
  const published = await waitForServer(options, dial, signal);
  onStep("keys");
  const { keys: made, isNew } = await keysOf(keyFile, atSign);
  if (published !== undefined && published !== made.encryption.publicText) {
    throw new AlreadyActivated(`${atSign} has published a key that is not in ${keyFile}`);
  }
  let keys = made;
  if (isNew || !(await knows(dial, atSign, keys, signal))) {
    onStep("secret");
    await using connection = await dial(signal);
    await logInWithSecret(connection, atSign, secret, signal);
    onStep("enroll");
    keys = await introduce(connection, keys, options, signal);
    if (keys !== made) await writeAtKeysFile(keyFile, atSign, keys, { overwrite: true });
  }
  onStep("login");
  await using connection = await dial(signal);
  await logInWithKey(connection, atSign, keys, signal);
  onStep("publish");
  const key = `public:publickey${atSign}`;
  const value = keys.encryption.publicText;
  await connection.send(update.format({ key, value, options: { isEncrypted: false } }), {}, signal);
  onStep("finish");
  await connection.send(deleteVerb.format({ key: "privatekey:at_secret" }), {}, signal);
  return keys;
}

type Dial = (signal: AbortSignal) => Promise<Connection>;

/** The public key that the atServer has, once it is there. */
async function waitForServer(
  { atSign, attempts = DEFAULT_ATTEMPTS, clock = systemClock }: OnboardOptions,
  dial: Dial,
  signal: AbortSignal,
): Promise<string | undefined> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      await using connection = await dial(signal);
      const line = lookup.format({ part: "value", bypassCache: false, entity: "publickey", owner: atSign });
      return (await answerOrNone(connection.send(line, {}, signal)))?.trim();
    } catch (error) {
      const mayCome =
        error instanceof AtSignUnknown || (error instanceof ConnectFailed && !(error instanceof CertificateRefused));
      if (!mayCome || attempt >= attempts) throw error;
      await clock.sleep(ATTEMPT_EVERY_MS, signal);
    }
  }
}

/** The keys of the file or, when there is none, new ones that are in the file from now on. */
async function keysOf(keyFile: string, atSign: AtSign): Promise<{ readonly keys: AtKeys; readonly isNew: boolean }> {
  try {
    await checkAtKeysPath(keyFile);
  } catch (error) {
    if (error instanceof KeyFileExists) return { keys: await readAtKeysFile(keyFile), isNew: false };
    throw error;
  }
  const [pkam, encryption] = await Promise.all([newRsaKeyPair(), newRsaKeyPair()]);
  const keys = { pkam, encryption, selfKey: new Secret<Uint8Array>(newAesKey()) };
  await writeAtKeysFile(keyFile, atSign, keys);
  return { keys, isNew: true };
}

/** Whether the atServer has our authentication key already. */
async function knows(dial: Dial, atSign: AtSign, keys: AtKeys, signal: AbortSignal): Promise<boolean> {
  await using connection = await dial(signal);
  try {
    await logInWithKey(connection, atSign, keys, signal);
    return true;
  } catch (error) {
    if (codeOf(error) === "AT0401" || codeOf(error) === "AT0015") return false;
    throw error;
  }
}

/** Makes our authentication key known on a connection that the secret has opened. */
async function introduce(
  connection: Connection,
  keys: AtKeys,
  { appName = "firstApp", deviceName = "firstDevice" }: OnboardOptions,
  signal: AbortSignal,
): Promise<AtKeys> {
  const symmetricKey = newAesKey();
  const defaultKeys = encryptDefaultKeys(keys, symmetricKey);
  const params = { appName, deviceName, ...defaultKeys, apkamPublicKey: keys.pkam.publicText };
  try {
    const line = enroll.format({ operation: "request", force: false, params });
    const { enrollmentId, status } = jsonObject(await connection.send(line, {}, signal));
    if (typeof enrollmentId !== "string" || status !== "approved") {
      throw new AnswerInvalid("the first enrolment was not approved");
    }
    return { ...keys, apkamSymmetricKey: new Secret<Uint8Array>(symmetricKey), enrollmentId };
  } catch (error) {
    // A server from before enrolments does not know the verb.
    if (!(error instanceof AtServerError) || error.code !== "AT0003") throw error;
  }
  const line = update.format({ key: "privatekey:at_pkam_publickey", value: keys.pkam.publicText, options: {} });
  await connection.send(line, {}, signal);
  return keys;
}
