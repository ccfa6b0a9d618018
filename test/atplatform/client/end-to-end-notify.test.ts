import t from "tap";
import type { AtClient, ReceivedNotification } from "../../../atplatform/client/at-client.js";
import type { ResumePoint } from "../../../atplatform/client/seen-window.js";
import type { ResumeStore } from "../../../atplatform/client/subscription.js";
import { newAesKey } from "../../../atplatform/crypto/aes-ctr.js";
import { parseAtSign } from "../../../atplatform/protocol/at-sign.js";
import { codeOf } from "../../../core/errors.js";
import { TestPlatform } from "../../fixtures/at-platform.js";

const never = new AbortController().signal;
const [alice, bob] = [parseAtSign("@alice"), parseAtSign("@bob")];
const MINUTE_MS = 60_000;

async function take(source: AsyncIterator<ReceivedNotification, void>): Promise<ReceivedNotification> {
  const { value, done } = await source.next();
  if (done) throw new Error("it has ended");
  return value;
}

async function untilLive(client: AtClient): Promise<void> {
  while (client.health.subscriptions[0]?.state !== "live") await new Promise((resolve) => setImmediate(resolve));
}

/** Until our own atServer has it, however often the link breaks. */
async function notifyUntilAccepted(client: AtClient, id: string, value: string): Promise<void> {
  for (;;) {
    try {
      await client.notify({ id, to: bob, key: "count.demo", value, ttlnMs: 10 * MINUTE_MS }, never);
      return;
    } catch (error) {
      if (codeOf(error) === undefined) throw error;
    }
  }
}

class MemoryStore implements ResumeStore {
  point: ResumePoint | undefined;
  load(): Promise<ResumePoint | undefined> {
    return Promise.resolve(this.point);
  }
  save(point: ResumePoint): Promise<void> {
    this.point = point;
    return Promise.resolve();
  }
}

t.test("notifications between two atSigns", async (t) => {
  await using platform = await TestPlatform.open(t.testdir());
  await using sender = await platform.client("@alice");
  await using receiver = await platform.client("@bob");

  await t.test("arrive and are decrypted with the shared key", async (t) => {
    const source = receiver.subscribe({ regex: "\\.demo@", since: "stored" }, never);
    const id = await sender.notify({ to: bob, key: "temp.demo", value: "21.5 °C", ttlnMs: MINUTE_MS }, never);
    const got = await take(source);
    t.match(got, { id, from: alice, to: bob, key: "temp.demo", atKey: "@bob:temp.demo@alice", isEncrypted: true });
    t.notMatch(got.value, /21/u);
    const { text, aesKey } = await got.decrypt(never);
    t.equal(text, "21.5 °C");
    t.same(Buffer.from(aesKey), Buffer.from((await sender.sharedKeyFor(bob, never)).aesKey));

    t.equal(await sender.waitForDelivery(id, {}, never), "delivered");
    t.equal(await sender.notificationStatus(id, never), "delivered");
    t.equal(await sender.notificationStatus("00000000-0000-4000-8000-000000000000", never), "unknown");

    const brought = newAesKey();
    const other = { to: bob, key: "temp.demo", value: "sealed", ttlnMs: MINUTE_MS, encryptWith: brought };
    await sender.notify(other, never);
    const again = await (await take(source)).decrypt(never);
    t.same([again.text, Buffer.from(again.aesKey)], ["sealed", brought]);

    await sender.notify({ to: bob, key: "temp.demo", value: "in clear", ttlnMs: MINUTE_MS, encrypt: false }, never);
    const clear = await take(source);
    t.match(clear, { value: "in clear", isEncrypted: false });
    await t.rejects(clear.decrypt(never), { code: "DECRYPTION_FAILED" });

    await sender.notify({ to: bob, key: "temp.demo", operation: "delete", ttlnMs: MINUTE_MS }, never);
    t.match(await take(source), { operation: "delete", value: null });
    await source.return();
  });

  await t.test("of another key than the expression are not seen; to oneself they are", async (t) => {
    const source = receiver.subscribe({ regex: "\\.only@" }, never);
    const first = take(source);
    while (receiver.health.subscriptions[0]?.state !== "live") await new Promise((resolve) => setImmediate(resolve));
    await sender.notify({ to: bob, key: "temp.demo", value: "not this", ttlnMs: MINUTE_MS }, never);
    await receiver.notify({ to: bob, key: "self.only", value: "to myself", ttlnMs: MINUTE_MS }, never);
    const got = await first;
    t.match(got, { from: bob, key: "self.only" });
    t.equal((await got.decrypt(never)).text, "to myself");
    await source.return();
  });

  await t.test("can be texts, encrypted ones of any content (client.md, 7.5 rule 8)", async (t) => {
    const source = receiver.subscribe({ regex: "alice", since: "live" }, never);
    const first = take(source);
    await untilLive(receiver);
    const texts = ["mail me@home::now", "line\nbreak ", ":", "@", "::", "shared_key", "grüße: 21.5 °C 🌱"];
    for (const [at, text] of texts.entries()) {
      const id = await sender.notifyText({ to: bob, text, ttlnMs: MINUTE_MS }, never);
      const got = await (at === 0 ? first : take(source));
      t.match(got, { id, from: alice, messageType: "text", isEncrypted: true, value: null });
      t.equal((await got.decrypt(never)).text, text);
    }
    for (const text of ["hello: there  you", "shared_key", "a:b:c", "x.demo", "public:y", "Grüße"]) {
      await sender.notifyText({ to: bob, text, ttlnMs: MINUTE_MS, encrypt: false }, never);
      t.match(await take(source), { key: text, messageType: "text", isEncrypted: false, value: null });
    }
    for (const text of ["a@b", "a::b", ":a", "a ", "a\nb", "a"]) {
      const refused = sender.notifyText({ to: bob, text, ttlnMs: MINUTE_MS, encrypt: false }, never);
      await t.rejects(refused, { code: "SYNTAX_INVALID" }, JSON.stringify(text));
    }
    await t.rejects(sender.notifyText({ to: bob, text: "", ttlnMs: MINUTE_MS }, never), { code: "SYNTAX_INVALID" });
    const raw = sender.send("notify:messageType:text:@bob:half::lost", {}, never);
    await t.rejects(raw, { code: "AT0003" }, "rather than that the half of it is lost");
    await source.return();

    const replayed = receiver.subscribe({ regex: "alice", since: "stored" }, never);
    for (let got = await take(replayed); ; got = await take(replayed)) {
      if (got.messageType !== "text") continue;
      t.equal((await got.decrypt(never)).text, texts[0], "also from the store");
      break;
    }
    await replayed.return();
    const own = receiver.subscribe({ regex: "bob", since: "live" }, never);
    const next = take(own);
    await untilLive(receiver);
    await receiver.notifyText({ to: bob, text: "to myself", ttlnMs: MINUTE_MS }, never);
    t.equal((await (await next).decrypt(never)).text, "to myself");
    await own.return();
  });

  await t.test("need an atSign that has a key", async (t) => {
    const nobody = parseAtSign("@nobody");
    await t.rejects(sender.notify({ to: nobody, key: "x.demo", value: "v", ttlnMs: MINUTE_MS }, never), {
      code: /^AT00/u,
    });
  });
});

t.test("a platform that is restarted in the middle", async (t) => {
  await using platform = await TestPlatform.open(t.testdir());
  await using sender = await platform.client("@alice");
  await using receiver = await platform.client("@bob");
  const resume = new MemoryStore();
  const count = 30;
  const got: string[] = [];

  await t.test("loses no notification and delivers none twice", async (t) => {
    const source = receiver.subscribe({ regex: "count\\.demo@", resume }, never);
    const receiving = (async (): Promise<void> => {
      while (got.length < count) got.push((await (await take(source)).decrypt(never)).text);
    })();
    for (let n = 0; n < count; n += 1) {
      if (n === 10 || n === 20) await untilLive(receiver);
      if (n === 10) {
        await platform.stop();
        setImmediate(() => void platform.start());
      }
      if (n === 20) {
        await platform.stop();
        await platform.start();
      }
      await notifyUntilAccepted(sender, `00000000-0000-4000-8000-${String(n).padStart(12, "0")}`, `n${n}`);
    }
    await receiving;
    t.same(
      got,
      Array.from({ length: count }, (_, n) => `n${n}`),
    );
    t.ok((receiver.health.subscriptions[0]?.connections ?? 0) >= 3);
    await source.return();
  });
});
