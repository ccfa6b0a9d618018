import { readdir, readFile, stat, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import t from "tap";
import { decryptDefaultKeys, encryptDefaultKeys, requestFingerprint } from "../../../atplatform/client/default-keys.js";
import { enroll, type EnrollOptions, type PendingEnrollment } from "../../../atplatform/client/enroll.js";
import { parseAesKey, parseIv } from "../../../atplatform/crypto/aes-ctr.js";
import { privateKeyText } from "../../../atplatform/crypto/rsa.js";
import { enroll as enrollVerb } from "../../../atplatform/protocol/verbs/enroll.js";
import { Secret } from "../../../core/secret.js";
import { alice, aliceKeys, welcoming } from "../../fixtures/at-server-script.js";
import { openScripted, type ScriptedServer } from "../../fixtures/scripted-server.js";
import { testKeys, vectors } from "../../fixtures/vectors.js";

interface EnrollmentVectors {
  readonly approver: {
    readonly listResponse: string;
    readonly approveCommand_zeroIv: string;
    readonly approveCommand_randomIv_laterRevision: string;
  };
  readonly keysGet: Readonly<Record<string, string>>;
}

const never = new AbortController().signal;
const { approver, keysGet } = vectors<EnrollmentVectors>("enrollment.json");
const symmetricKey = parseAesKey(testKeys.alice.apkamSymmetricKeyDevice2);
const body = (response: string | undefined): string => (response ?? "").slice("data:".length).trim();

t.test("default keys", async (t) => {
  t.test("given by other SDKs are read, with IVs and without", async (t) => {
    for (const form of ["zeroIv", "withIv"]) {
      const answers = {
        privateKey: body(keysGet[`encPrivateKeyResponse_${form}`]),
        selfKey: body(keysGet[`selfKeyResponse_${form}`]),
      };
      const keys = decryptDefaultKeys(answers, symmetricKey, testKeys.alice.encryption.publicKey);
      t.equal(privateKeyText(keys.encryption.privateKey), keysGet.expectedEncryptionPrivateKey, form);
      t.equal(Buffer.from(keys.selfKey.reveal()).toString("base64"), keysGet.expectedSelfEncryptionKey, form);
      t.throws(() => decryptDefaultKeys(answers, symmetricKey, testKeys.bob.encryption.publicKey), {
        code: "ANSWER_INVALID",
        message: /not those of the published/u,
      });
      const other = parseAesKey(testKeys.alice.apkamSymmetricKeyFirst);
      t.throws(() => decryptDefaultKeys(answers, other, testKeys.alice.encryption.publicKey), {
        code: "ANSWER_INVALID",
        message: /cannot be read/u,
      });
    }
  });

  t.test("are given as other SDKs give them, with the zero IV only when told so (trap 33)", async (t) => {
    const { params } = enrollVerb.parse(approver.approveCommand_zeroIv.trim());
    const { enrollmentId, ...values } = params;
    t.equal(enrollmentId, testKeys.alice.enrollmentIdDevice2);
    t.same(encryptDefaultKeys(aliceKeys, symmetricKey, { zeroIv: true }), values);
    const later = enrollVerb.parse(approver.approveCommand_randomIv_laterRevision.trim()).params;
    const own = encryptDefaultKeys(aliceKeys, symmetricKey);
    t.same(
      Object.keys(own).sort(),
      Object.keys(later)
        .filter((name) => name !== "enrollmentId")
        .sort(),
    );
    t.not(own.encPrivateKeyIV, own.selfEncKeyIV);
    t.notSame(parseIv(own.selfEncKeyIV), Buffer.alloc(16));
    const answers = {
      privateKey: JSON.stringify({ value: own.encryptedDefaultEncryptionPrivateKey, iv: own.encPrivateKeyIV }),
      selfKey: JSON.stringify({ value: own.encryptedDefaultSelfEncryptionKey, iv: own.selfEncKeyIV }),
    };
    const back = decryptDefaultKeys(answers, symmetricKey, aliceKeys.encryption.publicText);
    t.same(Buffer.from(back.selfKey.reveal()), Buffer.from(aliceKeys.selfKey.reveal()));
  });
});

const optionsOf = (server: ScriptedServer, dir: string): EnrollOptions => ({
  atSign: alice,
  appName: "agent",
  deviceName: "pi-kitchen",
  namespaces: { "north.atedge": "rw" },
  passcode: new Secret("ABC123"),
  directory: { kind: "proxy", host: "127.0.0.1", port: server.port },
  ca: server.caPem,
  keyFile: join(dir, "keys", "device.atKeys"),
  pollMs: 1,
});

/** An atServer that answers `pkam` with one of these after another, the last one for ever. */
async function deciding(pkamAnswers: readonly string[]): Promise<{ server: ScriptedServer; lines: string[] }> {
  const lines: string[] = [];
  let pkams = 0;
  const server = await openScripted(async (peer) => {
    await peer.send("@");
    await peer.answer((line) => {
      lines.push(line);
      if (line.startsWith("pkam:")) return `${pkamAnswers[Math.min(pkams++, pkamAnswers.length - 1)] ?? ""}\n@`;
      return welcoming(alice, (line) => {
        if (line === "lookup:publickey@alice") return testKeys.alice.encryption.publicKey;
        return line.startsWith("enroll:") ? '{"enrollmentId":"e-1","status":"pending"}' : undefined;
      })(line);
    });
  });
  return { server, lines };
}

t.test("enroll", async (t) => {
  t.test("stops when it is refused, and only then (trap 35)", async (t) => {
    const cases = [
      ["error:AT0025:enrollment_id: e-1 is denied", "AT0025"],
      ["error:AT0027:enrollment_id: e-1 is revoked", "AT0027"],
      ["error:AT0028:enrollment_id: e-1 is expired or invalid", "AT0028"],
    ] as const;
    for (const [answer, code] of cases) {
      const pending = "error:AT0026:enrollment_id: e-1 is pending";
      const unknown = "error:AT0401-Exception: pkam authentication failed";
      const { server, lines } = await deciding([pending, unknown, pending, answer]);
      const options = optionsOf(server, t.testdir());
      await t.rejects(enroll(options, never), { code: "ENROLLMENT_REFUSED", cause: { code } });
      t.equal(lines.filter((line) => line.startsWith("pkam:")).length, 4);
      t.same(await readdir(dirname(options.keyFile)), [], "nothing is left of it");
      await server[Symbol.asyncDispose]();
    }
  });

  t.test("goes on with the same request after it was stopped", async (t) => {
    const { server, lines } = await deciding(["error:AT0026:enrollment_id: e-1 is pending"]);
    const options = optionsOf(server, t.testdir());
    const shown: PendingEnrollment[] = [];
    for (let round = 0; round < 2; round += 1) {
      const abort = new AbortController();
      const onPending = (pending: PendingEnrollment): void => {
        shown.push(pending);
        abort.abort(new Error("stopped"));
      };
      await t.rejects(enroll({ ...options, onPending }, abort.signal), { message: "stopped" });
    }
    t.equal(lines.filter((line) => line.startsWith("enroll:request")).length, 1);
    t.same(shown[0], shown[1]);
    t.equal((await stat(`${options.keyFile}.pending`)).mode & 0o777, 0o600);
    const { params } = enrollVerb.parse(lines.find((line) => line.startsWith("enroll:")) ?? "");
    t.match(params, {
      appName: "agent",
      deviceName: "pi-kitchen",
      namespaces: { "north.atedge": "rw" },
      otp: "ABC123",
    });
    t.equal(shown[0]?.fingerprint, requestFingerprint(params.encryptedAPKAMSymmetricKey ?? ""));
    await t.rejects(enroll({ ...options, deviceName: "pi-attic" }, never), {
      code: "KEY_FILE_INVALID",
      message: /another request, for agent on pi-kitchen of @alice, north.atedge:rw: remove it/u,
    });
    await writeFile(`${options.keyFile}.pending`, '{"apkamPrivateKey":"x"}');
    await t.rejects(enroll(options, never), { code: "KEY_FILE_INVALID", message: /\.pending: / });
    await server[Symbol.asyncDispose]();
  });

  t.test("asks for nothing when the file could not be written or a name would not do (trap 34)", async (t) => {
    const { server, lines } = await deciding([""]);
    const options = optionsOf(server, t.testdir({ keys: { "device.atKeys": "precious" } }));
    await t.rejects(enroll(options, never), { code: "KEY_FILE_EXISTS" });
    await t.rejects(enroll({ ...options, deviceName: "pi kitchen" }, never), { code: "ANSWER_INVALID" });
    t.equal(await readFile(options.keyFile, "utf8"), "precious");
    t.same(lines, []);
    await server[Symbol.asyncDispose]();
  });
});
