import { readFile, stat } from "node:fs/promises";
import t from "tap";
import { openAtClient } from "../../../atplatform/client/at-client.js";
import { onboard, type OnboardStep } from "../../../atplatform/client/onboard.js";
import { readAtKeysFile } from "../../../atplatform/crypto/at-keys-file.js";
import { parseAtSign } from "../../../atplatform/protocol/at-sign.js";
import { Secret } from "../../../core/secret.js";
import { TestPlatform } from "../../fixtures/at-platform.js";

const never = new AbortController().signal;
const [alice, bob] = [parseAtSign("@alice"), parseAtSign("@bob")];

t.test("onboarding", async (t) => {
  await using platform = await TestPlatform.open(t.testdir());
  const { cramSecret } = await platform.platform.add("@alice");
  const keyFile = platform.keyFile("@alice");
  const options = {
    atSign: alice,
    secret: new Secret(cramSecret),
    directory: platform.directory,
    ca: platform.platform.caPem,
    keyFile,
  };

  await t.test("makes the atSign one's own, with keys in a file that only the owner can read", async (t) => {
    await t.rejects(onboard({ ...options, secret: new Secret("wrong"), keyFile: `${keyFile}.other` }, never), {
      code: "AT0401",
    });
    const steps: OnboardStep[] = [];
    const keys = await onboard({ ...options, onStep: (step) => steps.push(step) }, never);
    t.same(steps, ["wait", "keys", "secret", "enroll", "login", "publish", "finish"]);
    t.equal((await stat(keyFile)).mode & 0o777, 0o600);
    const read = await readAtKeysFile(keyFile);
    t.equal(read.encryption.publicText, keys.encryption.publicText);
    t.equal(read.enrollmentId, keys.enrollmentId);
    await using client = await openAtClient({ ...options, keys: read }, never);
    t.equal(await client.publicKeyOf(alice, {}, never), keys.encryption.publicText);
  });

  await t.test("goes on with its keys when it was cut short, and deletes the secret", async (t) => {
    const before = await readFile(keyFile, "utf8");
    const steps: OnboardStep[] = [];
    await onboard({ ...options, onStep: (step) => steps.push(step) }, never);
    t.same(steps, ["wait", "keys", "login", "publish", "finish"]);
    t.equal(await readFile(keyFile, "utf8"), before);
  });

  await t.test("refuses an atSign that has other keys already", async (t) => {
    await t.rejects(onboard({ ...options, keyFile: platform.keyFile("@alice2") }, never), {
      code: "ALREADY_ACTIVATED",
    });
  });

  await t.test("says that the directory does not know the atSign", async (t) => {
    const unknown = { ...options, atSign: bob, keyFile: platform.keyFile("@bob"), attempts: 1 };
    await t.rejects(onboard(unknown, never), { code: "ATSIGN_UNKNOWN" });
  });
});

t.test("records", async (t) => {
  await using platform = await TestPlatform.open(t.testdir());
  await using client = await platform.client("@alice");
  await using other = await platform.client("@bob");

  await t.test("for oneself are encrypted and come back", async (t) => {
    const commitId = await client.put({ key: "note.demo" }, "for my eyes only", {}, never);
    t.ok(commitId >= 0);
    const record = await client.get({ key: "note.demo" }, {}, never);
    t.match(record, { value: "for my eyes only", wasEncrypted: true, metadata: { isEncrypted: true } });
    const raw = await client.send("llookup:note.demo@alice", {}, never);
    t.notMatch(raw, /eyes/u);
  });

  await t.test("for another are read by that one, with the key for checking seals", async (t) => {
    await client.put({ key: "phone.demo", for: bob }, "+1 234", { ttlMs: 60_000 }, never);
    const { aesKey } = await client.sharedKeyFor(bob, never);
    const read = await other.get({ key: "phone.demo", by: alice }, {}, never);
    t.match(read, { value: "+1 234", wasEncrypted: true });
    t.same(read?.aesKey && Buffer.from(read.aesKey), Buffer.from(aesKey));
    const own = await client.get({ key: "phone.demo", for: bob }, {}, never);
    t.equal(own?.value, "+1 234");
    await client.put({ key: "phone.demo", for: bob }, "+1 567", {}, never);
    t.equal((await other.get({ key: "phone.demo", by: alice }, { fresh: true }, never))?.value, "+1 567");
  });

  await t.test("for everybody are signed, whatever characters they hold (trap 20)", async (t) => {
    for (const text of ["plain", "two\nlines\n", "Grüße, 世界 🛠", " blank in front", '{"a":1}']) {
      await client.put({ key: "note.demo", for: "public" }, text, {}, never);
      const expected = { value: text, wasEncrypted: false, signature: "valid" };
      t.match(await client.get({ key: "note.demo", for: "public" }, {}, never), expected, text);
      const read = await other.get({ key: "note.demo", for: "public", by: alice }, { fresh: true }, never);
      t.match(read, expected, text);
    }
    await client.send("update:dataSignature:AAAA:isEncrypted:false:public:note.demo@alice forged", {}, never);
    const forged = await client.get({ key: "note.demo", for: "public" }, {}, never);
    t.match(forged, { value: "forged", signature: "invalid" });
  });

  await t.test("can be bytes", async (t) => {
    const bytes = Buffer.from([0, 255, 7, 128, 10, 13, 64]);
    await client.put({ key: "bin.demo" }, bytes, {}, never);
    t.same((await client.get({ key: "bin.demo" }, {}, never))?.bytes, bytes);
    await client.put({ key: "bin.demo", for: "public" }, bytes, {}, never);
    t.same((await client.get({ key: "bin.demo", for: "public" }, {}, never))?.bytes, bytes);
  });

  await t.test("are listed and deleted, and absence is a value", async (t) => {
    const names = await client.scan({ regex: "demo@" }, never);
    t.same([...names].sort(), [
      "@bob:phone.demo@alice",
      "bin.demo@alice",
      "note.demo@alice",
      "public:bin.demo@alice",
      "public:note.demo@alice",
    ]);
    await client.delete({ key: "note.demo" }, never);
    await client.delete({ key: "note.demo" }, never);
    t.equal(await client.get({ key: "note.demo" }, {}, never), undefined);
    t.equal(await other.get({ key: "nothing.demo", by: alice }, {}, never), undefined);
    t.equal(await other.get({ key: "nothing.demo", for: "public", by: alice }, {}, never), undefined);
  });

  await t.test("are read one after the other, also the copies of another's", async (t) => {
    await other.put({ key: "mine.list" }, "self", {}, never);
    await other.put({ key: "open.list", for: "public" }, "public", {}, never);
    await other.put({ key: "theirs.list", for: alice }, "shared", {}, never);
    await client.put({ key: "copy.list", for: bob }, "copied", { ttrSeconds: -1 }, never);
    await other.get({ key: "copy.list", by: alice }, {}, never);
    const found = new Map<string, string | null>();
    for await (const { key, value } of other.readAll({ regex: "\\.list@" }, never)) found.set(key, value);
    t.same([...found.values()].sort(), ["copied", "public", "self", "shared"]);
    for await (const record of other.readAll({}, never)) t.notMatch(record.key, /shared_key|publickey/u);
  });

  await t.test("have metadata that is read and changed without the value", async (t) => {
    const name = { key: "meta.demo", for: bob };
    t.equal(await client.metadataOf(name, never), undefined);
    t.equal(await client.setMetadata(name, { ttlMs: 1_000 }, never), undefined, "and makes no record");
    t.equal(await client.metadataOf(name, never), undefined);
    await client.put(name, "value", { ttrSeconds: 60, ccd: true }, never);
    const before = await client.metadataOf(name, never);
    t.match(before, { ttrSeconds: 60, ccd: true, isEncrypted: true, version: 0 });
    await client.setMetadata(name, { ttlMs: 3_600_000 }, never);
    const after = await client.metadataOf(name, never);
    t.match(after, { ttlMs: 3_600_000, ttrSeconds: 60, ccd: true, isEncrypted: true, ivNonce: before?.ivNonce });
    t.ok(after?.expiresAt && after.expiresAt.getTime() > Date.now() + 3_000_000);
    t.equal((await client.get(name, {}, never))?.value, "value");
    t.match(await other.metadataOf({ key: "meta.demo", by: alice }, never), { isEncrypted: true });
  });

  await t.test("may be written without encryption or without IV, and over one another (trap 8)", async (t) => {
    const written = [
      [{}, true],
      [{ encrypt: false }, false],
      [{ legacyZeroIv: true }, true],
      [{ encrypt: false }, false],
      [{}, true],
    ] as const;
    for (const [options, wasEncrypted] of written) {
      for (const name of [{ key: "mixed.demo" }, { key: "mixed.demo", for: bob }]) {
        await client.put(name, "one\ntwo", options, never);
        t.match(await client.get(name, {}, never), { value: "one\ntwo", wasEncrypted });
      }
      const read = await other.get({ key: "mixed.demo", by: alice }, { fresh: true }, never);
      t.match(read, { value: "one\ntwo", wasEncrypted });
    }
  });

  await t.test("refuse what cannot be written", async (t) => {
    await t.rejects(client.put({ key: "empty.demo" }, "", {}, never), { code: "SYNTAX_INVALID" });
    await t.rejects(client.put({ key: "bad key:x" }, "v", {}, never), { code: "AT_KEY_INVALID" });
    await t.rejects(client.put({ key: "x.demo", for: parseAtSign("@nobody") }, "v", {}, never), {
      code: /AT00|NOT_ACTIVATED/u,
    });
  });
});
