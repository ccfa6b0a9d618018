import { readFile, rm } from "node:fs/promises";
import { systemClock } from "../../core/clock.js";
import { codeOf, EdgeError } from "../../core/errors.js";
import { Secret } from "../../core/secret.js";
import { newAesKey, parseAesKey } from "../crypto/aes-ctr.js";
import type { AtKeys } from "../crypto/at-keys.js";
import { checkAtKeysPath, replaceSecretFile, writeAtKeysFile } from "../crypto/at-keys-file.js";
import { KeyFileInvalid } from "../crypto/errors.js";
import {
  encryptAesKey,
  type KeyPair,
  keyPairOf,
  newRsaKeyPair,
  parsePrivateKey,
  parsePublicKey,
  privateKeyText,
} from "../crypto/rsa.js";
import { unwrapAtKeys, wrapAtKeys } from "../crypto/passphrase.js";
import { AtServerError } from "../protocol/at-error.js";
import type { AtSign } from "../protocol/at-sign.js";
import { enroll as enrollVerb, type Namespaces } from "../protocol/verbs/enroll.js";
import { keys as keysVerb } from "../protocol/verbs/keys.js";
import { lookup } from "../protocol/verbs/lookup.js";
import type { Connection } from "./connection.js";
import { decryptDefaultKeys, requestFingerprint } from "./default-keys.js";
import { AnswerInvalid, EnrollmentRefused, NotActivated } from "./errors.js";
import { logInWithKey } from "./login.js";
import { dialerFor, type ReachOptions } from "./reach.js";
import { answerOrNone, jsonObject } from "./record-json.js";

/** What to tell the approver over another channel: it is what `enroll` waits for him to approve. */
export interface PendingEnrollment {
  readonly enrollmentId: string;
  /** `sha256:` of the request's encrypted symmetric key. */
  readonly fingerprint: string;
}

export interface EnrollOptions extends ReachOptions {
  /** With the device name unique among the atSign's enrolments; letters, digits, `_`, `-`, `.`. Both become public. */
  readonly appName: string;
  readonly deviceName: string;
  /**
   * Adds to the application's name, after a dot, what proves to the approver that this very request is meant: it is
   * given the request's encrypted symmetric key. Letters, digits, `_` and `-`.
   */
  readonly proof?: (encryptedSymmetricKey: string) => string;
  /** What the device may reach, e.g. `{ "north.atedge": "rw" }`; lower case. */
  readonly namespaces: Namespaces;
  /** One-time passcode from `otp:get`, or the atSign's semi-permanent one. */
  readonly passcode: Secret;
  /** When the enrolment ends, from its approval; left out: never. */
  readonly expiresInMs?: number;
  /** Where the keys go. Beside it, `<keyFile>.pending` holds the request until it is decided, over restarts. */
  readonly keyFile: string;
  /** Seals the key file, and the request that waits beside it. */
  readonly passphrase?: Secret;
  /** Called once when the request is filed, and once at a restart. */
  readonly onPending?: (pending: PendingEnrollment) => void;
  readonly pollMs?: number;
}

interface Request {
  /** What it asks for, in words. */
  readonly purpose: string;
  readonly pkam: KeyPair;
  readonly symmetricKey: Uint8Array;
  readonly encryptedSymmetricKey: string;
  readonly publishedKeyText: string;
  readonly enrollmentId?: string;
}

const POLL_MS = 10_000;
/** An atServer answers a wrong passcode after up to 55 s (atserver.md, 3.28.3), and it must be told from a lost answer. */
const REQUEST_TIMEOUT_MS = 90_000;
const NAME = /^[\w.-]+$/u;
/** Wait for these: not decided yet, or the server does not know it yet. */
const UNDECIDED: ReadonlySet<string> = new Set(["AT0026", "AT0401"]);
const REFUSED: ReadonlySet<string> = new Set(["AT0025", "AT0027", "AT0028", "AT0029"]);

/**
 * Makes this device one of the atSign's: keys are made here, a request is filed, and when a device that is one already
 * has approved it, the keys are written to a file (client.md, 4.4). Waits as long as `signal` lets it; when it is
 * stopped meanwhile, the next call goes on with the same request.
 *
 * @throws {EnrollmentRefused} when it was denied, revoked or has expired. {@link AtServerError} (AT0011) on a wrong
 *   passcode or when app and device name are taken; {@link KeyFileExists}; {@link NotActivated}.
 */
export async function enroll(options: EnrollOptions, signal: AbortSignal): Promise<AtKeys> {
  const { atSign, keyFile, passphrase, clock = systemClock, pollMs = POLL_MS } = options;
  for (const name of [options.appName, options.deviceName]) {
    if (!NAME.test(name)) throw new AnswerInvalid(`${JSON.stringify(name)}: only letters, digits, "_", "-" and "."`);
  }
  await checkAtKeysPath(keyFile);
  const pendingFile = `${keyFile}.pending`;
  const dialer = dialerFor(options);
  const dial: Dial = (signal) => dialer.dial({}, signal);
  const pending = await readPending(pendingFile, passphrase);
  const purpose = purposeOf(options);
  if (pending && pending.purpose !== purpose)
    throw new KeyFileInvalid(`${pendingFile} holds another request, for ${pending.purpose}: remove it to ask anew`);
  const unfiled = pending ?? { ...(await newRequest(dial, atSign, signal)), purpose };
  const request = await filed(options, unfiled, { dial, pendingFile, signal });
  const { enrollmentId } = request;
  options.onPending?.({ enrollmentId, fingerprint: requestFingerprint(request.encryptedSymmetricKey) });
  for (;;) {
    const keys = await keysWhenApproved(dial, atSign, request, signal).catch(async (error: unknown) => {
      if (error instanceof EnrollmentRefused) await rm(pendingFile, { force: true });
      throw error;
    });
    if (keys) {
      await writeAtKeysFile(keyFile, atSign, keys, { passphrase });
      await rm(pendingFile, { force: true });
      return keys;
    }
    await clock.sleep(pollMs, signal);
  }
}

type Dial = (signal: AbortSignal) => Promise<Connection>;

/** `atedge on north of @greenhouse, north.atedge:rw` */
function purposeOf({ atSign, appName, deviceName, namespaces }: EnrollOptions): string {
  const access = Object.entries(namespaces).map(([namespace, kind]) => `${namespace}:${kind}`);
  return `${appName} on ${deviceName} of ${atSign}, ${access.sort().join(" ")}`;
}

async function newRequest(dial: Dial, atSign: AtSign, signal: AbortSignal): Promise<Omit<Request, "purpose">> {
  await using connection = await dial(signal);
  const line = lookup.format({ part: "value", bypassCache: false, entity: "publickey", owner: atSign });
  const publishedKeyText = (await answerOrNone(connection.send(line, {}, signal)))?.trim();
  if (publishedKeyText === undefined) throw new NotActivated(`${atSign} has published no encryption key`);
  const symmetricKey = newAesKey();
  const encryptedSymmetricKey = encryptAesKey(symmetricKey, parsePublicKey(publishedKeyText));
  return { pkam: await newRsaKeyPair(), symmetricKey, encryptedSymmetricKey, publishedKeyText };
}

/** The request, known to the server. The keys are on disk before, so that a crash loses neither them nor the passcode. */
async function filed(
  { atSign, appName, deviceName, namespaces, passcode, passphrase, expiresInMs, proof }: EnrollOptions,
  request: Request,
  { dial, pendingFile, signal }: { readonly dial: Dial; readonly pendingFile: string; readonly signal: AbortSignal },
): Promise<Request & { readonly enrollmentId: string }> {
  if (request.enrollmentId !== undefined) return { ...request, enrollmentId: request.enrollmentId };
  await replaceSecretFile(pendingFile, await formatPending(request, passphrase));
  const line = enrollVerb.format({
    operation: "request",
    force: false,
    params: {
      appName: proof ? `${appName}.${proof(request.encryptedSymmetricKey)}` : appName,
      deviceName,
      namespaces,
      otp: passcode.reveal(),
      encryptedAPKAMSymmetricKey: request.encryptedSymmetricKey,
      apkamPublicKey: request.pkam.publicText,
      ...(expiresInMs !== undefined && { apkamKeysExpiryInMillis: expiresInMs }),
    },
  });
  await using connection = await dial(signal);
  const { enrollmentId } = jsonObject(await connection.send(line, { timeoutMs: REQUEST_TIMEOUT_MS }, signal));
  if (typeof enrollmentId !== "string" || !/^[\w-]+$/u.test(enrollmentId)) {
    throw new AnswerInvalid(`${atSign} answered the request with no enrolment id`);
  }
  const known = { ...request, enrollmentId };
  await replaceSecretFile(pendingFile, await formatPending(known, passphrase));
  return known;
}

/** The keys, or `undefined` while nobody has decided. A lost connection is no decision. */
async function keysWhenApproved(
  dial: Dial,
  atSign: AtSign,
  { pkam, symmetricKey, publishedKeyText, enrollmentId }: Request & { readonly enrollmentId: string },
  signal: AbortSignal,
): Promise<AtKeys | undefined> {
  try {
    await using connection = await dial(signal);
    await logInWithKey(connection, atSign, { pkam, enrollmentId }, signal);
    const get = (name: string): Promise<string> => {
      const line = keysVerb.format({ operation: "get", keyName: `${enrollmentId}.${name}.__manage${atSign}` });
      return connection.send(line, {}, signal);
    };
    const answers = { privateKey: await get("default_enc_private_key"), selfKey: await get("default_self_enc_key") };
    const defaultKeys = decryptDefaultKeys(answers, symmetricKey, publishedKeyText);
    return { pkam, ...defaultKeys, apkamSymmetricKey: new Secret(symmetricKey), enrollmentId };
  } catch (error) {
    signal.throwIfAborted();
    const code = codeOf(error) ?? "";
    if (REFUSED.has(code)) {
      throw new EnrollmentRefused(`the enrolment ${enrollmentId} was denied, revoked or has expired`, { cause: error });
    }
    if (error instanceof AnswerInvalid || !(error instanceof EdgeError)) throw error;
    if (error instanceof AtServerError && !UNDECIDED.has(code) && error.remedy === "fix") throw error;
    return undefined;
  }
}

async function formatPending(
  { pkam, symmetricKey, ...texts }: Request,
  passphrase: Secret | undefined,
): Promise<string> {
  const text = JSON.stringify({
    apkamPrivateKey: privateKeyText(pkam.privateKey),
    symmetricKey: Buffer.from(symmetricKey).toString("base64"),
    ...texts,
  });
  return passphrase ? await wrapAtKeys(new Secret(text), passphrase, "salted") : text;
}

async function readPending(path: string, passphrase: Secret | undefined): Promise<Request | undefined> {
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (error) {
    if (codeOf(error) === "ENOENT") return undefined;
    throw error;
  }
  try {
    const members = jsonObject(passphrase ? await unwrapAtKeys(text, passphrase) : text);
    const member = (name: string): string => {
      const value = members[name];
      if (typeof value !== "string") throw new AnswerInvalid(`${name} is missing`);
      return value;
    };
    return {
      purpose: member("purpose"),
      pkam: keyPairOf(parsePrivateKey(member("apkamPrivateKey"))),
      symmetricKey: parseAesKey(member("symmetricKey")),
      encryptedSymmetricKey: member("encryptedSymmetricKey"),
      publishedKeyText: member("publishedKeyText"),
      ...(members.enrollmentId !== undefined && { enrollmentId: member("enrollmentId") }),
    };
  } catch (error) {
    if (!(error instanceof EdgeError)) throw error;
    throw new KeyFileInvalid(`${path}: ${error.message}`); // no cause: it may speak of key material
  }
}
