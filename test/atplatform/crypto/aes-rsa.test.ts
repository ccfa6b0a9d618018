import { existsSync, readFileSync } from "node:fs";
import { constants, createPublicKey, publicEncrypt } from "node:crypto";
import fc from "fast-check";
import t from "tap";
import {
  decryptAes,
  decryptText,
  encryptAes,
  encryptText,
  newAesKey,
  newIv,
  parseAesKey,
  parseIv,
} from "../../../atplatform/crypto/aes-ctr.js";
import { knownAlgorithm } from "../../../atplatform/crypto/algorithms.js";
import {
  decryptAesKey,
  decryptRsa,
  encryptAesKey,
  newRsaKeyPair,
  parsePrivateKey,
  parsePublicKey,
  privateKeyText,
  publicKeyText,
} from "../../../atplatform/crypto/rsa.js";
import { EdgeError } from "../../../core/errors.js";
import { pairOf, testKeys, vectors } from "../../fixtures/vectors.js";

interface AesVectors {
  readonly encrypt: readonly {
    readonly name: string;
    readonly keyBase64: string;
    readonly ivBase64: string;
    readonly plaintextUtf8?: string;
    readonly plaintextBase64?: string;
    readonly ciphertextBase64: string;
    readonly unpaddedCiphertextBase64: string;
  }[];
  readonly decryptBehaviour: readonly {
    readonly name: string;
    readonly keyBase64: string;
    readonly ivBase64: string;
    readonly ciphertextBase64: string;
    readonly blockHexBeforeCtr: string;
    readonly recommended: string;
  }[];
}

const bytes = (base64: string): Buffer => Buffer.from(base64, "base64");

t.test("AES-256-CTR with padding", async (t) => {
  const aes = vectors<AesVectors>("aes-ctr.json");

  t.test(
    "gives the bytes that at_c, at_python, at_java, at_go and OpenSSL give, and reads them back (trap 2)",
    async (t) => {
      t.equal(aes.encrypt.length, 26);
      for (const vector of aes.encrypt) {
        const plain =
          vector.plaintextUtf8 !== undefined ? Buffer.from(vector.plaintextUtf8) : bytes(vector.plaintextBase64 ?? "");
        const [key, iv] = [parseAesKey(vector.keyBase64), parseIv(vector.ivBase64)];
        t.equal(encryptAes(plain, key, iv).toString("base64"), vector.ciphertextBase64, vector.name);
        t.same(decryptAes(bytes(vector.ciphertextBase64), key, iv), { bytes: plain, padded: true }, vector.name);
      }
    },
  );

  t.test("takes off padding by the strict rule only, and flags the rest", async (t) => {
    const padded = new Map([
      ["valid-padding", "hello"],
      ["empty-plaintext", ""],
      ["no-padding-block-aligned-looks-padded", "0123456789abcde"],
      ["embedded-nul", "ab\0cd"],
    ]);
    t.equal(aes.decryptBehaviour.length, 11);
    for (const vector of aes.decryptBehaviour) {
      const [key, iv] = [parseAesKey(vector.keyBase64), parseIv(vector.ivBase64)];
      const result = decryptAes(bytes(vector.ciphertextBase64), key, iv);
      const text = padded.get(vector.name);
      t.equal(result.padded, text !== undefined, vector.name);
      t.same(
        result.bytes,
        text !== undefined ? Buffer.from(text) : Buffer.from(vector.blockHexBeforeCtr, "hex"),
        vector.name,
      );
      const read = (): string => decryptText(vector.ciphertextBase64, key, iv);
      if (text === undefined) t.throws(read, { code: "DECRYPTION_FAILED" }, vector.name);
      else t.equal(read(), text, vector.name);
    }
  });

  t.test("reads back any text under any key and IV", async () => {
    const key = fc.uint8Array({ minLength: 32, maxLength: 32 });
    const iv = fc.uint8Array({ minLength: 16, maxLength: 16 });
    fc.assert(
      fc.property(fc.string({ minLength: 1, unit: "grapheme", maxLength: 100 }), key, iv, (text, key, iv) => {
        const encrypted = encryptText(text, key, iv);
        return bytes(encrypted).length % 16 === 0 && decryptText(encrypted, key, iv) === text;
      }),
    );
  });

  t.test("has only typed errors for garbage", async () => {
    fc.assert(
      fc.property(fc.string(), fc.string(), (value, iv) => {
        try {
          decryptText(value, newAesKey(), parseIv(iv));
          return value.trim() !== "";
        } catch (error) {
          return error instanceof EdgeError;
        }
      }),
    );
  });

  t.test("refuses to encrypt nothing (trap 19)", async (t) => {
    t.throws(() => encryptText("", newAesKey(), newIv()), { code: "SYNTAX_INVALID" });
  });

  t.test("takes an absent, null or short ivNonce as the SDKs do (trap 10)", async (t) => {
    for (const none of [undefined, null, "null", ""]) t.same(Buffer.from(parseIv(none)), Buffer.alloc(16));
    const fifteen = Buffer.alloc(15, 7);
    t.same(Buffer.from(parseIv(fifteen.toString("base64"))), Buffer.concat([fifteen, Buffer.alloc(1)]));
    t.throws(() => parseIv(Buffer.alloc(17).toString("base64")), { code: "DECRYPTION_FAILED" });
    t.throws(() => parseIv("no base64!"), { code: "DECRYPTION_FAILED" });
  });

  t.test("makes keys and IVs that differ", async (t) => {
    t.notSame(newAesKey(), newAesKey());
    t.notSame(newIv(), newIv());
    t.equal(newAesKey().length, 32);
    t.equal(newIv().length, 16);
  });
});

interface RsaVectors {
  readonly encrypted: readonly {
    readonly encryptedBy: string;
    readonly recipientKeyRef: string;
    readonly plaintextUtf8: string;
    readonly ciphertextBase64: string;
  }[];
  readonly negative: readonly { readonly name: string; readonly ciphertextBase64: string }[];
}

t.test("RSA", async (t) => {
  const rsa = vectors<RsaVectors>("rsa-encrypted-keys.json");
  const bob = parsePrivateKey(testKeys.bob.encryption.privateKey);
  const bobPublic = createPublicKey(bob);
  const pkcs1 = (message: Uint8Array): string =>
    publicEncrypt({ key: bobPublic, padding: constants.RSA_PKCS1_PADDING }, message).toString("base64");
  const raw = (block: Uint8Array): string =>
    publicEncrypt({ key: bobPublic, padding: constants.RSA_NO_PADDING }, block).toString("base64");

  t.test("decrypts the shared keys that at_c, at_python, at_java and OpenSSL encrypted", async (t) => {
    t.equal(rsa.encrypted.length, 8);
    for (const vector of rsa.encrypted) {
      const key = decryptAesKey(vector.ciphertextBase64, parsePrivateKey(pairOf(vector.recipientKeyRef).privateKey));
      t.equal(key.toString("base64"), vector.plaintextUtf8, vector.encryptedBy);
    }
  });

  t.test("decrypts what it encrypted, for any AES key", async () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 32, maxLength: 32 }), (key) =>
        Buffer.from(key).equals(decryptAesKey(encryptAesKey(key, bobPublic), bob)),
      ),
      { numRuns: 200 },
    );
  });

  t.test(
    "answers every malformed message with a key that depends on it alone, never with an error (traps 4 and 5)",
    async (t) => {
      const key = Buffer.alloc(32, 0x5a);
      const text = Buffer.from(key.toString("base64"));
      const block = (change: (block: Buffer) => void): string => {
        const good = Buffer.concat([Buffer.from([0, 2]), Buffer.alloc(209, 0xaa), Buffer.from([0]), text]);
        change(good);
        return raw(good);
      };
      t.same(
        decryptAesKey(
          block(() => {}),
          bob,
        ),
        key,
        "the same block unchanged is fine",
      );
      const malformed = [
        ...rsa.negative.map(({ ciphertextBase64 }) => ciphertextBase64),
        block((b) => b.writeUInt8(1, 0)),
        block((b) => b.writeUInt8(1, 1)),
        block((b) => b.writeUInt8(0, 2)),
        block((b) => b.writeUInt8(0, 9)),
        block((b) => b.writeUInt8(0, 210)),
        block((b) => b.writeUInt8(7, 211)),
        block((b) => b.writeUInt8(0x21, 212)), // "!" is no base64
        block((b) => b.writeUInt8(0xff, 230)),
        block((b) => b.writeUInt8(0x41, 255)), // no "=" at the end
        block((b) => b.writeUInt8(b.readUInt8(254) + 1, 254)), // bits after the last byte
        pkcs1(text.subarray(1)),
        pkcs1(Buffer.concat([text, text])),
        pkcs1(Buffer.alloc(0)),
        pkcs1(key),
      ];
      const dummies = malformed.map((encrypted) => decryptAesKey(encrypted, bob));
      for (const [at, dummy] of dummies.entries()) {
        t.equal(dummy.length, 32);
        t.notSame(dummy, key);
        t.same(decryptAesKey(malformed[at] ?? "", bob), dummy, "it is the same the next time");
      }
      t.equal(new Set(dummies.map((dummy) => dummy.toString("hex"))).size, malformed.length, "no two are equal");
    },
  );

  t.test("decodes base64 in constant time as Node does, and rejects what Node would skip (trap 50)", async () => {
    const texts = fc.oneof(
      fc.uint8Array({ minLength: 32, maxLength: 32 }).map((key) => Buffer.from(key).toString("base64")),
      fc.base64String({ minLength: 40, maxLength: 44 }).map((text) => `${text.slice(0, 43)}=`),
      fc.uint8Array({ minLength: 44, maxLength: 44 }).map((any) => Buffer.from(any).toString("latin1")),
    );
    fc.assert(
      fc.property(texts, (text) => {
        const decoded = Buffer.from(text, "base64");
        const isKey = decoded.length === 32 && decoded.toString("base64") === text;
        const got = decryptAesKey(pkcs1(Buffer.from(text, "latin1")), bob);
        return got.equals(decoded.subarray(0, 32)) === isKey;
      }),
      { numRuns: 300 },
    );
  });

  t.test("refuses what anybody can see is no ciphertext", async (t) => {
    for (const bad of ["", "AAAA", "no base64!", Buffer.alloc(256, 0xff).toString("base64")]) {
      t.throws(() => decryptAesKey(bad, bob), { code: "DECRYPTION_FAILED" }, JSON.stringify(bad.slice(0, 12)));
    }
  });

  t.test("makes pairs of 2048 bits whose texts have the lengths that all SDKs expect", async (t) => {
    const pair = await newRsaKeyPair();
    t.equal(pair.publicText.length, 392);
    const { length } = privateKeyText(pair.privateKey);
    t.ok(length >= 1620 && length <= 1628);
    t.equal(publicKeyText(parsePublicKey(`${pair.publicText}\n`)), pair.publicText);
    const key = newAesKey();
    t.same(decryptAesKey(encryptAesKey(key, pair.publicKey), pair.privateKey), key);
  });

  t.test("takes keys of the vectors byte by byte, and nothing else", async (t) => {
    for (const ref of ["alice.pkam", "alice.encryption", "alice.apkamDevice2", "bob.pkam", "bob.encryption"]) {
      const pair = pairOf(ref);
      t.equal(publicKeyText(parsePublicKey(pair.publicKey)), pair.publicKey);
      t.equal(privateKeyText(parsePrivateKey(pair.privateKey)), pair.privateKey);
      t.equal(publicKeyText(createPublicKey(parsePrivateKey(pair.privateKey))), pair.publicKey);
      t.throws(() => parsePublicKey(pair.privateKey.slice(4)), { code: "KEY_INVALID" });
    }
    for (const bad of ["", "AAAA", "-----BEGIN PUBLIC KEY-----"]) {
      t.throws(() => parsePublicKey(bad), { code: "KEY_INVALID" });
      t.throws(() => parsePrivateKey(bad), { code: "KEY_INVALID" });
    }
    t.throws(() => parseAesKey("AAAA"), { code: "KEY_INVALID" });
    t.throws(() => parseAesKey("no base64!"), { code: "KEY_INVALID" });
  });
});

t.test("knows the algorithms by name and lists them when asked for another", async (t) => {
  t.equal(knownAlgorithm("signingAlgo", "ecc_secp256r1"), "ecc_secp256r1");
  t.equal(knownAlgorithm("encAlgo", "AES/CTR/PKCS7Padding"), "AES/CTR/PKCS7Padding");
  t.throws(() => knownAlgorithm("hashingAlgo", "md5"), {
    code: "UNKNOWN_ALGORITHM",
    message: 'hashingAlgo: expected sha256 or sha512, got "md5"',
  });
});

interface Upstream {
  readonly plaintextUtf8: string;
  readonly aesCtr: readonly {
    readonly keyBase64: string;
    readonly ivBase64: string;
    readonly ciphertextBase64: string;
  }[];
  readonly rsa: { readonly privateKey: string; readonly encryptedPlaintextBase64: string };
  readonly sharedKeyDecryption: {
    readonly aesKeyBase64: string;
    readonly ivBase64: string;
    readonly ciphertextBase64: string;
    readonly plaintextUtf8: string;
  };
}

const upstreamPath = "/work/shared/vectors/upstream-known-answers.json";
if (existsSync(upstreamPath)) {
  t.test("agrees with what upstream pins in its own Dart tests", async (t) => {
    const upstream = JSON.parse(readFileSync(upstreamPath, "utf8")) as Upstream;
    const text = upstream.plaintextUtf8;
    for (const { keyBase64, ivBase64, ciphertextBase64 } of upstream.aesCtr) {
      t.equal(encryptText(text, parseAesKey(keyBase64), parseIv(ivBase64)), ciphertextBase64);
      t.equal(decryptText(ciphertextBase64, parseAesKey(keyBase64), parseIv(ivBase64)), text);
    }
    const key = parsePrivateKey(upstream.rsa.privateKey);
    t.equal(decryptRsa(bytes(upstream.rsa.encryptedPlaintextBase64), key, text.length).toString(), text);
    const shared = upstream.sharedKeyDecryption;
    t.equal(
      decryptText(shared.ciphertextBase64, parseAesKey(shared.aesKeyBase64), parseIv(shared.ivBase64)),
      shared.plaintextUtf8,
    );
  });
}
