import { EdgeError } from "../../../core/errors.js";
import { parsePublicKey } from "../../crypto/rsa.js";
import { verifyText } from "../../crypto/signatures.js";
import { pol } from "../../protocol/verbs/pol.js";
import type { PeerConnection } from "../outbound/peer-connection.js";
import { LOOKUP_TIMEOUT_MS } from "../outbound/peers.js";
import { Refusal, refused } from "../refusal.js";
import { CHALLENGE_LIFE_MS } from "../session.js";
import { verb } from "../verb.js";

/** `pol`: the peer says that its proof is published; we fetch and check it at the atServer of the atSign it claims. */
export const polVerb = verb(pol, false, async (_, { session }, services) => {
  const { self, clock, peers } = services;
  const { challenge } = session;
  const isGood = challenge && challenge.claimed !== self && clock.monotonicMs() - challenge.atMs <= CHALLENGE_LIFE_MS;
  if (!isGood) {
    const message = "Exception: You must execute a 'from:' command before you may run the pol command";
    throw new Refusal("AT0011", message, { closes: true });
  }
  const { claimed, uuid } = challenge;
  const connection = await peers.openPlain(claimed);
  try {
    const proof = await readText(connection, `lookup:${session.id}${claimed}`);
    const publicKey = await readText(connection, `lookup:signing_publickey${claimed}`);
    if (!isSigned(uuid, proof, publicKey)) throw new Refusal("AT0401", "Pol Authentication Failed");
  } finally {
    connection.close();
  }
  session.challenge = undefined;
  session.peer = claimed;
  return { type: "handshake" };
});

async function readText(connection: PeerConnection, line: string): Promise<string> {
  const text = await connection.request(line, LOOKUP_TIMEOUT_MS);
  if (text === "null") throw refused("Unable to verify signature");
  return text;
}

/** The signature covers the bare UUID, not the whole challenge (spec 5.3). */
function isSigned(uuid: string, proof: string, publicKey: string): boolean {
  try {
    return verifyText(uuid, proof, parsePublicKey(publicKey));
  } catch (error) {
    if (error instanceof EdgeError) return false;
    throw error;
  }
}
