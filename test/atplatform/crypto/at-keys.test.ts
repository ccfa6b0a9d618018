import { generateKeyPairSync } from "node:crypto";
import { readdir, readFile, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { inspect } from "node:util";
import fc from "fast-check";
import t from "tap";
import { type AtKeys, formatAtKeys, parseAtKeys } from "../../../atplatform/crypto/at-keys.js";
import {
  atKeysPath,
  checkAtKeysPath,
  readAtKeysFile,
  writeAtKeysFile,
} from "../../../atplatform/crypto/at-keys-file.js";
import { privateKeyText } from "../../../atplatform/crypto/rsa.js";
import { eccPublicKeyText, signChallenge, verifyChallenge } from "../../../atplatform/crypto/signatures.js";
import { EdgeError } from "../../../core/errors.js";
import { Secret } from "../../../core/secret.js";
import { testKeys, vectorText } from "../../fixtures/vectors.js";

type Json = Readonly<Record<string, unknown>>;
const json = (text: string): Json => JSON.parse(text) as Json;

const device2 = vectorText("atkeys/@alice_device2_key.atKeys");
const legacy = vectorText("atkeys/@alice_key.atKeys");
const base64 = (bytes: Uint8Array | undefined): string => Buffer.from(bytes ?? []).toString("base64");

t.test("parseAtKeys", async (t) => {
  t.test("reads the files that at_python, at_java and at_c wrote", async (t) => {
    const files = [
      ["@alice_key.atKeys", testKeys.alice, testKeys.alice.pkam],
      ["@alice_key.at_java.atKeys", testKeys.alice, testKeys.alice.pkam],
      ["@bob_key.atKeys", testKeys.bob, testKeys.bob.pkam],
      ["@alice_device2_key.atKeys", testKeys.alice, testKeys.alice.apkamDevice2],
      ["@alice_device2_key.at_c.atKeys", testKeys.alice, testKeys.alice.apkamDevice2],
    ] as const;
    for (const [name, owner, pkam] of files) {
      const keys = parseAtKeys(vectorText(`atkeys/${name}`));
      t.equal(keys.encryption.publicText, owner.encryption.publicKey, name);
      t.equal(privateKeyText(keys.encryption.privateKey), owner.encryption.privateKey);
      t.equal(keys.pkam.publicText, pkam.publicKey);
      t.equal(privateKeyText(keys.pkam.privateKey), pkam.privateKey);
      t.equal(base64(keys.selfKey.reveal()), owner.selfEncryptionKey);
      t.equal(keys.unknown, undefined, "the member named after the atSign is no unknown one");
      const isDevice2 = name.includes("device2");
      t.equal(keys.enrollmentId, isDevice2 ? testKeys.alice.enrollmentIdDevice2 : undefined);
      t.equal(
        keys.apkamSymmetricKey && base64(keys.apkamSymmetricKey.reveal()),
        isDevice2 ? testKeys.alice.apkamSymmetricKeyDevice2 : undefined,
      );
    }
  });

  t.test("derives public keys that are missing, and takes null and blanks as absent", async (t) => {
    const { aesPkamPublicKey, aesEncryptPublicKey, ...rest } = json(device2);
    t.ok(aesPkamPublicKey && aesEncryptPublicKey);
    const keys = parseAtKeys(
      JSON.stringify({
        ...rest,
        aesPkamPublicKey: null,
        enrollmentId: " ",
        apkamSymmetricKey: null,
        selfEncryptionKey: ` ${testKeys.alice.selfEncryptionKey}\n`,
      }),
    );
    t.equal(keys.pkam.publicText, testKeys.alice.apkamDevice2.publicKey);
    t.equal(keys.encryption.publicText, testKeys.alice.encryption.publicKey);
    t.equal(keys.enrollmentId, undefined);
    t.equal(keys.apkamSymmetricKey, undefined);
  });

  t.test("names what is wrong, without repeating it", async (t) => {
    const other = json(vectorText("atkeys/@bob_key.atKeys"));
    const file = json(legacy);
    const cases: readonly [string, unknown, string | RegExp][] = [
      ["no JSON", "{", "expected a JSON object"],
      ["a list", "[]", "expected a JSON object"],
      ["no self key", { ...file, selfEncryptionKey: undefined }, "selfEncryptionKey: is missing"],
      ["no private key", { ...file, aesPkamPrivateKey: null }, "aesPkamPrivateKey: is missing"],
      ["a number", { ...file, aesPkamPrivateKey: 7 }, "aesPkamPrivateKey: expected a text"],
      ["a short self key", { ...file, selfEncryptionKey: "AAAA" }, /^selfEncryptionKey: expected an AES key of 32/u],
      ["another self key", { ...file, selfEncryptionKey: other.selfEncryptionKey }, /^aesEncryptPrivateKey: /u],
      ["no base64", { ...file, aesEncryptPrivateKey: "?" }, /^aesEncryptPrivateKey: /u],
      [
        "a public key of another",
        { ...file, aesEncryptPublicKey: file.aesPkamPublicKey },
        "aesEncryptPublicKey: does not belong to the private key",
      ],
    ];
    for (const [name, content, message] of cases) {
      const text = typeof content === "string" ? content : JSON.stringify(content);
      t.throws(() => parseAtKeys(text), { code: "KEY_FILE_INVALID", message }, name);
    }
  });

  t.test("has only typed errors for garbage", async () => {
    const member = fc.constantFrom(...Object.keys(json(device2)), "x");
    fc.assert(
      fc.property(fc.oneof(fc.json(), fc.string()), fc.dictionary(member, fc.string()), (text, members) => {
        try {
          for (const garbage of [text, JSON.stringify(members)]) parseAtKeys(garbage);
          return false;
        } catch (error) {
          return error instanceof EdgeError;
        }
      }),
    );
  });
});

t.test("formatAtKeys", async (t) => {
  t.test("writes what the others wrote, in Dart's order", async (t) => {
    const text = formatAtKeys("@alice", parseAtKeys(device2)).reveal();
    t.same(json(text), json(device2));
    t.same(Object.keys(json(text)), Object.keys(json(device2)));
    const { "@alice": own, ...fiveMembers } = json(formatAtKeys("@alice", parseAtKeys(legacy)).reveal());
    t.same(fiveMembers, json(legacy));
    t.equal(own, testKeys.alice.selfEncryptionKey);
  });

  t.test("keeps members that it does not know (trap 38)", async (t) => {
    const more = { version: 1, keys: [{ keyId: "x" }], "@carol": "other" };
    const keys = parseAtKeys(JSON.stringify({ ...json(device2), ...more }));
    t.same(json(formatAtKeys("@alice", keys).reveal()), { ...json(device2), ...more });
  });

  t.test("writes and reads a P-256 authentication key", async (t) => {
    const { privateKey, publicKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
    const pkam = { privateKey, publicKey, publicText: eccPublicKeyText(publicKey) };
    const keys = parseAtKeys(formatAtKeys("@alice", { ...parseAtKeys(device2), pkam }).reveal());
    t.equal(keys.pkam.publicText, pkam.publicText);
    const challenge = "_x@alice:y";
    const signature = signChallenge(challenge, keys.pkam.privateKey);
    const algorithms = { signingAlgo: "ecc_secp256r1", hashingAlgo: "sha256" } as const;
    t.ok(verifyChallenge({ challenge, signature, publicKeyText: pkam.publicText, ...algorithms }));
  });

  t.test("shows no secret when printed, logged or put into JSON", async (t) => {
    const keys = parseAtKeys(JSON.stringify({ ...json(device2), other: "a-member-of-later-days" }));
    const shown = [inspect(keys, { depth: 9, showHidden: true }), JSON.stringify(keys), String(keys.selfKey)].join(
      "\n",
    );
    const secrets = [
      testKeys.alice.selfEncryptionKey,
      testKeys.alice.apkamSymmetricKeyDevice2,
      testKeys.alice.apkamDevice2.privateKey,
      testKeys.alice.encryption.privateKey,
      "a-member-of-later-days",
    ];
    for (const secret of secrets) t.notOk(shown.includes(secret.slice(8, 40)));
    t.ok(shown.includes("[secret]"));
  });
});

t.test("key files", async (t) => {
  const keys: AtKeys = { ...parseAtKeys(device2), unknown: new Secret<Json>({ later: "member" }) };

  t.test("are written with mode 0600 into directories with mode 0700, and read back", async (t) => {
    const path = join(t.testdir(), "a", "b", "@alice_key.atKeys");
    await writeAtKeysFile(path, "@alice", keys);
    t.equal((await stat(path)).mode & 0o777, 0o600);
    t.equal((await stat(join(path, ".."))).mode & 0o777, 0o700);
    const read = await readAtKeysFile(path);
    t.equal(formatAtKeys("@alice", read).reveal(), formatAtKeys("@alice", keys).reveal());
    t.same(await readdir(join(path, "..")), ["@alice_key.atKeys"], "no temporary file is left");
  });

  t.test("are never overwritten unless asked for", async (t) => {
    const path = join(t.testdir(), "@alice_key.atKeys");
    await writeFile(path, "precious");
    await t.rejects(writeAtKeysFile(path, "@alice", keys), { code: "KEY_FILE_EXISTS" });
    await t.rejects(checkAtKeysPath(path), { code: "KEY_FILE_EXISTS" });
    t.equal(await readFile(path, "utf8"), "precious");
    t.same(await readdir(join(path, "..")), ["@alice_key.atKeys"]);
    await writeAtKeysFile(path, "@alice", keys, { overwrite: true });
    t.equal((await stat(path)).mode & 0o777, 0o600);
    t.equal((await readAtKeysFile(path)).enrollmentId, keys.enrollmentId);
  });

  t.test("can be tried beforehand, which leaves nothing behind", async (t) => {
    const folder = t.testdir({ file: "no directory" });
    await checkAtKeysPath(join(folder, "new", "x.atKeys"));
    t.same(await readdir(join(folder, "new")), []);
    await t.rejects(checkAtKeysPath(join(folder, "file", "x.atKeys")), { code: "EEXIST" });
    await t.rejects(writeAtKeysFile(join(folder, "file", "x.atKeys"), "@alice", keys), { code: "EEXIST" });
  });

  t.test("that cannot be read say which file and why", async (t) => {
    const folder = t.testdir({ "bad.atKeys": "{}" });
    await t.rejects(readAtKeysFile(join(folder, "bad.atKeys")), {
      code: "KEY_FILE_INVALID",
      message: /bad\.atKeys: selfEncryptionKey: is missing/u,
    });
    await t.rejects(readAtKeysFile(join(folder, "none.atKeys")), { code: "ENOENT" });
  });

  t.test("stand where all SDKs look", async (t) => {
    t.equal(atKeysPath("@al🛠ice", "/home/pi"), "/home/pi/.atsign/keys/@al🛠ice_key.atKeys");
  });
});
