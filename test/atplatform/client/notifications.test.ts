import fc from "fast-check";
import t from "tap";
import type { ReceivedNotification } from "../../../atplatform/client/at-client.js";
import { type Notification, parseMonitorMessage } from "../../../atplatform/client/notification.js";
import { Pacer } from "../../../atplatform/client/pacer.js";
import { type ResumePoint, SeenWindow } from "../../../atplatform/client/seen-window.js";
import type { ResumeStore } from "../../../atplatform/client/subscription.js";
import { encryptAesKey, parsePublicKey } from "../../../atplatform/crypto/rsa.js";
import { parseAesKey } from "../../../atplatform/crypto/aes-ctr.js";
import { AtServerError } from "../../../atplatform/protocol/at-error.js";
import { EdgeError } from "../../../core/errors.js";
import { alice, bob, clientOf, welcoming } from "../../fixtures/at-server-script.js";
import { ManualClock } from "../../fixtures/manual-clock.js";
import { openScripted, type ScriptedPeer } from "../../fixtures/scripted-server.js";
import { testKeys, vectors } from "../../fixtures/vectors.js";

interface NotificationVectors {
  readonly notifications: readonly {
    readonly name: string;
    readonly line: string;
    readonly expect: {
      readonly from?: string;
      readonly key?: string;
      readonly plaintext?: string | null;
      readonly text?: string;
      readonly stats?: number;
      readonly ignore?: boolean;
      readonly undecryptable?: boolean;
      readonly raw?: string;
      readonly operation?: string;
      readonly rpc?: unknown;
    };
  }[];
}

const { notifications } = vectors<NotificationVectors>("notifications.json");
const bodyOf = (line: string): string => line.slice("notification: ".length).trimEnd();
const never = new AbortController().signal;
/** With a clock that is moved, real I/O must not be late by it. */
const untimed = { connectTimeoutMs: 1e9, commandTimeoutMs: 1e9 };

t.test("parseMonitorMessage", async (t) => {
  t.test("reads every form that atServers send", async (t) => {
    t.equal(notifications.length, 13);
    for (const { name, line, expect } of notifications) {
      const message = parseMonitorMessage(bodyOf(line), bob);
      if (expect.stats !== undefined) {
        t.match(message, { type: "stats", commitId: expect.stats }, name);
      } else if (expect.ignore) {
        t.match(message, { type: "sharedKey", from: alice }, name);
      } else {
        t.match(message, {
          type: "notification",
          notification: { from: alice, to: bob, operation: expect.operation ?? "update", epochMillis: 1729771200123 },
        });
        if (expect.key !== undefined) {
          t.match(message, { notification: { key: expect.key, atKey: `@bob:${expect.key}@alice` } }, name);
        }
      }
    }
  });

  t.test("takes the key with or without atSigns, and drops one that names others", async (t) => {
    const template = JSON.parse(bodyOf(notifications[0]?.line ?? "")) as object;
    const parse = (change: object): ReturnType<typeof parseMonitorMessage> =>
      parseMonitorMessage(JSON.stringify({ ...template, ...change }), bob);
    for (const key of ["cmd.demo", "@bob:cmd.demo", "cmd.demo@alice", "@Bob:cmd.demo@Alice"]) {
      t.match(parse({ key }), { notification: { key: "cmd.demo", atKey: "@bob:cmd.demo@alice" } }, key);
    }
    for (const key of ["@bob:cmd.demo@carol", "@carol:cmd.demo@alice"]) {
      t.throws(() => parse({ key }), { code: "ANSWER_INVALID" }, key);
    }
    t.throws(() => parse({ to: "@carol" }), { code: "ANSWER_INVALID" });
    t.throws(() => parse({ epochMillis: "yesterday" }), { code: "ANSWER_INVALID" });
    t.throws(() => parse({ id: 7 }), { code: "ANSWER_INVALID" });
    t.throws(() => parse({ value: 7 }), { code: "ANSWER_INVALID" });
    t.throws(() => parse({ from: "@" }), { code: "AT_SIGN_INVALID" });
  });

  t.test("has only typed errors for garbage", async () => {
    const member = fc.constantFrom("id", "from", "to", "key", "value", "epochMillis", "messageType", "metadata");
    fc.assert(
      fc.property(
        fc.oneof(
          fc.string(),
          fc.json(),
          fc.dictionary(member, fc.jsonValue()).map((o) => JSON.stringify(o)),
        ),
        (body) => {
          try {
            parseMonitorMessage(body, bob);
            return true;
          } catch (error) {
            return error instanceof EdgeError;
          }
        },
      ),
    );
  });
});

const note = (id: string, epochMillis: number, value = "v"): Notification => ({
  id,
  from: alice,
  to: bob,
  key: "k.demo",
  atKey: "@bob:k.demo@alice",
  operation: "update",
  messageType: "key",
  epochMillis,
  isEncrypted: true,
  value,
});

t.test("SeenWindow", async (t) => {
  t.test("knows a repeat by sender, id, key and value, also after a restart (traps 29 and 30)", async (t) => {
    const window = new SeenWindow();
    t.equal(window.resumeFromMs, undefined);
    window.add(note("1", 1_000_000));
    const restarted = new SeenWindow(JSON.parse(JSON.stringify(window.point)) as ResumePoint);
    for (const each of [window, restarted]) {
      t.ok(each.has(note("1", 1_000_000)));
      t.ok(each.has(note("1", 1_000_077)), "sent again by its server");
      t.notOk(each.has(note("1", 1_000_000, "other")), "Python sends others under the same id");
      t.notOk(each.has(note("2", 1_000_000)));
    }
  });

  t.test("asks for what came a little before the latest one", async (t) => {
    const window = new SeenWindow();
    window.add(note("1", 1_000_000));
    t.equal(window.resumeFromMs, 990_000);
    window.reached(1_020_000);
    t.equal(window.resumeFromMs, 1_010_000);
    window.reached(5);
    t.equal(window.resumeFromMs, 1_010_000, "it never goes back");
  });

  t.test("never asks for what it may have forgotten, and stays bounded", async () => {
    fc.assert(
      fc.property(fc.array(fc.nat(40), { minLength: 1, maxLength: 60 }), fc.nat(200), (steps, burst) => {
        const window = new SeenWindow();
        const sent: Notification[] = [];
        let now = 1_000_000;
        for (const step of [...steps, ...Array.from({ length: burst * 20 }, () => 0)]) {
          const next = note(String(sent.length), (now += step));
          sent.push(next);
          window.add(next);
        }
        const again = new SeenWindow(window.point);
        const from = again.resumeFromMs ?? 0;
        const replayed = sent.filter(({ epochMillis }) => epochMillis > from);
        return replayed.every((each) => again.has(each)) && (window.point?.seen.length ?? 0) <= 64;
      }),
      { numRuns: 30 },
    );
  });

  t.test("forgets after ten minutes", async (t) => {
    const window = new SeenWindow();
    window.add(note("1", 1_000_000));
    window.add(note("2", 1_600_001));
    t.notOk(window.has(note("1", 1_000_000)));
    t.equal(window.point?.seen.length, 1);
  });
});

t.test("Pacer", async (t) => {
  const waits = (pacer: Pacer, errors: readonly unknown[]): number[] =>
    errors.map((error) => {
      pacer.failed(error);
      return pacer.waitMs;
    });
  const lost = new Error("lost");

  t.test("waits up to twice as long each time, to a minute, and starts anew after a minute of health", async (t) => {
    const clock = new ManualClock();
    const pacer = new Pacer(clock, { random: () => 0.5 });
    t.equal(pacer.waitMs, 0);
    t.same(waits(pacer, Array(8).fill(lost)), [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000]);
    pacer.connected();
    await clock.advance(59_000);
    t.same(waits(pacer, [lost]), [30_000], "not healthy for long enough");
    pacer.connected();
    await clock.advance(60_000);
    t.same(waits(pacer, [lost, lost]), [500, 1000]);
  });

  t.test("waits long when the server is full, and longer when it refuses the keys (trap 43)", async (t) => {
    const clock = new ManualClock();
    const pacer = new Pacer(clock, { random: () => 0 });
    t.same(waits(pacer, [new AtServerError("AT0012", "full")]), [30_000]);
    t.equal(pacer.refused, false);
    const wrong = new AtServerError("AT0401", "no");
    t.same(waits(pacer, [wrong, wrong, wrong]), [0, 0, 600_000], "a repeated AT0401 is believed");
    t.equal(pacer.refused, true);
    pacer.connected();
    t.equal(pacer.refused, false);
    for (const code of ["AT0025", "AT0027", "AT0028", "AT0029"]) {
      t.same(waits(new Pacer(clock, { random: () => 0 }), [new AtServerError(code, "no")]), [600_000], code);
    }
  });
});

/** Plays monitor connections: each script begins when the client has sent `monitor`. */
function monitored(
  ...scripts: readonly ((peer: ScriptedPeer, monitorLine: string) => Promise<void>)[]
): (peer: ScriptedPeer, connection: number) => Promise<void> {
  let monitors = 0;
  return async (peer) => {
    await peer.send("@");
    const reply = welcoming(bob, () => undefined);
    for (let line = await peer.line(); line !== undefined; line = await peer.line()) {
      if (line.startsWith("monitor")) {
        const script = scripts[monitors];
        monitors += 1;
        await (script ? script(peer, line) : peer.line());
        return;
      }
      const answer = reply(line);
      if (answer !== undefined) await peer.send(answer);
    }
  };
}

const wire = (id: string, epochMillis: number): string => {
  const { atKey, ...rest } = note(id, epochMillis);
  return `notification: ${JSON.stringify({ ...rest, key: atKey, messageType: "MessageType.key" })}\n`;
};

const stats = (epochMillis: number): string =>
  `notification: ${JSON.stringify({ id: "-1", from: bob, to: bob, key: "statsNotification.@bob", value: "7", operation: "update", epochMillis, messageType: "MessageType.key", isEncrypted: false, metadata: null })}\n`;

class MemoryStore implements ResumeStore {
  point: ResumePoint | undefined;
  load(): Promise<ResumePoint | undefined> {
    return Promise.resolve(this.point);
  }
  save(point: ResumePoint): Promise<void> {
    this.point = JSON.parse(JSON.stringify(point)) as ResumePoint;
    return Promise.resolve();
  }
}

async function take(source: AsyncIterator<ReceivedNotification, void>, count: number): Promise<string[]> {
  const ids: string[] = [];
  while (ids.length < count) {
    const { value, done } = await source.next();
    if (done) break;
    ids.push(value.id);
  }
  return ids;
}

t.test("subscribe", async (t) => {
  t.test("goes on after a lost connection without loss and without repeat", async (t) => {
    const lines: string[] = [];
    const clock = new ManualClock();
    await using server = await openScripted(
      monitored(
        async (peer, line) => {
          lines.push(line);
          await peer.send(wire("1", 1_000_000) + wire("2", 1_000_001) + wire("2", 1_000_001));
          await peer.send(wire("3", 1_000_001).slice(0, 40)); // cut in the middle
          peer.close();
        },
        async (peer, line) => {
          lines.push(line);
          await peer.send(`${wire("2", 1_000_001)}@bob@${wire("3", 1_000_001)}`);
          await peer.line(); // the heartbeat
          await peer.send("garbage: x\n");
          await peer.line();
        },
        async (peer, line) => {
          lines.push(line);
          await peer.send(`notification: no json\n${wire("3", 1_000_001)}${wire("4", 1_000_002)}`);
          await peer.line();
        },
      ),
    );
    await using client = await clientOf(server, { clock, ...untimed });
    const source = client.subscribe({ regex: "demo@", since: "stored" }, never);
    let ids: string[] = [];
    const all = take(source, 4).then((got) => (ids = got));
    while (ids.length < 4) {
      await clock.advance(100);
    }
    t.same(await all, ["1", "2", "3", "4"]);
    t.same(lines, ["monitor:0 demo@", "monitor:990001 demo@", "monitor:990001 demo@"]);
    t.match(client.health.subscriptions, [
      { state: "live", connections: 3, received: 4, repeats: 3, invalid: 1, lastErrorCode: "SYNTAX_INVALID" },
    ]);
    await source.return();
    t.same(client.health.subscriptions, []);
    t.same(server.failures, []);
  });

  t.test("goes on after a restart where the application was", async (t) => {
    const lines: string[] = [];
    const serve = async (peer: ScriptedPeer, line: string): Promise<void> => {
      lines.push(line);
      await peer.send(wire("1", 1_000_000) + wire("2", 1_000_001) + wire("3", 1_000_002));
      await peer.line();
    };
    await using server = await openScripted(monitored(serve, serve));
    const resume = new MemoryStore();
    for (const expected of [
      ["1", "2"],
      ["2", "3"],
    ]) {
      await using client = await clientOf(server);
      const source = client.subscribe({ resume }, never);
      t.same(await take(source, 2), expected, "what was not handled for sure comes again");
      await source.return();
    }
    t.same(lines, ["monitor:0", "monitor:990000"]);
  });

  t.test("begins with live ones when told so, and goes on from the server's time (trap 48)", async (t) => {
    const lines: string[] = [];
    const clock = new ManualClock();
    await using server = await openScripted(
      monitored(
        async (peer, line) => {
          lines.push(line);
          await peer.send(stats(2_000_000));
          await peer.line();
          peer.close();
        },
        async (peer, line) => {
          lines.push(line);
          await peer.send(wire("1", 2_000_001));
          await peer.line();
        },
      ),
    );
    await using client = await clientOf(server, { clock, ...untimed });
    const source = client.subscribe({ regex: "k\\.demo@" }, never);
    let ids: string[] = [];
    const all = take(source, 1).then((got) => (ids = got));
    while (ids.length < 1) await clock.advance(100);
    t.same(await all, ["1"]);
    t.same(lines, ["monitor k\\.demo@", "monitor:1990000 k\\.demo@"]);
    await source.return();
  });

  t.test("keeps the case of an expression, which needs a colon in the command", async (t) => {
    const lines: string[] = [];
    await using server = await openScripted(
      monitored(async (peer, line) => {
        lines.push(line);
        await peer.send(wire("1", 1));
        await peer.line();
      }),
    );
    await using client = await clientOf(server);
    const source = client.subscribe({ regex: "\\D+:x" }, never);
    await take(source, 1);
    t.same(lines, ["monitor:strict \\D+:x"]);
    await source.return();
  });

  t.test("finds out by itself that a connection is dead", async (t) => {
    const clock = new ManualClock();
    const lines: string[] = [];
    await using server = await openScripted(
      monitored(
        async (peer) => {
          lines.push((await peer.line()) ?? ""); // noop:0, unanswered
          await peer.line();
        },
        async (peer) => {
          await peer.send(wire("1", 1));
          await peer.line();
        },
      ),
    );
    await using client = await clientOf(server, { clock, ...untimed });
    const source = client.subscribe({}, never);
    let ids: string[] = [];
    const all = take(source, 1).then((got) => (ids = got));
    while (ids.length < 1) await clock.advance(100);
    await all;
    t.same(lines, ["noop:0"]);
    t.ok(clock.monotonicMs() >= 20_000, "after 15 s of silence and 5 s without an answer");
    await source.return();
  });

  t.test("holds few for a slow application, loses none, and is not taken for dead meanwhile", async (t) => {
    const clock = new ManualClock();
    const count = 1_000;
    let sentAll = false;
    await using server = await openScripted(
      monitored(async (peer) => {
        const lines = Array.from({ length: count }, (_, n) =>
          wire(String(n), 1_000_000 + n).replace('"v"', `"${"v".repeat(20_000)}"`),
        );
        await peer.send(lines.join(""));
        sentAll = true;
        await peer.line(); // no heartbeat is answered
        await peer.line();
      }),
    );
    await using client = await clientOf(server, { clock, ...untimed });
    const source = client.subscribe({ since: "stored" }, never);
    t.same(await take(source, 1), ["0"]);
    for (let second = 0; second < 60; second += 1) await clock.advance(1_000);
    t.match(client.health.subscriptions, [{ state: "live", connections: 1, received: 1 }]);
    t.equal(sentAll, false, "20 MB are held back at the server");
    t.same(
      await take(source, count - 1),
      Array.from({ length: count - 1 }, (_, n) => String(n + 1)),
    );
    t.match(client.health.subscriptions, [{ connections: 1, received: count, repeats: 0 }]);
    await source.return();
  });

  t.test("ends when its signal aborts or the client is disposed", async (t) => {
    await using server = await openScripted(monitored());
    const client = await clientOf(server);
    const abort = new AbortController();
    const first = client.subscribe({}, abort.signal).next();
    abort.abort();
    t.match(await first, { done: true });
    const second = client.subscribe({}, never).next();
    while (client.health.subscriptions[0]?.state !== "live") await new Promise((resolve) => setImmediate(resolve));
    await client[Symbol.asyncDispose]();
    t.match(await second, { done: true });
  });

  t.test("decrypts what all SDKs send, by the key that came along or was looked up (traps 7, 9 and 10)", async (t) => {
    const shared = encryptAesKey(
      parseAesKey(testKeys.sharedAliceToBob),
      parsePublicKey(testKeys.bob.encryption.publicKey),
    );
    let lookups = 0;
    await using server = await openScripted(async (peer, connection) => {
      await peer.send("@");
      const reply = welcoming(bob, (line) => {
        if (!line.endsWith("shared_key@alice")) return undefined;
        lookups += 1;
        return shared;
      });
      for (let line = await peer.line(); line !== undefined; line = await peer.line()) {
        const answer = reply(line);
        if (answer !== undefined) await peer.send(answer);
        if (!line.startsWith("monitor")) continue;
        // The ids are the same in all of them, the contents are not.
        for (const [at, { line }] of notifications.entries()) await peer.send(line.replace("7f01", `7f${10 + at}`));
      }
      t.ok(connection <= 2);
    });
    await using client = await clientOf(server);
    const source = client.subscribe({ since: "stored" }, never);
    for (const { name, expect } of notifications) {
      if (expect.stats !== undefined || expect.ignore) continue;
      const { value } = await source.next();
      if (!value) throw new Error("it has ended");
      const clear = await value.decrypt(never).catch((error: unknown) => error);
      if (expect.rpc !== undefined) {
        t.same(JSON.parse((clear as { readonly text: string }).text), expect.rpc, name);
      } else if (expect.undecryptable || !value.isEncrypted) {
        t.match(clear, { code: "DECRYPTION_FAILED" }, name);
        t.equal(value.value, expect.raw ?? expect.plaintext, name);
      } else {
        t.match(clear, { text: expect.text ?? expect.plaintext ?? "" }, name);
        t.equal(Buffer.from((clear as { aesKey: Uint8Array }).aesKey).toString("base64"), testKeys.sharedAliceToBob);
      }
    }
    t.ok(lookups >= 1 && lookups <= 3, "the key was looked up once, and once more fresh for the one that is plain");
    await source.return();
  });
});
