import fc from "fast-check";
import { createHash } from "node:crypto";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import { openRpcClient } from "../../../atplatform/client/rpc-client.js";
import { parseRpcKey } from "../../../atplatform/client/rpc-messages.js";
import { encryptText, parseAesKey, parseIv } from "../../../atplatform/crypto/aes-ctr.js";
import { fingerprintOf, publicKeyChecksum } from "../../../atplatform/crypto/digests.js";
import { md5Hex } from "../../../atplatform/crypto/md5.js";
import {
  decryptAesKey,
  decryptRsa,
  encryptAesKey,
  parsePrivateKey,
  parsePublicKey,
} from "../../../atplatform/crypto/rsa.js";
import { verifyText } from "../../../atplatform/crypto/signatures.js";
import { formatMetadataOptions } from "../../../atplatform/protocol/metadata-options.js";
import { ResponseFramer } from "../../../atplatform/protocol/response-framer.js";
import { update } from "../../../atplatform/protocol/verbs/update.js";
import { connectTls } from "../../../atplatform/transport/connect.js";
import { TestPlatform } from "../../fixtures/at-platform.js";
import { alice, bob, clientOf, welcoming } from "../../fixtures/at-server-script.js";
import { ManualClock } from "../../fixtures/manual-clock.js";
import { openScripted } from "../../fixtures/scripted-server.js";
import { root } from "../../fixtures/sdk-program.js";
import { pairOf, testKeys, vectors } from "../../fixtures/vectors.js";

// The traps of client.md, section 11, that have no better place, and the proof that none of them was forgotten.

const never = new AbortController().signal;
const sharedKey = parseAesKey(testKeys.sharedAliceToBob);
const forBob = (key: Uint8Array): string => encryptAesKey(key, parsePublicKey(testKeys.bob.encryption.publicKey));
const recordOf = (value: string, metaData: object = { isEncrypted: true }): string =>
  JSON.stringify({ key: "@bob:n.demo@alice", data: value, metaData });

/** What a client of `@bob` asks and gets from an atServer that answers by `reply`. */
async function read(
  reply: (line: string) => string | undefined,
): Promise<{ result: unknown; asked: readonly string[] }> {
  const asked: string[] = [];
  await using server = await openScripted((peer) =>
    peer.answer(
      welcoming(bob, (line) => {
        asked.push(line);
        return reply(line);
      }),
    ),
  );
  await using client = await clientOf(server);
  const result = await client.get({ key: "n.demo", by: alice }, {}, never).catch((error: unknown) => error);
  return { result, asked };
}

t.test("crypto", async (t) => {
  await t.test(
    "trap 4: RSA encrypts the 44 characters of a key's base64 text, and other lengths are no key",
    async (t) => {
      const privateKey = parsePrivateKey(pairOf("bob.encryption").privateKey);
      const { encrypted, negative } = vectors<{
        encrypted: readonly { recipientKeyRef: string; plaintextUtf8: string; ciphertextBase64: string }[];
        negative: readonly { name: string; ciphertextBase64: string }[];
      }>("rsa-encrypted-keys.json");
      for (const { recipientKeyRef, plaintextUtf8, ciphertextBase64 } of encrypted) {
        const key = decryptAesKey(ciphertextBase64, parsePrivateKey(pairOf(recipientKeyRef).privateKey));
        t.equal(key.toString("base64"), plaintextUtf8);
      }
      const sent = Buffer.from(encryptAesKey(sharedKey, parsePublicKey(pairOf("bob.encryption").publicKey)), "base64");
      t.equal(decryptRsa(sent, privateKey, 44).toString(), testKeys.sharedAliceToBob);
      for (const { name, ciphertextBase64 } of negative) {
        t.notSame(decryptAesKey(ciphertextBase64, privateKey), sharedKey, name);
      }
    },
  );

  await t.test("trap 5: PKCS#1 v1.5 is decrypted on every Node, and a forged one tells nothing", async (t) => {
    const privateKey = parsePrivateKey(pairOf("bob.encryption").privateKey);
    const forged = Buffer.alloc(256, 1).toString("base64");
    t.same(decryptAesKey(forBob(sharedKey), privateKey), sharedKey);
    t.equal(decryptAesKey(forged, privateKey).length, 32);
    t.same(decryptAesKey(forged, privateKey), decryptAesKey(forged, privateKey));
  });

  await t.test(
    "traps 42 and 52: a signature is checked over the text that was sent, member order and all",
    async (t) => {
      const { signedEnvelope } = vectors<{
        signedEnvelope: { signedText: string; envelopeText: string; keyRef: string };
      }>("signatures.json");
      const { signedText, envelopeText, keyRef } = signedEnvelope;
      const { payload, signature } = JSON.parse(envelopeText) as { payload: object; signature: string };
      const key = parsePublicKey(pairOf(keyRef).publicKey);
      t.ok(verifyText(signedText, signature, key));
      const reordered = JSON.stringify(Object.fromEntries(Object.entries(payload).reverse()));
      t.notOk(verifyText(reordered, signature, key));
      t.notOk(verifyText(signedText.replace(":22", ":22.0"), signature, key));
    },
  );

  await t.test("trap 51: pubKeyCS needs no MD5 of OpenSSL's", async (t) => {
    fc.assert(
      fc.property(
        fc.uint8Array({ maxLength: 300 }),
        (bytes) => md5Hex(bytes) === createHash("md5").update(bytes).digest("hex"),
      ),
      { examples: [55, 56, 63, 64, 119, 120].map((length) => [new Uint8Array(length)] as [Uint8Array]) },
    );
    t.equal(publicKeyChecksum("dummy_encryption_public_key"), "d4f6d9483907286a0563b9fdeb01aa61");
  });

  await t.test("trap 28: a public key that has changed shows in its fingerprint, which pins compare", async (t) => {
    let published = testKeys.alice.encryption.publicKey;
    await using server = await openScripted((peer) => peer.answer(welcoming(bob, () => published)));
    await using client = await clientOf(server);
    const pinned = fingerprintOf(await client.publicKeyOf(alice, {}, never));
    published = testKeys.alice.pkam.publicKey;
    t.equal(fingerprintOf(await client.publicKeyOf(alice, {}, never)), pinned, "what is known is kept");
    t.not(fingerprintOf(await client.publicKeyOf(alice, { fresh: true }, never)), pinned);
  });
});

t.test("the wire", async (t) => {
  await t.test("trap 1: options stand in the one order that atServers take, however they were given", async (t) => {
    const options = { ivNonce: "i", ccd: true, isEncrypted: true, ttlMs: 1, pubKeyCS: "p", ttrSeconds: 2, ttbMs: 3 };
    const text = ":ttl:1:ttb:3:ttr:2:ccd:true:isEncrypted:true:pubKeyCS:p:ivNonce:i";
    t.equal(formatMetadataOptions(options), text);
    t.equal(formatMetadataOptions(Object.fromEntries(Object.entries(options).reverse())), text);
    t.same(update.parse(`update${text}:n.demo@alice v`), { key: "n.demo@alice", value: "v", options });
    t.throws(() => update.parse("update:ttb:3:ttl:1:n.demo@alice v"), { code: "COMMAND_INVALID" });
  });

  await t.test("trap 14: a carriage return at the end of a line belongs to nobody", async (t) => {
    const framer = new ResponseFramer({ maxBytes: 1_000, mode: "command" });
    t.match(framer.push(Buffer.from("@data:ok\r\n@")), [{ type: "data", body: "ok" }]);
  });

  await t.test("trap 16: monitor is not answered, and nobody waits for it", async (t) => {
    await using server = await openScripted(async (peer) => {
      await peer.send("@");
      const reply = welcoming(bob);
      for (let line = await peer.line(); line !== undefined; line = await peer.line()) {
        const answer = reply(line);
        if (answer !== undefined) await peer.send(answer);
        if (!line.startsWith("monitor")) continue;
        const members = {
          id: "1",
          from: "@alice",
          to: "@bob",
          key: "@bob:n.demo@alice",
          value: "v",
          operation: "update",
        };
        await peer.send(`notification: ${JSON.stringify({ ...members, epochMillis: 1, isEncrypted: false })}\n`);
      }
    });
    await using client = await clientOf(server);
    for await (const notification of client.subscribe({ since: "live" }, never)) {
      t.match(notification, { key: "n.demo", value: "v" });
      break;
    }
  });

  await t.test("trap 21: no line of what we send begins with @, however a value does", async (t) => {
    const lines: string[] = [];
    await using server = await openScripted((peer) =>
      peer.answer(
        welcoming(bob, (line) => {
          lines.push(line);
          return "1";
        }),
      ),
    );
    await using client = await clientOf(server);
    for (const encrypt of [true, false]) await client.put({ key: "n.demo" }, "a\n@b\r\n@c", { encrypt }, never);
    await client.put({ key: "n.demo", for: "public" }, "@\n@", {}, never);
    t.equal(lines.length, 3);
    t.ok(lines.every((line) => line.startsWith("update:") && !line.includes("\r")));
  });

  await t.test(
    "trap 39: what is told to a device of C fits its buffers: 2,000 bytes are less than 3 KiB",
    async (t) => {
      t.ok(encryptText("x".repeat(2_000), sharedKey, parseIv(null)).length < 3 * 1024);
    },
  );

  await t.test("trap 41: our atServer answers an empty line, which C clients wait for", async (t) => {
    await using platform = await TestPlatform.open(t.testdir());
    await platform.platform.add("@alice");
    const { host = "", port = 0 } = platform.platform.list()[0] ?? {};
    for (const to of [{ host, port }, platform.directory]) {
      await using channel = await connectTls({ host: to.host, port: to.port, ca: platform.platform.caPem }, never);
      let text = "";
      const answered = new Promise<void>((resolve) => {
        void channel.read((chunk) => {
          text += chunk.toString();
          if (text.includes("\n")) resolve();
        });
      });
      await channel.write("\r\n");
      await answered;
      t.match(text, /\n/u);
    }
  });
});

t.test("repeats", async (t) => {
  await t.test(
    "traps 29 and 3: a notification that is sent again looks the same, and no other looks like it",
    async (t) => {
      const lines: string[] = [];
      await using server = await openScripted((peer) =>
        peer.answer(
          welcoming(bob, (line) => {
            lines.push(line);
            return "1";
          }),
        ),
      );
      await using client = await clientOf(server);
      const send = (id: string | undefined, value: string): Promise<string> =>
        client.notify({ ...(id !== undefined && { id }), to: bob, key: "n.demo", value, ttlnMs: 1 }, never);
      for (const [id, value] of [
        ["a", "x"],
        ["a", "x"],
        ["a", "y"],
        ["b", "x"],
        [undefined, "x"],
        [undefined, "x"],
      ] as const) {
        await send(id, value);
      }
      t.equal(lines[0], lines[1]);
      const ivs = lines.map((line) => /:ivNonce:([^:]+):/u.exec(line)?.[1]);
      t.equal(new Set(ivs).size, 5);
    },
  );
});

t.test("keys of others", async (t) => {
  await t.test("trap 25: a shared key that has suddenly changed is looked up anew, once", async (t) => {
    const old = parseAesKey(testKeys.alice.selfEncryptionKey);
    const { result, asked } = await read((line) => {
      if (line === "lookup:all:n.demo@alice") return recordOf(encryptText("new", sharedKey, parseIv(null)));
      if (line === "lookup:bypassCache:true:shared_key@alice") return forBob(sharedKey);
      return line === "lookup:shared_key@alice" ? forBob(old) : undefined;
    });
    t.match(result, { value: "new", wasEncrypted: true });
    t.equal(asked.filter((line) => line.includes("shared_key")).length, 2);
  });

  await t.test("trap 26: a peer that has put its key elsewhere has shared none", async (t) => {
    const { result } = await read((line) =>
      line === "lookup:all:n.demo@alice" ? recordOf(encryptText("x", sharedKey, parseIv(null))) : undefined,
    );
    t.match(result, { code: "NO_SHARED_KEY", message: /@alice/u });
  });
});

t.test("monitors", async (t) => {
  await t.test("trap 40: a connection that is lost at once does not make us spin", async (t) => {
    const clock = new ManualClock();
    await using server = await openScripted(async (peer) => peer.close());
    await using client = await clientOf(server, { clock });
    const stop = new AbortController();
    const running = (async () => {
      for await (const { id } of client.subscribe({}, stop.signal)) t.fail(`nothing was sent, and ${id} came`);
    })();
    while (clock.sleeping === 0 || server.connections === 0) await new Promise((resolve) => setTimeout(resolve, 5));
    await new Promise((resolve) => setTimeout(resolve, 200));
    t.ok(server.connections <= 3, `${server.connections} connections while the clock stood still`);
    stop.abort();
    await running;
  });

  await t.test("trap 45: a device whose name ends like another's is told apart by the exact tail", async (t) => {
    const address = { domain: "cmd", baseNamespace: "kitchen.demo" };
    t.ok(parseRpcKey("request.1.cmd.__rpcs.kitchen.demo", address));
    for (const key of [
      "request.1.cmd.__rpcs.xkitchen.demo",
      "request.1.xcmd.__rpcs.kitchen.demo",
      "request.1.cmd.__rpcs.kitchenxdemo",
    ]) {
      t.equal(parseRpcKey(key, address), undefined, key);
    }
  });

  await t.test("trap 46: delivered is not received: only an answer of the device itself says so", async (t) => {
    await using platform = await TestPlatform.open(t.testdir());
    await using sender = await platform.client("@alice");
    await platform.onboard("@bob");
    const id = await sender.notify({ to: bob, key: "n.demo", value: "is anybody there?", ttlnMs: 60_000 }, never);
    let status = await sender.notificationStatus(id, never);
    for (; status === "queued"; status = await sender.notificationStatus(id, never)) {
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    t.equal(status, "delivered");
    const address = { domain: "cmd", baseNamespace: "demo" };
    await using rpc = await openRpcClient({ client: sender, server: bob, ackTimeoutMs: 300, ...address }, never);
    await t.rejects(rpc.call({}, {}, never), { code: "TIMED_OUT" });
  });
});

t.test("every trap of client.md, section 11, is named by a test", async (t) => {
  const folder = join(root, "test");
  const files = (await readdir(folder, { recursive: true })).filter((name) => name.endsWith(".test.ts"));
  const named = new Set<number>();
  for (const file of files) {
    const text = await readFile(join(folder, file), "utf8");
    const isList = /traps\.test\.ts$/u.test(file);
    // `trap 7`, `traps 7, 9 and 10`; in the list itself the numbers stand alone before the colon.
    for (const [, numbers = ""] of text.matchAll(/\btraps? (\d+(?:(?:, | and )\d+)*)/gu)) add(numbers);
    if (isList) for (const [, numbers = ""] of text.matchAll(/\("(\d+(?: and \d+)*): /gu)) add(numbers);
  }
  const all = Array.from({ length: 52 }, (_, index) => index + 1);
  t.same(
    all.filter((trap) => !named.has(trap)),
    [],
  );

  function add(numbers: string): void {
    for (const [number] of numbers.matchAll(/\d+/gu)) named.add(Number(number));
  }
});
