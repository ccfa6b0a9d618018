import fc from "fast-check";
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import { argon2id } from "../../../atplatform/crypto/argon2id.js";
import { formatAtKeys, parseAtKeys } from "../../../atplatform/crypto/at-keys.js";
import { readAtKeysFile, writeAtKeysFile } from "../../../atplatform/crypto/at-keys-file.js";
import { blake2b } from "../../../atplatform/crypto/blake2b.js";
import { unwrapAtKeys, wrapAtKeys } from "../../../atplatform/crypto/passphrase.js";
import { Secret } from "../../../core/secret.js";
import { vectors, vectorText } from "../../fixtures/vectors.js";

const wrappedName = "atkeys/@alice_device2_passphrase_key.atKeys";
const inside = vectorText("atkeys/@alice_device2_key.atKeys");
const { passphrase } = vectors<{ passphrase: string }>("atkeys/passphrase.json");

t.test("BLAKE2b", async (t) => {
  t.test("is OpenSSL's where OpenSSL has it", async () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 400 }), (input) =>
        blake2b(input, 64).equals(createHash("blake2b512").update(input).digest()),
      ),
      { examples: [[new Uint8Array(0)], [new Uint8Array(128)], [new Uint8Array(129)], [new Uint8Array(256)]] },
    );
  });

  t.test("gives the shorter digests of the command b2sum", async (t) => {
    for (const bytes of [1, 20, 32, 48]) {
      const out = execFileSync("b2sum", ["-l", String(bytes * 8)], { input: "atedge" }).toString();
      t.equal(blake2b(Buffer.from("atedge"), bytes).toString("hex"), out.split(" ")[0]);
    }
  });
});

t.test("Argon2id", async (t) => {
  t.test("gives the keys that libargon2 gives", async (t) => {
    // Debian's argon2 20171227, `echo -n password | argon2 somesalt -id -t … -k … -p … -l … -r`.
    const cases = [
      [
        { iterations: 1, memoryKiB: 8, parallelism: 1, keyBytes: 32 },
        "f137f8e186a403a679ccd0606e5ab5dcdafe43c1640855ac8c6e33e9bd63eeb3",
      ],
      [
        { iterations: 3, memoryKiB: 64, parallelism: 4, keyBytes: 32 },
        "4f87cd309b72ccf982e3a0be0c36a2e8517923ca3eeaf28c6efc676d092fb6d5",
      ],
      [
        { iterations: 2, memoryKiB: 600, parallelism: 1, keyBytes: 64 },
        "f190059672f51741af75ee6814d98d15576b7966350d510f0f1ffd0d9e12f0eebc701c9082b9585e0a18bb1f565cbf5d412e5796a14dc9bd0a440897a462884c",
      ],
      [{ iterations: 1, memoryKiB: 61, parallelism: 2, keyBytes: 20 }, "e9fce1a55669b12c7591ae0ba833981de11770f5"],
    ] as const;
    for (const [params, hex] of cases) {
      t.equal(argon2id(Buffer.from("password"), Buffer.from("somesalt"), params).toString("hex"), hex);
    }
  });
});

t.test("a key file with a passphrase", async (t) => {
  t.test("made by libargon2 and OpenSSL, unwraps to exactly the file inside", async (t) => {
    const text = await unwrapAtKeys(vectorText(wrappedName), new Secret(passphrase));
    t.equal(text, inside);
  });

  t.test("is wrapped and read back in both forms", async (t) => {
    const keys = parseAtKeys(inside);
    for (const form of ["compatible", "salted"] as const) {
      const path = join(t.testdir(), `${form}.atKeys`);
      await writeAtKeysFile(path, "@alice", keys, { passphrase: new Secret("sesame, öffne dich"), form });
      const outer = JSON.parse(await readFile(path, "utf8")) as Record<string, unknown>;
      t.same(
        Object.keys(outer),
        form === "compatible"
          ? ["content", "iv", "hashingAlgoType"]
          : ["v", "content", "iv", "hashingAlgoType", "salt", "kdfParams"],
      );
      const read = await readAtKeysFile(path, { passphrase: new Secret("sesame, öffne dich") });
      t.equal(formatAtKeys("@alice", read).reveal(), formatAtKeys("@alice", keys).reveal());
      await t.rejects(readAtKeysFile(path), { code: "PASSPHRASE_NEEDED" });
    }
  });

  t.test("trap 49: may have a passphrase of fewer than 8 characters", async (t) => {
    const outer = await wrapAtKeys(new Secret(inside), new Secret("abc"), "compatible");
    t.equal(await unwrapAtKeys(outer, new Secret("abc")), inside);
  });

  t.test("says the same of a wrong passphrase and of a damaged file, and shows neither", async (t) => {
    const file = join(t.testdir(), "k.atKeys");
    await writeFile(file, vectorText(wrappedName));
    const wrong = { code: "PASSPHRASE_WRONG", message: `${file}: wrong passphrase or damaged file` };
    await t.rejects(readAtKeysFile(file, { passphrase: new Secret("Correct-Horse 48") }), wrong);
    const { content, ...rest } = JSON.parse(vectorText(wrappedName)) as { content: string };
    await writeFile(file, JSON.stringify({ content: content.slice(0, -8), ...rest }));
    await t.rejects(readAtKeysFile(file, { passphrase: new Secret(passphrase) }), wrong);
  });

  t.test("is refused when its form is not known or asks for too much", async (t) => {
    const outer = JSON.parse(vectorText(wrappedName)) as Record<string, unknown>;
    const salted = { ...outer, v: 1, salt: "c2FsdHNhbHRzYWx0" };
    const cases: readonly (readonly [Record<string, unknown>, string, RegExp])[] = [
      [{ ...outer, hashingAlgoType: "sha512" }, "UNKNOWN_ALGORITHM", /argon2id/u],
      [{ ...salted, v: 2 }, "KEY_FILE_INVALID", /^v: expected 1, got 2/u],
      [{ ...outer, salt: "c2FsdA==" }, "KEY_FILE_INVALID", /^v: expected 1/u],
      [{ ...salted, kdfParams: { memory: 4_000_000_000 } }, "KEY_FILE_INVALID", /^kdfParams.memory/u],
      [{ ...salted, kdfParams: { memory: 15, parallelism: 2 } }, "KEY_FILE_INVALID", /^kdfParams.memory/u],
      [{ ...salted, kdfParams: { iterations: 0 } }, "KEY_FILE_INVALID", /^kdfParams.iterations/u],
      [{ ...salted, salt: "%%%" }, "KEY_FILE_INVALID", /^salt: is not base64/u],
      [{ ...outer, iv: "AAAA" }, "KEY_FILE_INVALID", /^iv: expected 16 bytes/u],
      [{ ...outer, content: "" }, "KEY_FILE_INVALID", /^content/u],
    ];
    for (const [file, code, message] of cases) {
      await t.rejects(unwrapAtKeys(JSON.stringify(file), new Secret(passphrase)), { code, message });
    }
    await t.rejects(wrapAtKeys(new Secret(inside), new Secret(""), "salted"), { code: "SYNTAX_INVALID" });
  });

  t.test("is told from one without: that one is read whatever the passphrase", async (t) => {
    t.equal(await unwrapAtKeys(inside, new Secret("not needed")), inside);
  });
});

// Published by upstream in its Dart tests; not copied into this repository.
const upstreamPath = "/work/shared/vectors/upstream-known-answers.json";
if (existsSync(upstreamPath)) {
  t.test("derives and unwraps what upstream pins in its own Dart tests", async (t) => {
    const upstream = JSON.parse(readFileSync(upstreamPath, "utf8")) as Upstream;
    for (const { passphrase, keyBase64, parallelism = 2, memory = 10_000, iterations = 2, length = 32 } of upstream
      .argon2id.cases) {
      const salt = Uint8Array.from({ length: passphrase.length }, (_, index) => passphrase.charCodeAt(index) & 0xff);
      const params = { parallelism, memoryKiB: memory, iterations, keyBytes: length };
      t.equal(argon2id(Buffer.from(passphrase), salt, params).toString("base64"), keyBase64);
    }
    for (const { passphrase, envelope, decryptsTo } of upstream.passphraseEnvelopes) {
      t.equal(await unwrapAtKeys(JSON.stringify(envelope), new Secret(passphrase)), decryptsTo);
    }
  });
}

interface Upstream {
  readonly argon2id: {
    readonly cases: readonly {
      readonly passphrase: string;
      readonly keyBase64: string;
      readonly parallelism?: number;
      readonly memory?: number;
      readonly iterations?: number;
      readonly length?: number;
    }[];
  };
  readonly passphraseEnvelopes: readonly {
    readonly passphrase: string;
    readonly envelope: unknown;
    readonly decryptsTo: string;
  }[];
}
