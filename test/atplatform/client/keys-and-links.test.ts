import { readdir, readFile, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import t from "tap";
import type { AtClientOptions } from "../../../atplatform/client/at-client.js";
import { onboard, type OnboardOptions } from "../../../atplatform/client/onboard.js";
import { decryptText, newAesKey, parseAesKey, parseIv } from "../../../atplatform/crypto/aes-ctr.js";
import { formatAtKeys, parseAtKeys } from "../../../atplatform/crypto/at-keys.js";
import { publicKeyChecksum } from "../../../atplatform/crypto/digests.js";
import { decryptAesKey, encryptAesKey, parsePublicKey } from "../../../atplatform/crypto/rsa.js";
import { notify } from "../../../atplatform/protocol/verbs/notify.js";
import { update } from "../../../atplatform/protocol/verbs/update.js";
import type { Clock } from "../../../core/clock.js";
import { systemClock } from "../../../core/clock.js";
import { Secret } from "../../../core/secret.js";
import { alice, aliceKeys, bob, bobKeys, clientOf, welcoming } from "../../fixtures/at-server-script.js";
import { ManualClock } from "../../fixtures/manual-clock.js";
import { openScripted, type ScriptedPeer, type ScriptedServer } from "../../fixtures/scripted-server.js";
import { testKeys } from "../../fixtures/vectors.js";

const never = new AbortController().signal;
/** With a clock that is moved, real I/O must not be late by it. */
const untimed = { connectTimeoutMs: 1e9, commandTimeoutMs: 1e9 };
const bobPublic = parsePublicKey(testKeys.bob.encryption.publicKey);
const alicePublic = aliceKeys.encryption.publicKey;

/** The system clock, but the pauses that are short anyway are shorter; limits stay as they are. */
const hurried: Clock = {
  ...systemClock,
  now: () => Date.now(),
  monotonicMs: () => performance.now(),
  sleep: (ms, signal) => systemClock.sleep(ms <= 2_000 ? ms / 100 : ms, signal),
};

/** Pauses between 0.5 s and a minute take no time and make all of it: real I/O takes none by this clock. */
function leaping(): { readonly clock: Clock; readonly sleptMs: number[] } {
  const sleptMs: number[] = [];
  let nowMs = 0;
  const sleep: Clock["sleep"] = (ms, signal) => {
    if (ms < 500 || ms > 60_000) return systemClock.sleep(ms, signal);
    nowMs += ms;
    sleptMs.push(ms);
    return Promise.resolve();
  };
  return { clock: { now: () => nowMs, monotonicMs: () => nowMs, sleep }, sleptMs };
}

/** An atServer's records of one atSign, as far as shared keys need them. */
class Records {
  readonly values = new Map<string, string>();
  readonly metadata = new Map<string, object>();
  readonly lines: string[] = [];
  before: (line: string) => string | undefined = () => undefined;

  readonly reply = (line: string): string | undefined => {
    this.lines.push(line);
    const instead = this.before(line);
    if (instead !== undefined) return instead;
    if (line.startsWith("update:")) {
      const { key, value, options } = update.parse(line);
      this.values.set(key, value);
      this.metadata.set(key, options);
      return "7";
    }
    const [verb = "", ...rest] = line.split(":");
    const all = rest[0] === "all";
    const key = (all ? rest.slice(1) : rest).join(":").replace(/^bypassCache:true:/u, "");
    if (verb === "delete") return this.values.delete(key) ? "8" : "9";
    if (verb === "notify") return notify.parse(line).id;
    const value = this.values.get(verb === "plookup" ? `public:${key}` : key);
    if (value === undefined) return undefined;
    return all ? JSON.stringify({ key, data: value, metaData: this.metadata.get(key) ?? {} }) : value;
  };

  /** The verbs and keys of what was asked since the last call. */
  asked(): string[] {
    return this.lines.splice(0).map((line) => line.split(" ", 1)[0]?.replace(/:ttr.*pubKeyCS:\w+/u, ":…") ?? "");
  }
}

const serve =
  (records: Records) =>
  async (peer: ScriptedPeer): Promise<void> => {
    await peer.send("@");
    await peer.answer(welcoming(alice, records.reply));
  };

const aliceClient = (server: ScriptedServer, options: Partial<AtClientOptions> = {}): ReturnType<typeof clientOf> =>
  clientOf(server, { atSign: alice, keys: aliceKeys, clock: hurried, ...options });

/** The result, with time going on until it is there. */
async function whileMoving<T>(clock: ManualClock, stepMs: number, work: Promise<T>): Promise<T> {
  const state = { done: false };
  const end = (): void => void (state.done = true);
  work.then(end, end);
  while (!state.done) await clock.advance(stepMs);
  return await work;
}

t.test("shared keys", async (t) => {
  t.test("are made once, written for both sides, and kept", async (t) => {
    const records = new Records();
    records.values.set("public:publickey@bob", testKeys.bob.encryption.publicKey);
    await using server = await openScripted(serve(records));
    await using client = await aliceClient(server);
    const all = await Promise.all([1, 2, 3].map(() => client.sharedKeyFor(bob, never)));
    const { aesKey, sharedKeyEnc, pubKeyCS } = all[0] ?? { aesKey: newAesKey(), sharedKeyEnc: "", pubKeyCS: "" };
    for (const each of all) t.same(each.aesKey, aesKey);
    t.same(decryptAesKey(records.values.get("shared_key.bob@alice") ?? "", aliceKeys.encryption.privateKey), aesKey);
    t.same(decryptAesKey(records.values.get("@bob:shared_key@alice") ?? "", bobKeys.encryption.privateKey), aesKey);
    t.same(decryptAesKey(sharedKeyEnc, bobKeys.encryption.privateKey), aesKey);
    t.equal(pubKeyCS, publicKeyChecksum(testKeys.bob.encryption.publicKey));
    t.match(records.metadata.get("@bob:shared_key@alice"), { ttrSeconds: 3_888_000, isEncrypted: false, pubKeyCS });
    const writes = records.asked().filter((line) => line.startsWith("update"));
    t.equal(writes.filter((line) => line.includes("shared_key.bob")).length, 1);
    await client.sharedKeyFor(bob, never);
    t.same(records.asked(), [], "nothing is asked the second time");
  });

  t.test("of another device that was a little later are taken (trap 24)", async (t) => {
    const records = new Records();
    records.values.set("public:publickey@bob", testKeys.bob.encryption.publicKey);
    const theirs = newAesKey();
    let writes = 0;
    records.before = (line) => {
      if (!line.includes("shared_key.bob@alice ")) return undefined;
      writes += 1;
      setImmediate(() => records.values.set("shared_key.bob@alice", encryptAesKey(theirs, alicePublic)));
      return undefined;
    };
    await using server = await openScripted(serve(records));
    await using client = await aliceClient(server);
    t.same((await client.sharedKeyFor(bob, never)).aesKey, theirs);
    t.equal(writes, 1);
    t.same(decryptAesKey(records.values.get("@bob:shared_key@alice") ?? "", bobKeys.encryption.privateKey), theirs);
  });

  t.test("that exist are used, and the receiver's copy is written when it is missing or for an old key", async (t) => {
    const records = new Records();
    const key = parseAesKey(testKeys.sharedAliceToBob);
    records.values.set("public:publickey@bob", testKeys.bob.encryption.publicKey);
    records.values.set("shared_key.bob@alice", encryptAesKey(key, alicePublic));
    await using server = await openScripted(serve(records));
    const copies: [string, object | undefined, boolean][] = [
      ["missing", undefined, true],
      ["of Dart, which does not say for which key", {}, false],
      ["for this key", { pubKeyCS: publicKeyChecksum(testKeys.bob.encryption.publicKey) }, false],
      ["for an old key", { pubKeyCS: "00000000000000000000000000000000" }, true],
    ];
    for (const [name, metadata, isWritten] of copies) {
      records.values.delete("@bob:shared_key@alice");
      if (metadata) {
        records.values.set("@bob:shared_key@alice", "there");
        records.metadata.set("@bob:shared_key@alice", metadata);
      }
      await using client = await aliceClient(server);
      t.same((await client.sharedKeyFor(bob, never)).aesKey, key);
      t.equal(
        records.asked().some((line) => line.startsWith("update")),
        isWritten,
        name,
      );
    }
  });

  t.test("follow a receiver that has a new public key", async (t) => {
    const records = new Records();
    records.values.set("public:publickey@bob", testKeys.bob.encryption.publicKey);
    await using server = await openScripted(serve(records));
    await using client = await aliceClient(server);
    const before = await client.sharedKeyFor(bob, never);
    records.values.set("public:publickey@bob", testKeys.bob.pkam.publicKey);
    t.equal(await client.publicKeyOf(bob, {}, never), testKeys.bob.encryption.publicKey, "it is kept for a day");
    t.equal(await client.publicKeyOf(bob, { fresh: true }, never), testKeys.bob.pkam.publicKey);
    const after = await client.sharedKeyFor(bob, never);
    t.same(after.aesKey, before.aesKey);
    t.equal(after.pubKeyCS, publicKeyChecksum(testKeys.bob.pkam.publicKey));
    t.match(records.metadata.get("@bob:shared_key@alice"), { pubKeyCS: after.pubKeyCS });
  });

  t.test("need a receiver that has published a key", async (t) => {
    const records = new Records();
    await using server = await openScripted(serve(records));
    await using client = await aliceClient(server);
    await t.rejects(client.publicKeyOf(bob, {}, never), { code: "NOT_ACTIVATED" });
    records.values.set("public:publickey@bob", "no key");
    await t.rejects(client.sharedKeyFor(bob, never), { code: "KEY_INVALID" });
    records.before = (line) => (line.startsWith("plookup") ? "error:AT0021-no way" : undefined);
    await t.rejects(client.sharedKeyFor(bob, never), { code: "AT0021", remedy: "wait" });
  });
});

t.test("records of another", async (t) => {
  const key = parseAesKey(testKeys.sharedAliceToBob);
  const iv = Buffer.alloc(16, 3);
  const encrypted = (text: string): string => {
    const { encryptAes } = aes;
    return encryptAes(Buffer.from(text), key, iv).toString("base64");
  };
  const aes = await import("../../../atplatform/crypto/aes-ctr.js");
  const ivNonce = iv.toString("base64");
  const sharedKeyEnc = encryptAesKey(key, bobPublic);
  const read = async (data: string, metaData: object, sharedRecord?: string): Promise<unknown> => {
    await using server = await openScripted((peer) =>
      peer.answer(
        welcoming(bob, (line) => {
          if (line === "lookup:all:phone.demo@alice")
            return JSON.stringify({ key: "@bob:phone.demo@alice", data, metaData });
          return line.endsWith("shared_key@alice") ? sharedRecord : undefined;
        }),
      ),
    );
    await using client = await clientOf(server);
    return await client.get({ key: "phone.demo", by: alice }, {}, never).catch((error: unknown) => error);
  };

  t.test("are decrypted whenever anything says that they are encrypted (trap 6)", async (t) => {
    const expected = { value: "secret", wasEncrypted: true, aesKey: key };
    t.match(await read(encrypted("secret"), { isEncrypted: true, ivNonce, sharedKeyEnc }), expected);
    t.match(await read(encrypted("secret"), { ivNonce, sharedKeyEnc }), expected, "at_c leaves isEncrypted out");
    t.match(await read(encrypted("secret"), { ivNonce, isEncrypted: false }, sharedKeyEnc), expected);
    t.match(
      await read(encrypted("secret"), { isEncrypted: true, ivNonce, sharedKeyEnc: null, ttl: 7, x: 1 }, sharedKeyEnc),
      {
        ...expected,
        metadata: { ttlMs: 7, isEncrypted: true },
      },
    );
  });

  t.test("with a key for another atSign attached are read by the right one (5.3)", async (t) => {
    const wrong = encryptAesKey(newAesKey(), alicePublic);
    const metadata = { isEncrypted: true, ivNonce, sharedKeyEnc: wrong };
    t.match(await read(encrypted("a text of several blocks: 0123456789"), metadata, sharedKeyEnc), {
      value: "a text of several blocks: 0123456789",
    });
  });

  t.test("say why they cannot be read", async (t) => {
    const flagged = { isEncrypted: true, ivNonce };
    t.match(await read(encrypted("x"), flagged), { code: "NO_SHARED_KEY" });
    t.match(await read("plain", { ...flagged, sharedKeyEnc }), { code: "DECRYPTION_FAILED" }, "trap 7");
    t.match(await read(encrypted("x"), { ...flagged, sharedKeyEnc, pubKeyCS: "0" }), { code: "PUBLIC_KEY_CHANGED" });
    t.match(await read(encrypted("x"), { ...flagged, sharedKeyEnc, encAlgo: "rot13" }), { code: "UNKNOWN_ALGORITHM" });
    t.match(await read(encrypted("x"), { ...flagged, ivNonce: "?", sharedKeyEnc }), { code: "DECRYPTION_FAILED" });
  });

  t.test("that nothing says are encrypted may be all the same, or not", async (t) => {
    const zeroIv = aes.encryptText("old data", key, parseIv(null));
    t.match(await read(zeroIv, {}, sharedKeyEnc), { value: "old data", wasEncrypted: true });
    t.match(await read("AAAAAAAAAAAAAAAAAAAAAA==", {}, sharedKeyEnc), {
      value: "AAAAAAAAAAAAAAAAAAAAAA==",
      wasEncrypted: false,
    });
    t.match(await read("plain text", {}), { value: "plain text", wasEncrypted: false });
  });
});

t.test("the command link", async (t) => {
  const closing = (records: Records, when: (line: string) => boolean) => async (peer: ScriptedPeer, n: number) => {
    await peer.send("@");
    const reply = welcoming(alice, records.reply);
    for (let line = await peer.line(); line !== undefined; line = await peer.line()) {
      const answer = reply(line);
      if (n === 1 && when(line)) return peer.close();
      await peer.send(answer ?? "");
    }
  };

  t.test("repeats a command whose answer was lost only when it does no harm", async (t) => {
    const records = new Records();
    records.before = () => "done";
    for (const [repeatable, expected] of [
      [true, 2],
      [false, 1],
    ] as const) {
      await using server = await openScripted(closing(records, (line) => line === "command"));
      await using client = await aliceClient(server);
      const answer = client.send("command", { repeatable }, never);
      if (repeatable) t.equal(await answer, "done");
      else await t.rejects(answer, { code: "ANSWER_LOST" });
      t.equal(records.asked().filter((line) => line === "command").length, expected);
    }
  });

  t.test("sends a notification again under the same id", async (t) => {
    const records = new Records();
    records.values.set("public:publickey@bob", testKeys.bob.encryption.publicKey);
    await using server = await openScripted(closing(records, (line) => line.startsWith("notify")));
    await using client = await aliceClient(server);
    const id = await client.notify({ to: bob, key: "x.demo", value: "v", ttlnMs: 1 }, never);
    const lines = records.lines.filter((line) => line.startsWith("notify"));
    t.equal(lines.length, 2);
    t.equal(lines[0], lines[1]);
    const sent = notify.parse(lines[0] ?? "");
    t.match(sent, { id, operation: "update", ttlnMs: 1, to: bob, key: "x.demo", owner: alice });
    t.match(sent, { notifier: "SYSTEM", strategy: "all", latestN: 1, priority: "low", options: { isEncrypted: true } });
    const aesKey = decryptAesKey(sent.options.sharedKeyEnc ?? "", bobKeys.encryption.privateKey);
    t.equal(decryptText(sent.value ?? "", aesKey, parseIv(sent.options.ivNonce)), "v");
  });

  t.test("never uses an IV twice (trap 3)", async (t) => {
    const records = new Records();
    records.values.set("public:publickey@bob", testKeys.bob.encryption.publicKey);
    await using server = await openScripted(serve(records));
    await using client = await aliceClient(server);
    for (let n = 0; n < 5; n += 1) {
      await client.notify({ to: bob, key: "x.demo", value: "v", ttlnMs: 1 }, never);
      await client.put({ key: "x.demo" }, "v", {}, never);
    }
    const ivs = records.lines.flatMap((line) => /ivNonce:([^:]+)/u.exec(line)?.[1] ?? []);
    t.equal(ivs.length, 10);
    t.equal(new Set(ivs).size, 10);
  });

  t.test("probes a connection that was silent for a minute before it uses it", async (t) => {
    const clock = new ManualClock();
    const records = new Records();
    records.before = () => "done";
    let noops = 0;
    await using server = await openScripted(async (peer, n) => {
      await peer.send("@");
      const reply = welcoming(alice, records.reply);
      for (let line = await peer.line(); line !== undefined; line = await peer.line()) {
        if (line === "noop:0") {
          noops += 1;
          if (n === 1 && noops === 2) return peer.close();
        }
        await peer.send(reply(line) ?? "");
      }
    });
    await using client = await aliceClient(server, { clock, ...untimed });
    const send = async (): Promise<string> => {
      return await whileMoving(clock, 10, client.send("command", {}, never));
    };
    t.equal(await send(), "done");
    await clock.advance(59_000);
    t.equal(await send(), "done");
    t.equal(noops, 0);
    await clock.advance(61_000);
    t.equal(await send(), "done");
    t.equal(noops, 1);
    await clock.advance(61_000);
    t.equal(await send(), "done", "although the connection was gone");
    t.match(client.health.command, { state: "ready", connections: 2 });
  });

  t.test("says why it cannot connect, and waits before it tries again", async (t) => {
    const clock = new ManualClock();
    let refusal = "error:AT0401-Exception: pkam authentication failed\n@";
    await using server = await openScripted(async (peer) => {
      await peer.send("@");
      await peer.answer((line) => (line.startsWith("pkam") ? refusal : welcoming(alice, () => "done")(line)));
    });
    const reconnect = { firstMs: 1e6, maxMs: 1e6 }; // so that a wait by chance is not none at all
    await using client = await aliceClient(server, { clock, reconnect, ...untimed });
    t.match(client.health.command, { state: "idle", connections: 0 });
    await t.rejects(client.send("x", {}, never), { code: "AT0401" });
    t.match(client.health.command, { state: "waiting", lastErrorCode: "AT0401" });
    for (let attempt = 0; attempt < 2; attempt += 1) {
      await t.rejects(whileMoving(clock, 10_000, client.send("x", {}, never)), { code: "AT0401" });
    }
    t.equal(client.health.command.state, "refused");
    refusal = "data:success\n@alice@";
    const late = client.send("x", {}, never);
    await clock.advance(590_000);
    t.equal(client.health.command.state, "refused", "nobody asks again for ten minutes");
    await whileMoving(clock, 10_000, late);
    t.equal(client.health.command.state, "ready");
  });

  t.test("follows an atServer that moves to another address", async (t) => {
    const records = new Records();
    records.before = () => "done";
    const first = await openScripted(serve(records));
    await using second = await openScripted(serve(records));
    let asked = 0;
    await using directory = await openScripted(async (peer) => {
      asked += 1;
      t.equal(await peer.line(), "alice");
      await peer.send(`localhost:${asked === 1 ? first.port : second.port}\r\n@`);
      await peer.line();
    });
    await using client = await aliceClient(directory, {
      directory: { kind: "directory", host: "localhost", port: directory.port },
      ca: [first, second, directory].map(({ caPem }) => caPem).join(""),
    });
    t.equal(await client.send("x", {}, never), "done");
    await first[Symbol.asyncDispose]();
    t.equal(await client.send("x", { repeatable: true }, never), "done");
    t.equal(asked, 2);
    t.equal(second.connections, 1);
  });

  t.test("knows what became of a notification", async (t) => {
    const records = new Records();
    records.before = (line) => line.split(":")[2];
    await using server = await openScripted(serve(records));
    await using client = await aliceClient(server);
    for (const status of ["queued", "delivered", "errored", "expired"] as const) {
      t.equal(await client.notificationStatus(status, never), status);
    }
    t.equal(await client.notificationStatus("null", never), "unknown");
    await t.rejects(client.notificationStatus("a b", never), { code: "SYNTAX_INVALID" });
  });

  t.test("waits for delivery as long as there is hope, and no longer than told", async (t) => {
    const { clock, sleptMs } = leaping();
    const statuses = ["queued", "errored", "queued", "delivered"];
    const records = new Records();
    records.before = () => statuses.shift() ?? "queued";
    await using server = await openScripted(serve(records));
    await using client = await aliceClient(server, { clock, ...untimed });
    t.equal(await client.waitForDelivery("id-1", {}, never), "delivered");
    t.same(sleptMs.splice(0), [500, 2_000, 2_000]);
    t.equal(await client.waitForDelivery("id-2", { timeoutMs: 3_000 }, never), "queued");
    t.same(sleptMs, [500, 2_000, 500]);
  });

  t.test("ends what waits when the client is disposed", async (t) => {
    const records = new Records();
    await using server = await openScripted(async (peer) => {
      await peer.line();
    });
    const client = await aliceClient(server);
    const closed = { code: "CONNECTION_LOST" };
    const waiting = t.rejects(client.send("x", {}, never), closed);
    await client[Symbol.asyncDispose]();
    await waiting;
    await t.rejects(client.send("x", {}, never), closed);
    t.same(records.lines, []);
  });
});

t.test("onboarding", async (t) => {
  const open = async (
    dir: string,
    reply: (line: string) => string | undefined,
  ): Promise<{ server: ScriptedServer; lines: string[]; options: OnboardOptions }> => {
    const lines: string[] = [];
    const server = await openScripted(async (peer) => {
      await peer.send("@");
      await peer.answer((line) => {
        if (!line.startsWith("from:")) lines.push(line);
        return welcoming(alice, reply)(line.startsWith("cram:") ? "pkam:" : line);
      });
    });
    return {
      server,
      lines,
      options: {
        atSign: alice,
        secret: new Secret(testKeys.cramSecret),
        directory: { kind: "proxy", host: "127.0.0.1", port: server.port },
        ca: server.caPem,
        keyFile: join(dir, "keys", "@alice_key.atKeys"),
        clock: hurried,
      },
    };
  };
  const verbs = (lines: readonly string[]): string[] => lines.map((line) => line.split(":").slice(0, 2).join(":"));

  t.test("uses the legacy sequence with a server that knows no enrolments", async (t) => {
    const { server, lines, options } = await open(t.testdir(), (line) => {
      if (line.startsWith("enroll:")) return "error:AT0003-Invalid syntax : invalid command";
      return line.startsWith("lookup") ? undefined : "1";
    });
    t.teardown(() => server[Symbol.asyncDispose]());
    const keys = await onboard(options, never);
    t.equal(keys.enrollmentId, undefined);
    t.same(
      verbs(lines).slice(1),
      ["enroll:request", "update:privatekey", "pkam:signingAlgo", "update:isEncrypted", "delete:privatekey"].flatMap(
        (verb, at) => (at === 0 ? [verbs(lines)[1] ?? "", verb] : [verb]),
      ),
    );
    t.match(
      lines.find((line) => line.startsWith("update:privatekey")),
      `update:privatekey:at_pkam_publickey ${keys.pkam.publicText}`,
    );
  });

  t.test("has the keys in the file before the server is told, and before the secret goes (trap 37)", async (t) => {
    const dir = t.testdir();
    const seen: string[] = [];
    const { server, options } = await open(dir, (line) => {
      if (line.startsWith("lookup")) return undefined;
      if (line.startsWith("enroll:")) return '{"enrollmentId":"e-1","status":"approved"}';
      return "1";
    });
    t.teardown(() => server[Symbol.asyncDispose]());
    const keys = await onboard(
      {
        ...options,
        onStep: (step) => seen.push(step),
      },
      never,
    );
    t.equal(keys.enrollmentId, "e-1");
    const written = parseAtKeys(await readFile(options.keyFile, "utf8"));
    t.equal(written.enrollmentId, "e-1");
    t.same(await readdir(dirname(options.keyFile)), ["@alice_key.atKeys"]);
  });

  t.test("takes up where a crash cut it, at every step, with the same keys", async (t) => {
    for (const cut of ["enroll:request", "pkam:signingAlgo", "update:isEncrypted", "delete:privatekey"]) {
      const dir = t.testdir();
      let known: string | undefined;
      let isDown = false;
      const { server, options } = await open(dir, (line) => {
        if (line.startsWith("lookup")) return undefined;
        if (isDown) return undefined;
        if (line.startsWith("enroll:")) {
          const { apkamPublicKey } = JSON.parse(line.slice("enroll:request:".length)) as { apkamPublicKey: string };
          if (known !== undefined && known !== apkamPublicKey) return "error:AT0011-another enrollment exists";
          known = apkamPublicKey;
          return '{"enrollmentId":"e-1","status":"approved"}';
        }
        return "1";
      });
      const cutting = await openScripted(async (peer) => {
        await peer.send("@");
        for (let line = await peer.line(); line !== undefined; line = await peer.line()) {
          if (line.startsWith(cut)) return peer.close();
          await peer.send(
            welcoming(alice, (l) =>
              l.startsWith("lookup") ? undefined : '{"enrollmentId":"e-1","status":"approved"}',
            )(line.startsWith("cram:") ? "pkam:" : line) ?? "",
          );
        }
      });
      const directory = { kind: "proxy", host: "127.0.0.1", port: cutting.port } as const;
      await t.rejects(onboard({ ...options, directory, ca: cutting.caPem }, never), { code: "ANSWER_LOST" }, cut);
      const first = parseAtKeys(await readFile(options.keyFile, "utf8"));
      isDown = false;
      const keys = await onboard(options, never);
      t.equal(keys.pkam.publicText, first.pkam.publicText);
      t.equal(formatAtKeys(alice, keys).reveal(), await readFile(options.keyFile, "utf8"));
      await cutting[Symbol.asyncDispose]();
      await server[Symbol.asyncDispose]();
    }
  });

  t.test("does not touch a key file of another", async (t) => {
    const { server, options } = await open(t.testdir({ keys: {} }), (line) =>
      line.startsWith("lookup") ? testKeys.bob.encryption.publicKey : "1",
    );
    t.teardown(() => server[Symbol.asyncDispose]());
    const text = formatAtKeys(alice, aliceKeys).reveal();
    await writeFile(options.keyFile, text);
    await t.rejects(onboard(options, never), { code: "ALREADY_ACTIVATED" });
    t.equal(await readFile(options.keyFile, "utf8"), text);
  });
});
