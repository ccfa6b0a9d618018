import { type AtKeys } from "../crypto/at-keys.js";
import { cramDigest } from "../crypto/digests.js";
import { signChallenge, signingAlgoOf } from "../crypto/signatures.js";
import type { Secret } from "../../core/secret.js";
import type { AtSign } from "../protocol/at-sign.js";
import { cram } from "../protocol/verbs/cram.js";
import { from } from "../protocol/verbs/from.js";
import { pkam } from "../protocol/verbs/pkam.js";
import type { Connection } from "./connection.js";
import { AnswerInvalid } from "./errors.js";

/** Logs in with the authentication key; with its enrolment id when it has one. @throws {AtServerError} (AT0401 …). */
export async function logInWithKey(
  connection: Connection,
  atSign: AtSign,
  keys: Pick<AtKeys, "pkam" | "enrollmentId">,
  signal: AbortSignal,
): Promise<void> {
  const challenge = await challengeFor(connection, atSign, signal);
  const { privateKey } = keys.pkam;
  const line = pkam.format({
    signingAlgo: signingAlgoOf(privateKey),
    hashingAlgo: "sha256",
    ...(keys.enrollmentId !== undefined && { enrollmentId: keys.enrollmentId }),
    signature: signChallenge(challenge, privateKey),
  });
  expectSuccess(await connection.send(line, {}, signal));
}

/** The first login, with the registrar's secret. @throws {AtServerError} (AT0401; AT0015 once the secret is gone). */
export async function logInWithSecret(
  connection: Connection,
  atSign: AtSign,
  secret: Secret,
  signal: AbortSignal,
): Promise<void> {
  const challenge = await challengeFor(connection, atSign, signal);
  const digest = cramDigest(secret.reveal(), challenge);
  expectSuccess(await connection.send(cram.format({ digest }), {}, signal));
}

async function challengeFor(connection: Connection, atSign: AtSign, signal: AbortSignal): Promise<string> {
  const challenge = await connection.send(from.format({ atSign }), {}, signal);
  // A server of another atSign answers with `proof:`, and what is signed here must be good for nothing else.
  if (!/^_[^\s:@]+@[^\s:@]+:[^\s:@]+$/u.test(challenge)) throw new AnswerInvalid(`${atSign} was given no challenge`);
  return challenge;
}

function expectSuccess(answer: string): void {
  if (answer !== "success") throw new AnswerInvalid("the login was answered with neither success nor error");
}
