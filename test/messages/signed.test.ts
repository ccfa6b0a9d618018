import { createPrivateKey, generateKeyPairSync } from "node:crypto";
import { readFileSync } from "node:fs";
import fc from "fast-check";
import t from "tap";
import { fromBase64 } from "../../core/bytes.js";
import { EdgeError } from "../../core/errors.js";
import { CommandRejected, parsePlainCommand, signCommand, verifyCommand } from "../../messages/command.js";
import { publicKeyFromText, signText, verifiedText, type Envelope } from "../../messages/envelope.js";
import { keyHashOf, signKeyProof, verifyKeyProof } from "../../messages/key-proof.js";
import { decidePin, fingerprintOf, parseFingerprint } from "../../messages/pins.js";

interface SignedVectors {
  readonly privateKey: string;
  readonly publicKey: string;
  readonly otherPublicKey: string;
  readonly fingerprint: string;
  readonly aesKey: string;
  readonly proof: Envelope;
  readonly command: Envelope;
}

const vectors = JSON.parse(
  readFileSync(new URL("../vectors/messages-signed.json", import.meta.url), "utf8"),
) as SignedVectors;
const privateKey = createPrivateKey({ key: fromBase64(vectors.privateKey), format: "der", type: "pkcs8" });
const publicKey = publicKeyFromText(vectors.publicKey);
const otherPublicKey = publicKeyFromText(vectors.otherPublicKey);
const aesKey = fromBase64(vectors.aesKey);
const parties = { from: "@alice", to: "@bob", aesKey };

t.test("an envelope", async (t) => {
  t.test("gives the text back when the pinned key signed it", async () => {
    fc.assert(
      fc.property(fc.string(), (text) => {
        const arrived: unknown = JSON.parse(JSON.stringify(signText(text, privateKey)));
        return verifiedText(arrived, publicKey) === text;
      }),
      { numRuns: 20 },
    );
  });

  t.test("is refused when text, signature, key or algorithm is another", async (t) => {
    const envelope = vectors.command;
    const wrong: readonly unknown[] = [
      { ...envelope, signed: envelope.signed.replace("open", "shut") },
      { ...envelope, signed: `${envelope.signed} ` },
      { ...envelope, signature: vectors.proof.signature },
      { ...envelope, signature: "" },
      { ...envelope, signingAlgo: "none" },
      { ...envelope, signingAlgo: "rsa4096" },
      { ...envelope, hashingAlgo: "sha1" },
      { ...envelope, hashingAlgo: "sha512" },
    ];
    for (const value of wrong) t.throws(() => verifiedText(value, publicKey), { code: "SIGNATURE_INVALID" });
    t.throws(() => verifiedText(envelope, otherPublicKey), { code: "SIGNATURE_INVALID" });
  });

  t.test("says which member is not of its form", async (t) => {
    t.throws(() => verifiedText({ ...vectors.command, signature: "***" }, publicKey), { code: "SYNTAX_INVALID" });
    t.throws(() => verifiedText({ signed: 1 }, publicKey), { message: "envelope.signed: expected a text" });
    t.throws(() => verifiedText([], publicKey), { message: "envelope: expected an object" });
  });

  t.test("takes RSA keys of at least 2048 bits only", async (t) => {
    const small = generateKeyPairSync("rsa", { modulusLength: 1024 }).publicKey;
    const curve = generateKeyPairSync("ed25519").publicKey;
    for (const key of [small, curve])
      t.throws(() => publicKeyFromText(key.export({ format: "der", type: "spki" }).toString("base64")), {
        code: "SIGNATURE_INVALID",
      });
    for (const text of ["", "AAAA", "no base64"])
      t.throws(() => publicKeyFromText(text), { code: "SIGNATURE_INVALID" });
  });
});

t.test("a proof of an AES key", async (t) => {
  t.test("is byte for byte what openssl signs", async (t) => {
    t.strictSame(signKeyProof(parties, privateKey), vectors.proof);
    verifyKeyProof(vectors.proof, parties, publicKey);
    t.equal(keyHashOf(aesKey).length, 64);
  });

  t.test("does not hold for another AES key, direction, signer or kind of statement", async (t) => {
    const swapped = Buffer.alloc(32, 7);
    const refuses = (work: () => void, name: string): unknown => t.throws(work, { code: "KEY_PROOF_INVALID" }, name);
    refuses(() => verifyKeyProof(vectors.proof, { ...parties, aesKey: swapped }, publicKey), "AES key");
    refuses(() => verifyKeyProof(vectors.proof, { ...parties, from: "@bob", to: "@alice" }, publicKey), "direction");
    refuses(() => verifyKeyProof(vectors.proof, { ...parties, to: "@carol" }, publicKey), "reader");
    refuses(() => verifyKeyProof(vectors.proof, parties, otherPublicKey), "signer");
    refuses(() => verifyKeyProof(vectors.command, parties, publicKey), "a command is no proof");
    refuses(() => verifyKeyProof({}, parties, publicKey), "nothing");
  });

  t.test("may not carry more than it says", async (t) => {
    const text = vectors.proof.signed.replace("}", ',"more":1}');
    t.throws(() => verifyKeyProof(signText(text, privateKey), parties, publicKey), { code: "KEY_PROOF_INVALID" });
  });
});

t.test("a pin", async (t) => {
  const actual = vectors.fingerprint;
  const other = `sha256:${"0".repeat(64)}`;

  t.test("is over the DER bytes of the key", async (t) => {
    t.equal(fingerprintOf(vectors.publicKey), actual);
    t.equal(fingerprintOf(`${vectors.publicKey}\n`), actual);
    t.equal(parseFingerprint(actual), actual);
    for (const text of ["", "sha256:", actual.toUpperCase(), actual.slice(7), `${actual} `])
      t.throws(() => parseFingerprint(text), { code: "SYNTAX_INVALID" });
  });

  t.test("trusts the configured key before the remembered one, and the first one seen", async (t) => {
    t.strictSame(decidePin({ actual }), { verdict: "first-use" });
    t.strictSame(decidePin({ actual, remembered: actual }), { verdict: "trusted", by: "remembered" });
    t.strictSame(decidePin({ actual, configured: actual, remembered: other }), {
      verdict: "trusted",
      by: "configured",
    });
    t.strictSame(decidePin({ actual, remembered: other }), { verdict: "changed", expected: other });
    t.strictSame(decidePin({ actual, configured: other, remembered: actual }), { verdict: "changed", expected: other });
  });
});

t.test("a command", async (t) => {
  const statement = {
    from: "@alice",
    to: "@bob",
    device: "north",
    target: "vent",
    command: "open",
    args: { percent: 40 },
    id: "c-0001",
    issuedAt: 1_700_000_000_000,
    expiresAt: 1_700_000_030_000,
  };
  const check = { from: "@alice", to: "@bob", device: "north", ns: "atedge", publicKey, nowMs: statement.issuedAt + 5 };
  const signed = (change: object): Envelope =>
    signText(JSON.stringify({ typ: "atedge-cmd/1", ...statement, ...change }), privateKey);
  const reasonOf = (payload: unknown, changed: object = {}): string => {
    try {
      verifyCommand(payload, { ...check, ...changed });
      return "accepted";
    } catch (error) {
      if (error instanceof CommandRejected) return error.reason;
      throw error;
    }
  };

  t.test("is byte for byte what openssl signs, and reads back", async (t) => {
    t.strictSame(signCommand(statement, privateKey), vectors.command);
    t.strictSame(verifyCommand(vectors.command, check), statement);
  });

  t.test("is refused, each time with its own reason", async (t) => {
    const { command } = vectors;
    t.equal(reasonOf({ target: "vent", command: "open" }), "unsigned");
    t.equal(reasonOf("open"), "malformed");
    t.equal(reasonOf({ ...command, signature: 1 }), "malformed");
    t.equal(reasonOf({ ...command, signed: command.signed.replace("40", "41") }), "bad-signature");
    t.equal(reasonOf({ ...command, hashingAlgo: "md5" }), "bad-signature");
    t.equal(reasonOf(command, { publicKey: otherPublicKey }), "bad-signature");
    t.equal(reasonOf(vectors.proof), "wrong-type");
    t.equal(reasonOf(signText('"public data"', privateKey)), "malformed");
    t.equal(reasonOf(signed({ from: "@carol" })), "wrong-caller");
    t.equal(reasonOf(command, { from: "@carol" }), "wrong-caller");
    t.equal(reasonOf(command, { to: "@carol" }), "wrong-recipient");
    t.equal(reasonOf(command, { device: "south" }), "wrong-device");
    t.equal(reasonOf(command, { nowMs: statement.expiresAt }), "expired");
    t.equal(reasonOf(command, { nowMs: statement.expiresAt - 1 }), "accepted");
    t.equal(reasonOf(command, { nowMs: statement.issuedAt - 30_000 }), "accepted");
    t.equal(reasonOf(command, { nowMs: statement.issuedAt - 30_001 }), "not-yet-valid");
    t.equal(reasonOf(command, { nowMs: undefined }), "no-time");
    t.equal(reasonOf(signed({ expiresAt: statement.issuedAt + 86_400_001 })), "too-long-lived");
  });

  t.test("is malformed with a member too many, too few or of another form", async (t) => {
    const changes: readonly object[] = [
      { more: 1 },
      { args: [] },
      { args: null },
      { id: "" },
      { id: "a b" },
      { id: 7 },
      { target: "vent/open" },
      { command: undefined },
      { issuedAt: "now" },
      { expiresAt: statement.issuedAt },
      { issuedAt: 1.5 },
    ];
    for (const change of changes) t.equal(reasonOf(signed(change)), "malformed", JSON.stringify(change));
    t.throws(() => signCommand({ ...statement, id: "" }, privateKey), { code: "SYNTAX_INVALID" });
  });

  t.test("in plain form is read for callers that need no signature", async (t) => {
    t.strictSame(parsePlainCommand({ target: "vent", command: "open" }), { target: "vent", command: "open", args: {} });
    t.throws(() => parsePlainCommand({ target: "vent" }), { code: "COMMAND_REJECTED" });
  });

  t.test("meets garbage with a CommandRejected only", async () => {
    fc.assert(fc.property(fc.anything(), (payload) => reasonOf(payload) !== "accepted"));
    fc.assert(
      fc.property(fc.jsonValue(), (value) => reasonOf(signText(JSON.stringify(value), privateKey)) !== "accepted"),
      { numRuns: 50 },
    );
    t.ok(new CommandRejected("busy", "x") instanceof EdgeError);
  });
});
