import { generateKeyPairSync, randomBytes } from "node:crypto";
import t from "tap";
import { keyHashOf } from "../../messages/key-proof.js";
import { OwnKeyGuard } from "../../messages/own-key.js";

const rsa = () => generateKeyPairSync("rsa", { modulusLength: 2048 }).publicKey;

t.test("OwnKeyGuard", async (t) => {
  const pins = new Map<string, string>();
  const accepted = new Set<string>();
  const guard = new OwnKeyGuard({
    remembered: { get: (name) => pins.get(name), set: async (name, fingerprint) => void pins.set(name, fingerprint) },
    accepted,
    howToAccept: (fingerprint, name) => `forget ${name} or accept ${fingerprint}`,
  });
  const [ours, swapped, peerKey] = [randomBytes(32), randomBytes(32), rsa()];

  t.test("remembers the first AES key for a peer, and takes it again", async (t) => {
    await guard.check("@bob", peerKey, ours);
    await guard.check("@bob", peerKey, ours);
    t.same([...pins.values()], [`sha256:${keyHashOf(ours)}`]);
  });

  t.test("refuses another one, saying how a human accepts it, and tells no key", async (t) => {
    const refusal = await guard.check("@bob", peerKey, swapped).then(
      () => undefined,
      (error: unknown) => error,
    );
    t.match(refusal, { code: "OWN_KEY_CHANGED", message: `accept sha256:${keyHashOf(swapped)}` });
    t.notMatch(String(refusal), swapped.toString("base64"));
    await guard.check("@bob", peerKey, ours);
  });

  t.test("takes one that a human has accepted, and from then on no other", async (t) => {
    accepted.add(`sha256:${keyHashOf(swapped)}`);
    await guard.check("@bob", peerKey, swapped);
    await t.rejects(guard.check("@bob", peerKey, ours), { code: "OWN_KEY_CHANGED" });
  });

  t.test("takes a new one for another peer, and for the new public key of the same", async () => {
    await guard.check("@carol", peerKey, randomBytes(32));
    await guard.check("@bob", rsa(), randomBytes(32));
  });
});
