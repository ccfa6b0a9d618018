import { equalSecrets, utf8 } from "../../../core/bytes.js";
import { EdgeError } from "../../../core/errors.js";
import { cramDigest } from "../../crypto/digests.js";
import { verifyChallenge } from "../../crypto/signatures.js";
import { cram } from "../../protocol/verbs/cram.js";
import { pkam, type Pkam } from "../../protocol/verbs/pkam.js";
import { keyNotFound, Refusal } from "../refusal.js";
import { data } from "../reply.js";
import type { Services } from "../services.js";
import { CHALLENGE_LIFE_MS, challengeText, type Authentication, type Session } from "../session.js";
import { verb, type Call } from "../verb.js";

export const CRAM_SECRET = "privatekey:at_secret";
export const CRAM_SECRET_DELETED = "privatekey:at_secret_deleted";
export const PKAM_PUBLIC_KEY = "privatekey:at_pkam_publickey";

/** Algorithms that the grammar does not know are taken for a part of the signature, and fail here (spec 3.4). */
const BASE64 = /^[A-Za-z0-9+/]+={0,2}$/u;

/** `cram` logs in with the secret of a fresh atServer. */
export const cramVerb = verb(cram, false, async ({ digest }, call, services) => {
  const { session } = call;
  const challenge = requireChallenge(session, services);
  const secret = requireRecord(CRAM_SECRET, services);
  if (!equalSecrets(utf8(digest), utf8(cramDigest(secret, challenge)))) {
    return await fail(call, services, "Authentication Failed");
  }
  return succeed(session, services, { type: "cram", enrollmentId: undefined });
});

/** `pkam` logs in with a signature over the challenge, of the atSign's first key or of an enrolment's. */
export const pkamVerb = verb(pkam, false, async (command, call, services) => {
  const { session } = call;
  const { enrollmentId, signature, signingAlgo = "rsa2048", hashingAlgo = "sha256" } = command;
  if (enrollmentId !== undefined) requireApproved(enrollmentId, services);
  const challenge = requireChallenge(session, services);
  if (!BASE64.test(signature)) throw new Refusal("AT0011", "Exception: the signature is not base64", { closes: true });
  const answer = { challenge, signature, signingAlgo, hashingAlgo, publicKeyText: publicKeyFor(command, services) };
  if (!isValid(answer)) return await fail(call, services, "pkam authentication failed");
  return succeed(session, services, { type: enrollmentId === undefined ? "legacy" : "apkam", enrollmentId });
});

function publicKeyFor({ enrollmentId }: Pkam, services: Services): string {
  if (enrollmentId === undefined) return requireRecord(PKAM_PUBLIC_KEY, services);
  return services.enrollments.get(enrollmentId, services.clock.now())?.apkamPublicKey ?? "";
}

/** A stored key that is none makes every signature wrong, as in the reference. */
function isValid(answer: Parameters<typeof verifyChallenge>[0]): boolean {
  try {
    return verifyChallenge(answer);
  } catch (error) {
    if (error instanceof EdgeError) return false;
    throw error;
  }
}

function requireApproved(id: string, { enrollments, clock }: Services): void {
  const state = enrollments.get(id, clock.now())?.state;
  const colon = (code: string, text: string): Refusal =>
    new Refusal(code, `enrollment_id: ${id} is ${text}`, { colonForm: true });
  switch (state) {
    case "approved":
      return;
    case "denied":
      throw colon("AT0025", state);
    case "pending":
      throw colon("AT0026", state);
    case "revoked":
      throw colon("AT0027", state);
    case undefined:
      throw colon("AT0028", "expired or invalid");
  }
}

/** The challenge that the owner's client got, if it is not too old. */
function requireChallenge(session: Session, { self, clock }: Services): string {
  const { challenge } = session;
  const isGood = challenge?.claimed === self && clock.monotonicMs() - challenge.atMs <= CHALLENGE_LIFE_MS;
  if (!isGood) throw keyNotFound(`private:${session.id}${self}`);
  return challengeText(session, challenge);
}

function requireRecord(name: string, { keys }: Services): string {
  const value = keys.get(name)?.value;
  if (value === undefined || value === null) throw keyNotFound(name);
  return value;
}

function succeed(
  session: Session,
  { throttle, visits }: Services,
  authentication: Authentication,
): ReturnType<typeof data> {
  session.authentication = authentication;
  session.challenge = undefined; // good for one login
  throttle.succeeded(session.remoteAddress);
  visits.loggedIn();
  return data("success");
}

/** Whatever was before is over, a monitor included (spec 6.4). */
async function fail(
  { session, connection, signal }: Call,
  { throttle, monitors }: Services,
  message: string,
): Promise<never> {
  session.authentication = undefined;
  session.omitPrompt = false;
  monitors.unsubscribe(connection);
  await throttle.failed(session.remoteAddress, signal);
  throw new Refusal("AT0401", message);
}
