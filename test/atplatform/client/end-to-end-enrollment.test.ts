import { readdir } from "node:fs/promises";
import { dirname } from "node:path";
import t from "tap";
import { type AtClient, openAtClient } from "../../../atplatform/client/at-client.js";
import { enroll, type EnrollOptions, type PendingEnrollment } from "../../../atplatform/client/enroll.js";
import { readAtKeysFile } from "../../../atplatform/crypto/at-keys-file.js";
import { parseAtSign } from "../../../atplatform/protocol/at-sign.js";
import { Secret } from "../../../core/secret.js";
import { TestPlatform } from "../../fixtures/at-platform.js";

const never = new AbortController().signal;
const [alice, bob] = [parseAtSign("@alice"), parseAtSign("@bob")];

t.test("a device is enrolled with a one-time passcode", async (t) => {
  await using platform = await TestPlatform.open(t.testdir());
  await using owner = await platform.client("@alice");
  await using reader = await platform.client("@bob");
  const requests = owner.enrollments.requests(never);

  const optionsOf = (deviceName: string, passcode: Secret): EnrollOptions => ({
    atSign: alice,
    appName: "agent",
    deviceName,
    namespaces: { "north.atedge": "rw" },
    passcode,
    directory: platform.directory,
    ca: platform.platform.caPem,
    keyFile: platform.keyFile(`@alice_${deviceName}`),
    pollMs: 20,
  });

  const request = async (deviceName: string): Promise<{ keys: Promise<unknown>; pending: PendingEnrollment }> => {
    const passcode = await owner.enrollments.newPasscode({}, never);
    let keys: Promise<unknown> | undefined;
    const pending = await new Promise<PendingEnrollment>((resolve, reject) => {
      keys = enroll({ ...optionsOf(deviceName, passcode), onPending: resolve }, never);
      keys.catch(reject);
    });
    return { keys: keys ?? Promise.reject(new Error("it has not begun")), pending };
  };

  await t.test("and works in its namespace, and in no other, once the owner has approved it", async (t) => {
    const { keys, pending } = await request("north");
    const { value: seen } = await requests.next();
    t.match(seen, {
      id: pending.enrollmentId,
      fingerprint: pending.fingerprint,
      appName: "agent",
      deviceName: "north",
      namespaces: { "north.atedge": "rw" },
      status: "pending",
    });
    await t.rejects(owner.enrollments.approve({ id: pending.enrollmentId }, { fingerprint: "sha256:00" }, never), {
      code: "ENROLLMENT_MISMATCH",
    });
    await owner.enrollments.approve({ id: pending.enrollmentId }, { fingerprint: pending.fingerprint }, never);
    await keys;
    const { keyFile } = optionsOf("north", new Secret(""));
    t.notOk((await readdir(dirname(keyFile))).some((name) => name.endsWith(".pending")));
    const deviceKeys = await readAtKeysFile(keyFile);
    t.equal(deviceKeys.enrollmentId, pending.enrollmentId);

    await using device = await openAtClient(
      { atSign: alice, keys: deviceKeys, directory: platform.directory, ca: platform.platform.caPem },
      never,
    );
    await device.put({ key: "state.north.atedge", for: bob }, "fine", {}, never);
    t.equal((await reader.get({ key: "state.north.atedge", by: alice }, {}, never))?.value, "fine");
    await device.put({ key: "note.north.atedge" }, "self", {}, never);
    t.equal((await owner.get({ key: "note.north.atedge" }, {}, never))?.value, "self", "the self key is the atSign's");
    await t.rejects(device.put({ key: "state.south.atedge" }, "x", {}, never), { code: "AT0009" });
    await t.rejects(device.notify({ to: bob, key: "x.south.atedge", value: "x", ttlnMs: 1_000 }, never), {
      code: "AT0009",
    });
    await t.rejects(device.enrollments.deny(pending.enrollmentId, never), { code: "AT0011" });
    await device.notify({ to: bob, key: "x.north.atedge", value: "x", ttlnMs: 1_000 }, never);
  });

  await t.test("and is refused after it was revoked", async (t) => {
    const [device] = await owner.enrollments
      .list({ states: ["approved"] }, never)
      .then((all) => all.filter(({ deviceName }) => deviceName === "north"));
    if (!device) throw new Error("the device is not listed");
    const keys = await readAtKeysFile(optionsOf("north", new Secret("")).keyFile);
    const open = () =>
      openAtClient({ atSign: alice, keys, directory: platform.directory, ca: platform.platform.caPem }, never);
    await owner.enrollments.revoke(device.id, {}, never);
    {
      await using client = await open();
      await t.rejects(client.scan({}, never), { code: "AT0027", remedy: "stop" });
      t.equal(client.health.command.state, "refused");
    }
    await owner.enrollments.unrevoke(device.id, never);
    await using client = await open();
    t.ok((await client.scan({}, never)).length > 0);
  });

  await t.test("or is denied", async (t) => {
    const { keys, pending } = await request("east");
    const { value: seen } = await requests.next();
    t.equal(seen?.id, pending.enrollmentId);
    await owner.enrollments.deny(pending.enrollmentId, never);
    await t.rejects(keys, { code: "ENROLLMENT_REFUSED", cause: { code: "AT0025" } });
    t.equal((await owner.enrollments.fetch(pending.enrollmentId, never)).status, "denied");
    await owner.enrollments.delete(pending.enrollmentId, never);
    t.same(await owner.enrollments.list({ states: ["denied", "pending"] }, never), []);
  });

  await t.test("but not with a wrong passcode; with the semi-permanent one again and again", async (t) => {
    await t.rejects(enroll(optionsOf("west", new Secret("WRONG1")), never), { code: "AT0011" });
    const spp = new Secret("FLEET7");
    await owner.enrollments.setPasscode(spp, {}, never);
    for (const name of ["west", "south"]) {
      const device = enroll({ ...optionsOf(name, spp) }, never);
      const { value: seen } = await requests.next();
      t.equal(seen?.deviceName, name);
      if (seen) await owner.enrollments.approve(seen, {}, never);
      await device;
    }
  });

  await t.test("for a time only, when it asked for that", async (t) => {
    const passcode = await owner.enrollments.newPasscode({}, never);
    const options = { ...optionsOf("summer", passcode), expiresInMs: 1_500 };
    const approve = ({ enrollmentId: id, fingerprint }: PendingEnrollment): void =>
      void owner.enrollments.approve({ id }, { fingerprint }, never);
    const keys = await enroll({ ...options, onPending: approve }, never);
    const open = (): Promise<AtClient> =>
      openAtClient({ atSign: alice, keys, directory: platform.directory, ca: platform.platform.caPem }, never);
    const answer = async (): Promise<unknown> => {
      await using client = await open();
      return await client.scan({}, never).catch((error: unknown) => error);
    };
    t.ok(Array.isArray(await answer()), "it is let in");
    let refusal = await answer();
    while (Array.isArray(refusal)) refusal = await answer();
    t.match(refusal, { code: "AT0028", remedy: "stop" });
  });
  await requests.return();
});
