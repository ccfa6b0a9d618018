import t from "tap";
import { type AtClient, openAtClient } from "../../../atplatform/client/at-client.js";
import { enroll } from "../../../atplatform/client/enroll.js";
import { readAtKeysFile } from "../../../atplatform/crypto/at-keys-file.js";
import type { AtKeys } from "../../../atplatform/crypto/at-keys.js";
import { parseAtSign } from "../../../atplatform/protocol/at-sign.js";
import { TestPlatform } from "../../fixtures/at-platform.js";

const never = new AbortController().signal;
const [alice, bob] = [parseAtSign("@alice"), parseAtSign("@bob")];

t.test("a client goes on with another enrolment", async (t) => {
  await using platform = await TestPlatform.open(t.testdir());
  await using owner = await platform.client("@alice");
  await using sender = await platform.client("@bob");
  const site = { atSign: alice, directory: platform.directory, ca: platform.platform.caPem };
  const enrolled = async (appName: string): Promise<AtKeys> =>
    await enroll(
      {
        ...{ ...site, appName, deviceName: "north", namespaces: { "north.demo": "rw" }, pollMs: 20 },
        keyFile: platform.keyFile(`@alice_${appName}`),
        passcode: await owner.enrollments.newPasscode({}, never),
        onPending: ({ enrollmentId: id, fingerprint }) =>
          void owner.enrollments.approve({ id }, { fingerprint }, never),
      },
      never,
    );
  const [first, second] = [await enrolled("one"), await enrolled("two")];

  const received: string[] = [];
  async function listen(client: AtClient, signal: AbortSignal): Promise<void> {
    for await (const each of client.subscribe({ regex: "north\\.demo", since: "live" }, signal))
      received.push((await each.decrypt(signal)).text);
  }
  const until = async (holds: () => boolean): Promise<void> => {
    while (!holds()) await new Promise((resolve) => setTimeout(resolve, 5));
  };

  await t.test(
    "while commands are under way and notifications come; the old one is revoked, and nothing fails",
    async (t) => {
      await using device = await openAtClient({ ...site, keys: first }, never);
      const stop = new AbortController();
      const listening = listen(device, stop.signal).catch(() => undefined);
      await until(() => device.health.subscriptions[0]?.state === "live");
      const running = { isOn: true, sent: 0, written: 0 };
      const sending = (async () => {
        for (; running.isOn; running.sent += 1)
          await sender.notify({ to: alice, key: "x.north.demo", value: String(running.sent), ttlnMs: 60_000 }, never);
      })();
      const writing = Promise.all(
        [0, 1, 2].map(async (of) => {
          for (; running.isOn; running.written += 1) {
            const line = `update:n${of}.north.demo@alice ${running.written}`;
            await device.send(line, {}, never); // not repeatable: one that was lost would show
          }
        }),
      );
      await until(() => received.length > 20 && running.written > 20);
      await device.useEnrollment(second, never);
      await owner.enrollments.revoke(first.enrollmentId ?? "", {}, never);
      const [before, written] = [received.length, running.written];
      await until(() => received.length > before + 20 && running.written > written + 20);
      running.isOn = false;
      await sending;
      await writing;
      await until(() => received.length >= running.sent);
      t.same(
        received,
        Array.from({ length: running.sent }, (_, index) => String(index)),
        "each once, in order",
      );
      t.match(device.health, { command: { connections: 2 }, subscriptions: [{ connections: 2, state: "live" }] });
      t.equal(device.health.command.lastErrorCode, undefined, "no connection has failed");
      t.equal(device.health.subscriptions[0]?.lastErrorCode, undefined);
      stop.abort();
      await listening;
    },
  );

  await t.test("at once, when the old one was refused and it would wait for ten minutes", async (t) => {
    await using device = await openAtClient({ ...site, keys: first }, never);
    const stop = new AbortController();
    const listening = listen(device, stop.signal).catch(() => undefined);
    await t.rejects(device.scan({}, never), { code: "AT0027" });
    await until(() => device.health.subscriptions[0]?.state === "refused");
    t.equal(device.health.command.state, "refused");
    await device.useEnrollment(second, never);
    t.ok((await device.scan({}, never)).length > 0);
    await until(() => device.health.subscriptions[0]?.state === "live");
    stop.abort();
    await listening;
  });

  await t.test("but not with one that the atServer refuses, nor with keys of another", async (t) => {
    await using device = await openAtClient({ ...site, keys: second }, never);
    await t.rejects(device.useEnrollment(first, never), { code: "AT0027" });
    const bobs = await readAtKeysFile(platform.keyFile(bob));
    await t.rejects(device.useEnrollment(bobs, never), { code: "KEY_INVALID", message: /not those of the @alice/u });
    t.ok((await device.scan({}, never)).length > 0, "it goes on as it was");
  });
});
