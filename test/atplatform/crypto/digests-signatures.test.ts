import { createPrivateKey, generateKeyPairSync } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import fc from "fast-check";
import t from "tap";
import type { HashingAlgo } from "../../../atplatform/crypto/algorithms.js";
import { decodeBase2e15, encodeBase2e15 } from "../../../atplatform/crypto/base2e15.js";
import { cramDigest, fingerprintOf, parseFingerprint, publicKeyChecksum } from "../../../atplatform/crypto/digests.js";
import { parsePrivateKey, parsePublicKey } from "../../../atplatform/crypto/rsa.js";
import {
  eccPublicKeyText,
  parseEccPublicKey,
  signChallenge,
  signText,
  verifyChallenge,
  verifyText,
} from "../../../atplatform/crypto/signatures.js";
import { pairOf, testKeys, vectors } from "../../fixtures/vectors.js";

interface AuthVectors {
  readonly pkam: readonly {
    readonly signedText: string;
    readonly hashing: HashingAlgo;
    readonly keyRef: string;
    readonly signatureBase64: string;
  }[];
  readonly cram: { readonly cramSecret: string; readonly challenge: string; readonly digestHex: string };
  readonly pkamEcc: {
    readonly challenge: string;
    readonly publicKeyHex: string;
    readonly publicKeyBase64OfPoint: string;
    readonly privateScalarHex: string;
    readonly compactSignatureHex: string;
    readonly signatureOnWireBase64OfHexText: string;
  };
}

t.test("authentication", async (t) => {
  const auth = vectors<AuthVectors>("auth.json");

  t.test("signs a challenge as every SDK does, and verifies theirs", async (t) => {
    t.equal(auth.pkam.length, 3);
    for (const { signedText, hashing, keyRef, signatureBase64 } of auth.pkam) {
      const pair = pairOf(keyRef);
      t.equal(signChallenge(signedText, parsePrivateKey(pair.privateKey), hashing), signatureBase64);
      const answer = {
        challenge: signedText,
        signature: signatureBase64,
        signingAlgo: "rsa2048",
        hashingAlgo: hashing,
        publicKeyText: pair.publicKey,
      } as const;
      t.ok(verifyChallenge(answer));
      t.notOk(verifyChallenge({ ...answer, challenge: `${signedText}x` }));
      t.notOk(verifyChallenge({ ...answer, hashingAlgo: hashing === "sha256" ? "sha512" : "sha256" }));
      t.notOk(verifyChallenge({ ...answer, publicKeyText: pairOf("bob.pkam").publicKey }));
      t.notOk(verifyChallenge({ ...answer, signature: "no base64!" }));
      t.notOk(verifyChallenge({ ...answer, signature: "" }));
    }
  });

  t.test("digests a CRAM secret as at_python and at_java do", async (t) => {
    const { cramSecret, challenge, digestHex } = auth.cram;
    t.equal(cramDigest(cramSecret, challenge), digestHex);
  });

  t.test("verifies P-256 challenges in both encodings, and makes the one of the studied revision", async (t) => {
    const { challenge, publicKeyHex, publicKeyBase64OfPoint, compactSignatureHex } = auth.pkamEcc;
    const signature = auth.pkamEcc.signatureOnWireBase64OfHexText;
    const raw = Buffer.from(compactSignatureHex, "hex").toString("base64");
    const verify = (publicKeyText: string, signature: string, text = challenge): boolean =>
      verifyChallenge({
        challenge: text,
        signature,
        signingAlgo: "ecc_secp256r1",
        hashingAlgo: "sha256",
        publicKeyText,
      });
    for (const point of [publicKeyHex, publicKeyBase64OfPoint]) {
      t.ok(verify(point, signature));
      t.ok(verify(point, raw));
      t.notOk(verify(point, signature, `${challenge}x`));
      t.notOk(verify(point, Buffer.from("zz".repeat(64)).toString("base64")));
      t.notOk(verify(point, "no base64!"));
    }
    t.equal(eccPublicKeyText(parseEccPublicKey(publicKeyBase64OfPoint)), publicKeyHex);

    const point = Buffer.from(publicKeyHex, "hex");
    const privateKey = createPrivateKey({
      format: "jwk",
      key: {
        kty: "EC",
        crv: "P-256",
        d: Buffer.from(auth.pkamEcc.privateScalarHex, "hex").toString("base64url"),
        x: point.subarray(1, 33).toString("base64url"),
        y: point.subarray(33).toString("base64url"),
      },
    });
    const own = signChallenge(challenge, privateKey);
    t.match(Buffer.from(own, "base64").toString(), /^[0-9a-f]{128}$/u);
    t.ok(verify(publicKeyHex, own));
  });

  t.test("refuses keys that can answer no challenge", async (t) => {
    for (const bad of ["", "04", "no base64!", `04${"00".repeat(64)}`]) {
      t.throws(() => parseEccPublicKey(bad), { code: "KEY_INVALID" }, bad.slice(0, 12));
    }
    const { privateKey } = generateKeyPairSync("ed25519");
    t.throws(() => signChallenge("x", privateKey), { code: "KEY_INVALID" });
  });
});

interface SignatureVectors {
  readonly dataSignature: readonly {
    readonly plaintextUtf8: string;
    readonly keyRef: string;
    readonly dataSignatureBase64: string;
  }[];
  readonly signedEnvelope: { readonly signedText: string; readonly envelopeText: string; readonly keyRef: string };
}

t.test("data signatures", async (t) => {
  const { dataSignature, signedEnvelope } = vectors<SignatureVectors>("signatures.json");

  t.test("are those that all SDKs make", async (t) => {
    t.equal(dataSignature.length, 4);
    for (const { plaintextUtf8, keyRef, dataSignatureBase64 } of dataSignature) {
      t.equal(signText(plaintextUtf8, parsePrivateKey(pairOf(keyRef).privateKey)), dataSignatureBase64);
      t.ok(verifyText(plaintextUtf8, dataSignatureBase64, parsePublicKey(pairOf(keyRef).publicKey)));
      t.notOk(verifyText(`${plaintextUtf8} `, dataSignatureBase64, parsePublicKey(pairOf(keyRef).publicKey)));
    }
  });

  t.test("of envelopes cover the exact text of the payload (traps 42 and 52)", async (t) => {
    const { signature } = JSON.parse(signedEnvelope.envelopeText) as { readonly signature: string };
    const key = parsePublicKey(pairOf(signedEnvelope.keyRef).publicKey);
    t.ok(signedEnvelope.envelopeText.includes(signedEnvelope.signedText));
    t.ok(verifyText(signedEnvelope.signedText, signature, key));
  });
});

interface ChecksumVectors {
  readonly keys: readonly {
    readonly keyRef: string;
    readonly pubKeyCS_md5Hex: string;
    readonly wrong_md5OfDerBytes: string;
  }[];
}

t.test("digests of public keys", async (t) => {
  t.test("hash the text, not the DER bytes, for pubKeyCS (trap 27)", async (t) => {
    const { keys } = vectors<ChecksumVectors>("checksums.json");
    t.equal(keys.length, 2);
    for (const { keyRef, pubKeyCS_md5Hex, wrong_md5OfDerBytes } of keys) {
      const { publicKey } = pairOf(keyRef);
      t.equal(publicKeyChecksum(publicKey), pubKeyCS_md5Hex);
      t.equal(publicKeyChecksum(`${publicKey}\n`), pubKeyCS_md5Hex);
      t.not(publicKeyChecksum(publicKey), wrong_md5OfDerBytes);
    }
  });

  t.test("hash the DER bytes for fingerprints", async (t) => {
    // the expected one by Python's hashlib
    const fingerprint = fingerprintOf(testKeys.alice.encryption.publicKey);
    t.equal(fingerprint, fingerprintOf(`${testKeys.alice.encryption.publicKey}\n`));
    t.equal(parseFingerprint(fingerprint), fingerprint);
    t.equal(fingerprint, "sha256:20238e7b5662a7ee6cd1a1bc265f9196301ffcd1e7ba8200533f949c248b2984");
    for (const bad of ["", "sha256:", fingerprint.toUpperCase(), `${fingerprint}0`, fingerprint.slice(7)]) {
      t.throws(() => parseFingerprint(bad), { code: "KEY_INVALID" }, bad.slice(0, 12));
    }
  });
});

interface Base2e15Vectors {
  readonly cases: readonly { readonly bytesHex: string; readonly text: string; readonly decodesToHex: string }[];
}

t.test("Base2e15", async (t) => {
  t.test("gives the text of the vectors, and reads it back", async (t) => {
    const { cases } = vectors<Base2e15Vectors>("base2e15.json");
    t.equal(cases.length, 16);
    for (const { bytesHex, text, decodesToHex } of cases) {
      t.equal(encodeBase2e15(Buffer.from(bytesHex, "hex")), text);
      t.equal(decodeBase2e15(text).toString("hex"), decodesToHex);
    }
  });

  t.test("reads back any bytes", async () => {
    fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), (b) => decodeBase2e15(encodeBase2e15(b)).equals(b)));
  });

  t.test("skips what is no Base2e15, and stops after a short rest", async (t) => {
    fc.assert(fc.property(fc.string({ unit: "binary" }), (text) => decodeBase2e15(text).length <= text.length * 2));
    const text = encodeBase2e15(Buffer.from("abcdef"));
    t.equal(decodeBase2e15(` ${text.slice(0, 2)}\n${text.slice(2)}`).toString(), "abcdef");
    t.equal(decodeBase2e15(`${encodeBase2e15(Buffer.from("ab"))}${text}`).toString(), "ab");
  });
});

interface Upstream {
  readonly plaintextUtf8: string;
  readonly rsa: {
    readonly privateKey: string;
    readonly signatureSha256Base64: string;
    readonly signatureSha512Base64: string;
  };
  readonly eccSecp256r1: {
    readonly publicKeyBase64OfUncompressedPoint: string;
    readonly signatureBase64OfHexText: string;
  };
  readonly pubKeyCS: { readonly inputText: string; readonly md5Hex: string };
}

const upstreamPath = "/work/shared/vectors/upstream-known-answers.json";
if (existsSync(upstreamPath)) {
  t.test("agrees with what upstream pins in its own Dart tests", async (t) => {
    const upstream = JSON.parse(readFileSync(upstreamPath, "utf8")) as Upstream;
    const key = parsePrivateKey(upstream.rsa.privateKey);
    t.equal(signText(upstream.plaintextUtf8, key), upstream.rsa.signatureSha256Base64);
    t.equal(signText(upstream.plaintextUtf8, key, "sha512"), upstream.rsa.signatureSha512Base64);
    t.equal(publicKeyChecksum(upstream.pubKeyCS.inputText), upstream.pubKeyCS.md5Hex);
    t.ok(
      verifyChallenge({
        challenge: upstream.plaintextUtf8,
        signature: upstream.eccSecp256r1.signatureBase64OfHexText,
        signingAlgo: "ecc_secp256r1",
        hashingAlgo: "sha256",
        publicKeyText: upstream.eccSecp256r1.publicKeyBase64OfUncompressedPoint,
      }),
    );
  });
}
