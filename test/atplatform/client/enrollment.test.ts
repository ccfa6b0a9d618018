import { readdir, readFile, stat, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import t from "tap";
import { decryptDefaultKeys, encryptDefaultKeys, requestFingerprint } from "../../../atplatform/client/default-keys.js";
import { enroll, type EnrollOptions, type PendingEnrollment } from "../../../atplatform/client/enroll.js";
import { newAesKey, parseAesKey, parseIv } from "../../../atplatform/crypto/aes-ctr.js";
import { encryptAesKey, privateKeyText } from "../../../atplatform/crypto/rsa.js";
import { enroll as enrollVerb, type EnrollParams } from "../../../atplatform/protocol/verbs/enroll.js";
import { Secret } from "../../../core/secret.js";
import { alice, aliceKeys, clientOf, welcoming } from "../../fixtures/at-server-script.js";
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

interface Entry {
  readonly params: EnrollParams;
  state: string;
  given: EnrollParams;
}

/** An atServer with enrolments that keeps the IVs of an approval, or drops them as the October 2024 one does. */
async function keepingIvs(doesKeep: boolean, refuses: readonly string[] = []) {
  const entries = new Map<string, Entry>();
  const done: string[] = [];
  const enrolled = (line: string): string => {
    const { operation, params } = enrollVerb.parse(line);
    const id = operation === "request" ? `e-${entries.size + 1}` : (params.enrollmentId ?? "");
    done.push(`${operation} ${id}`);
    if (refuses.includes(operation)) return "error:AT0011-Internal server exception : no";
    if (operation === "request") entries.set(id, { params, state: "pending", given: {} });
    const entry = entries.get(id);
    if (!entry) return "error:AT0015-key not found";
    if (operation === "approve") [entry.given, entry.state] = [params, "approved"];
    if (operation === "revoke") entry.state = "revoked";
    if (operation !== "fetch") return JSON.stringify({ enrollmentId: id, status: entry.state });
    const { appName, deviceName, namespaces: namespace, encryptedAPKAMSymmetricKey } = entry.params;
    return JSON.stringify({ appName, deviceName, namespace, encryptedAPKAMSymmetricKey, status: entry.state });
  };
  const keyOf = (line: string): string | undefined => {
    const { id = "", which } = /keyName:(?<id>e-\d+)\.default_(?<which>enc_private|self_enc)/u.exec(line)?.groups ?? {};
    const given = entries.get(id)?.given;
    if (!given) return undefined;
    const isSelf = which === "self_enc";
    const value = isSelf ? given.encryptedDefaultSelfEncryptionKey : given.encryptedDefaultEncryptionPrivateKey;
    const iv = isSelf ? given.selfEncKeyIV : given.encPrivateKeyIV;
    return JSON.stringify({ value, ...(doesKeep && { iv }) });
  };
  const server = await openScripted(async (peer) => {
    await peer.send("@");
    const reply = welcoming(alice, (line) => {
      if (line === "lookup:publickey@alice") return testKeys.alice.encryption.publicKey;
      if (line === "otp:get") return "ABC123";
      if (line.startsWith("keys:get")) return keyOf(line);
      return line.startsWith("enroll:") ? enrolled(line) : undefined;
    });
    await peer.answer((line) => {
      const { id } = /^pkam:.*enrollmentId:(?<id>e-\d+):/u.exec(line)?.groups ?? {};
      const isPending = id !== undefined && entries.get(id)?.state === "pending";
      return isPending ? "error:AT0026:enrollment_id: e-1 is pending\n@" : reply(line);
    });
  });
  return { server, entries, done };
}

t.test("an approver finds out whether the atServer keeps IVs (client.md, 4.5)", async (t) => {
  const approver = (server: ScriptedServer) => clientOf(server, { atSign: alice, keys: aliceKeys });

  t.test("and uses random ones where it does, a zero one only when a human allows it", async (t) => {
    for (const [doesKeep, zeroIv] of [
      [true, true],
      [true, false],
      [false, true],
    ] as const) {
      const { server, entries, done } = await keepingIvs(doesKeep);
      await using client = await approver(server);
      const keyFile = join(t.testdir(), `${String(doesKeep)}${String(zeroIv)}.atKeys`);
      const options = { ...optionsOf(server, ""), keyFile };
      const keys = await enroll(
        { ...options, onPending: ({ enrollmentId: id }) => void client.enrollments.approve({ id }, { zeroIv }, never) },
        never,
      );
      t.same(Buffer.from(keys.selfKey.reveal()), Buffer.from(aliceKeys.selfKey.reveal()), "the device has its keys");
      t.equal(entries.get("e-1")?.given.selfEncKeyIV === undefined, !doesKeep);
      t.same(done.slice(1), ["fetch e-1", "request e-2", "approve e-2", "revoke e-2", "delete e-2", "approve e-1"]);
      const probe = entries.get("e-2");
      t.match(probe?.params, {
        appName: "probe",
        namespaces: { "north.atedge": "r" },
        apkamKeysExpiryInMillis: 60_000,
      });
      const { encryptedDefaultEncryptionPrivateKey: given = "" } = probe?.given ?? {};
      t.ok(given.length > 0 && given.length < 200, "no private key is in what the throw-away enrolment gets");
      await client.enrollments.approve({ id: "e-1" }, { zeroIv }, never);
      t.equal(done.filter((each) => each.startsWith("request")).length, 2, "once is enough");
      await server[Symbol.asyncDispose]();
    }
  });

  t.test("and approves nothing where a device could not read its keys", async (t) => {
    const { server, entries, done } = await keepingIvs(false);
    await using client = await approver(server);
    const pkam = testKeys.alice.pkam.publicKey;
    const encryptedAPKAMSymmetricKey = encryptAesKey(newAesKey(), aliceKeys.encryption.publicKey);
    const params = { appName: "a", deviceName: "d", namespaces: { x: "rw" }, encryptedAPKAMSymmetricKey } as const;
    entries.set("e-1", { params: { ...params, apkamPublicKey: pkam }, state: "pending", given: {} });
    await t.rejects(client.enrollments.approve({ id: "e-1" }, {}, never), { code: "IVS_DROPPED" });
    t.notOk(done.includes("approve e-1"));
    t.equal(entries.get("e-2")?.state, "revoked");
    await server[Symbol.asyncDispose]();
  });

  t.test("and takes the safe way where it does not let itself be asked", async (t) => {
    const { server, entries } = await keepingIvs(true, ["request"]);
    await using client = await approver(server);
    const encryptedAPKAMSymmetricKey = encryptAesKey(newAesKey(), aliceKeys.encryption.publicKey);
    const params = { appName: "a", deviceName: "d", namespaces: { x: "rw" }, encryptedAPKAMSymmetricKey } as const;
    entries.set("e-1", { params, state: "pending", given: {} });
    await client.enrollments.approve({ id: "e-1" }, {}, never);
    t.match(entries.get("e-1")?.given.selfEncKeyIV, /^[A-Za-z0-9+/]{22}==$/u);
    await server[Symbol.asyncDispose]();
  });
});
