import { randomUUID } from "node:crypto";
import { bareAtSign } from "../../protocol/at-sign.js";
import { from } from "../../protocol/verbs/from.js";
import { isBlocked } from "../block-list.js";
import { Refusal } from "../refusal.js";
import { data } from "../reply.js";
import { challengeText } from "../session.js";
import { verb } from "../verb.js";

/** From this version on, the Dart client reads errors as JSON (spec 2.4). */
const LAST_PLAIN_VERSION = [3, 0, 37] as const;

/** `from` hands out a challenge: to the owner's client, or to the atServer of another atSign that shows its certificate. */
export const fromVerb = verb(from, false, async ({ atSign, clientConfig }, { session }, services) => {
  const { self, clock, settingStore, settings, peers, visits } = services;
  if (clientConfig) session.jsonErrors = readsJsonErrors(clientConfig.version);
  if (isBlocked(settingStore, atSign)) throw new Refusal("AT0013", "Unable to connect");
  if (atSign !== self && settings.clientCertificateRequired) {
    const address = await peers.resolve(atSign);
    if (!address) throw new Refusal("AT0007", `Unable to find secondary address for atSign:${bareAtSign(atSign)}`);
    if (!session.peerMatches?.(address.host)) throw new Refusal("AT0401", "Certificate Verification Failed");
  }
  visits.count("atSign", atSign);
  session.challenge = { claimed: atSign, uuid: randomUUID(), atMs: clock.monotonicMs() };
  const text = challengeText(session, session.challenge);
  return data(atSign === self ? text : `proof:${text}`);
});

function readsJsonErrors(version: string | undefined): boolean {
  const [, ...parts] = /^(\d{1,9})\.(\d{1,9})\.(\d{1,9})/u.exec(version ?? "") ?? [];
  if (parts.length < LAST_PLAIN_VERSION.length) return false;
  for (const [index, last] of LAST_PLAIN_VERSION.entries()) {
    const part = Number(parts[index]);
    if (part !== last) return part > last;
  }
  return false;
}
