import { generateKeyPairSync, sign } from "node:crypto";
import { createServer } from "node:tls";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import t, { type Test } from "tap";
import { openPlatform, type Platform } from "../../../atplatform/server/platform.js";
import { DevCa } from "../../../atplatform/server/dev-ca.js";
import { systemClock } from "../../../core/clock.js";
import type { WireClient } from "../../fixtures/wire-client.js";
import { wirePattern } from "../../fixtures/wire-pattern.js";
import { spkiText, testKeys, WireWorld } from "../../fixtures/wire-world.js";

// The cases of the specification's section 9.7: two platforms, each with its own CA and one atSign, one directory.

const settings = { statsNotificationMs: -1, deliveryBackoffFirstMs: 20, deliveryBackoffMaxMs: 100 };

async function play(t: Test, client: WireClient, steps: readonly (readonly [string, string])[]): Promise<void> {
  for (const [send, expected] of steps) {
    t.match(await client.ask(send), wirePattern(expected), `${send} < ${JSON.stringify(expected)}`);
  }
}

/** Asks again until the answer fits: for what happens by itself. */
async function eventually(client: WireClient, line: string, expected: string): Promise<void> {
  const pattern = wirePattern(expected);
  for (let i = 0; ; i += 1) {
    const reply = await client.ask(line);
    if (pattern.test(reply)) return;
    if (i === 100) throw new Error(`${line}: still ${reply}`);
    await systemClock.sleep(30, new AbortController().signal);
  }
}

interface Pair {
  readonly alice: WireWorld;
  bob: WireWorld;
  readonly openBob: () => Promise<WireWorld>;
}

/** @alice's platform also has the directory; @bob's asks it. They know each other's authorities. */
async function openPair(dir: string): Promise<Pair> {
  const aliceDir = join(dir, "alice");
  const bobDir = join(dir, "bob");
  const [aliceCa, bobCa] = await Promise.all([DevCa.open(aliceDir, systemClock), DevCa.open(bobDir, systemClock)]);
  const alice = await WireWorld.open(aliceDir, { settings, extraCaPem: bobCa.caPem });
  const directory = { kind: "directory", host: "localhost", port: alice.platform.directoryPort } as const;
  const openBob = async (): Promise<WireWorld> => {
    const bob = await WireWorld.open(bobDir, { settings, extraCaPem: aliceCa.caPem, directory });
    return bob;
  };
  const bob = await openBob();
  await alice.add("@alice");
  await bob.add("@bob");
  point(alice.platform, "bob", bob.portOf("@bob"));
  await alice.activate("@alice");
  await bob.activate("@bob");
  return { alice, bob, openBob };
}

const point = (platform: Platform, name: string, port: number): void =>
  platform.store.directory.set({ name, host: "localhost", port });

const serverOf = (world: WireWorld) => {
  const [server] = world.platform.servers;
  if (!server) throw new Error("no server");
  return server;
};

t.test("9.7 two servers", async (t) => {
  const pair = await openPair(t.testdir());
  t.teardown(async () => {
    await pair.alice[Symbol.asyncDispose]();
    await pair.bob[Symbol.asyncDispose]();
  });
  const { alice } = pair;
  const A = await alice.pkam("@alice");
  let B = await pair.bob.pkam("@bob");
  const bobCa = await DevCa.open(pair.bob.platform.store.stateDir, systemClock);
  const bobIdentity = await bobCa.leafFor(["localhost"]);
  const sharedKey = "shared_key.alice@bob";

  /** A connection to @alice's server that shows the certificate of @bob's. */
  const asBob = async (): Promise<WireClient> => {
    const P = await alice.connect(alice.portOf("@alice"), bobIdentity);
    t.equal(await P.chunk(), "@");
    return P;
  };
  const signed = (uuid: string): string => {
    const key = serverOf(pair.bob).services.settingStore.get("signing_private_key") ?? "";
    return sign("sha256", Buffer.from(uuid), key).toString("base64");
  };
  const prove = async (P: WireClient, proofOf = signed): Promise<string> => {
    const reply = await P.ask("from:@bob");
    t.match(reply, wirePattern("data:proof:_<id>@bob:<id>\n@"));
    const [, , name = "", uuid = ""] = reply.split("\n")[0]?.split(":") ?? [];
    serverOf(pair.bob).services.cookies.set(`public:${name}`, proofOf(uuid));
    return await P.ask("pol");
  };

  await t.test("C98 to C101: the handshake, and what a peer may see", async (t) => {
    await A.data("update:@bob:phone.wavi@alice +1");
    const P = await asBob();
    t.equal(await prove(P), "@bob@");
    await play(t, P, [
      ["lookup:phone.wavi@alice", "data:+1\n@bob@"],
      ["lookup:x.wavi@alice", "error:AT0015-Exception: @bob:x.wavi@alice does not exist in keystore\n@"],
      ["scan", 'data:["phone.wavi@alice"]\n@bob@'],
      ["llookup:phone.wavi@alice", "error:AT0401-Exception: Command cannot be executed without auth\n@"],
    ]);
    const wrong = await asBob();
    t.equal(await prove(wrong, () => signed("another uuid")), "error:AT0401-Exception: Pol Authentication Failed\n@");
    t.match(await wrong.ask("noop:0"), /^data:ok/u);
    const none = await asBob();
    await none.ask("from:@bob");
    t.match(await none.ask("pol"), /^error:AT0015-Exception: /u, "no proof published");
  });

  await t.test("C111 and its like: a peer speaks for itself only", async (t) => {
    const P = await asBob();
    await prove(P);
    await play(t, P, [
      ["notify:id:z:update:ttr:-1:@alice:x.y@carol:v", "error:AT0009-Exception: …\n@"],
      ["notify:id:z:update:@carol:x.y@bob:v", "error:AT0009-Exception: …\n@"],
      ["notify:id:z:update:ttr:-1:ccd:null:@alice:x.y@bob:v", "data:success\n@bob@"],
      ["notify:id:z:update:ttr:-1:@alice:x.y@bob:v", "data:success\n@bob@"],
      ["notify:status:z", "data:queued\n@bob@"],
      ["notify:status:unknown", "data:null\n@bob@"],
    ]);
    t.match(await A.ask("llookup:cached:@alice:x.y@bob"), /^data:v\n/u);
    const own = await A.data("notify:id:mine:@nosuch:k.wavi@alice:v");
    t.equal(await P.ask(`notify:id:${own}:update:@alice:x.y@bob:v`), "data:success\n@bob@");
    t.not(await A.data(`notify:status:${own}`), "queued and replaced", "ids of others do not touch ours");
    t.match(JSON.parse(await A.data(`notify:fetch:${own}`)), { toAtSign: "@nosuch" });
  });

  await t.test("C102 to C105: look-ups at the owner's server, and the copies that are kept", async (t) => {
    await A.data("update:ttr:-1:@bob:kept.wavi@alice K");
    await play(t, B, [
      ["lookup:all:phone.wavi@alice", 'data:{"key":"@bob:phone.wavi@alice","data":"+1","metaData":{…}}\n@bob@'],
      ["lookup:bypassCache:true:all:kept.wavi@alice", 'data:{"key":"@bob:kept.wavi@alice",…}\n@bob@'],
      ["lookup:all:kept.wavi@alice", 'data:{"key":"cached:@bob:kept.wavi@alice",…}\n@bob@'],
      ["lookup:bypassCache:true:all:kept.wavi@alice", 'data:{"key":"@bob:kept.wavi@alice",…}\n@bob@'],
      [
        "lookup:none.wavi@alice",
        "error:AT0015-key not found : Exception: @bob:none.wavi@alice does not exist in keystore\n@bob@",
      ],
      ["plookup:publickey@alice", `data:${spkiText(testKeys.publicKey)}\n@bob@`],
      [
        "lookup:a.b@nosuch",
        "error:AT0007-Secondary server not found : Unable to find secondary address for atSign:nosuch\n@bob@",
      ],
      ["scan:@alice", 'data:["kept.wavi@alice","phone.wavi@alice"]\n@bob@'],
    ]);
    const U = await alice.unauthenticated("@alice");
    await play(t, U, [
      ["scan:@bob", "error:AT0401-Exception: Scan to another atSign cannot be performed without auth\n@"],
    ]);
  });

  await t.test("C106, C107: a shared record is copied, and its copy goes if its owner wanted that", async (t) => {
    await A.data("update:ttr:-1:ccd:true:@bob:c.wavi@alice v");
    await A.data("update:ttr:-1:ccd:false:@bob:stays.wavi@alice v");
    await eventually(B, "llookup:cached:@bob:c.wavi@alice", "data:v\n@bob@");
    await eventually(B, "llookup:cached:@bob:stays.wavi@alice", "data:v\n@bob@");
    await A.data("delete:@bob:stays.wavi@alice");
    await A.data("delete:@bob:c.wavi@alice");
    await eventually(B, "llookup:cached:@bob:c.wavi@alice", "error:AT0015-…\n@bob@");
    t.equal(await B.ask("llookup:cached:@bob:stays.wavi@alice"), "data:v\n@bob@");
  });

  await t.test("C108, C109: a notification arrives, and its sender can ask what became of it", async (t) => {
    const M = await pair.bob.pkam("@bob");
    M.send("monitor:strict \\.ninth\n");
    t.ok(await M.silent(30));
    t.equal(await A.ask("notify:id:q1:update:@bob:n.ninth@alice:hi"), "data:q1\n@alice@");
    const line = JSON.parse((await M.chunk()).slice("notification: ".length)) as Record<string, unknown>;
    t.match(line, { id: "q1", from: "@alice", to: "@bob", key: "@bob:n.ninth@alice", value: "hi", isEncrypted: true });
    await eventually(A, "notify:status:q1", "data:delivered\n@alice@");
    const id = await A.data("notify:@nosuch:n.wavi@alice:hi");
    await eventually(A, `notify:status:${id}`, "data:errored\n@alice@");
    M.close();
  });

  await t.test("metadata and texts arrive as they were sent; order is kept", async (t) => {
    const M = await pair.bob.pkam("@bob");
    M.send("monitor:strict (?:\\.tenth|hello)\n");
    t.ok(await M.silent(30));
    const options =
      "isEncrypted:true:sharedKeyEnc:SKE:pubKeyCS:CS:encKeyName:EKN:encAlgo:EA:ivNonce:IV:skeEncKeyName:S:skeEncAlgo:A";
    await A.data(`notify:id:meta:update:ttln:60000:ttl:10000:${options}:@bob:m.tenth@alice:x y:z`);
    await A.data("notify:messageType:text:@bob:hello there");
    for (let i = 0; i < 20; i += 1) await A.data(`notify:id:o${i}:@bob:o${i}.tenth@alice:${i}`);
    const seen: Record<string, unknown>[] = [];
    while (seen.length < 22) {
      const lines = (await M.chunk()).trimEnd().split("\n");
      seen.push(...lines.map((line) => JSON.parse(line.slice("notification: ".length)) as Record<string, unknown>));
    }
    t.match(seen[0], {
      value: "x y:z",
      metadata: {
        encKeyName: "EKN",
        encAlgo: "EA",
        ivNonce: "IV",
        skeEncKeyName: "S",
        skeEncAlgo: "A",
        sharedKeyEnc: "SKE",
      },
    });
    t.match(seen[1], { key: "@bob:hello there", value: null, messageType: "MessageType.text", isEncrypted: false });
    t.same(
      seen.slice(2).map(({ id }) => id),
      Array.from({ length: 20 }, (_, i) => `o${i}`),
    );
    const times = seen.map(({ epochMillis }) => Number(epochMillis));
    t.ok(
      times.every((time, i) => i === 0 || time > (times[i - 1] ?? 0)),
      "times rise strictly",
    );
    M.close();
  });

  await t.test("one that the peer rejects does not hold up those behind it", async (t) => {
    const long = "k".repeat(236);
    const rejected = await A.data(`notify:id:long:update:ttr:-1:@bob:${long}.wavi@alice:v`);
    await A.data("notify:id:behind:@bob:b.wavi@alice:v");
    await eventually(A, "notify:status:behind", "data:delivered\n@alice@");
    t.equal(await A.data(`notify:status:${rejected}`), "errored");
  });

  await t.test(
    "strategy latest keeps the newest, while the peer is away; a restart of either loses nothing",
    async (t) => {
      await pair.bob[Symbol.asyncDispose]();
      for (const n of [1, 2, 3])
        await A.data(`notify:id:l${n}:strategy:latest:latestN:2:notifier:wavi:@bob:l${n}.away@alice:${n}`);
      await A.data("notify:id:all:@bob:all.away@alice:v");
      await A.data("notify:id:short:ttln:1:@bob:short.away@alice:v");
      await eventually(A, "notify:status:l3", "data:errored\n@alice@");
      pair.bob = await pair.openBob();
      point(alice.platform, "bob", pair.bob.portOf("@bob"));
      await eventually(A, "notify:status:all", "data:delivered\n@alice@");
      B = await pair.bob.pkam("@bob");
      const list = JSON.parse(await B.data("notify:list:\\.away")) as { id: string }[];
      t.same(
        list.map(({ id }) => id),
        ["l2", "l3", "all"],
      );
      t.equal(await A.data("notify:status:short"), "expired");
    },
  );

  await t.test("C112: when a peer's public key has changed, the key shared with it is put aside", async (t) => {
    await B.data(`update:${sharedKey} secret`);
    const other = generateKeyPairSync("rsa", { modulusLength: 2048 });
    await A.data(`update:public:publickey@alice ${spkiText(other.publicKey)}`);
    await A.data("notify:id:contact:@bob:contact.wavi@alice:v");
    await eventually(A, "notify:status:contact", "data:delivered\n@alice@");
    // Connections are kept; a new one reads the key.
    serverOf(pair.bob).services.peers.disconnect();
    await B.ask("scan:@alice");
    const names = JSON.parse(await B.data("scan shared_key")) as string[];
    t.match(names.join(" "), /shared_key\.alice\.until\.\d+@bob/u);
    t.notOk(names.includes(sharedKey));
    t.equal(await B.data("plookup:publickey@alice"), spkiText(other.publicKey));
  });

  await t.test("C114: a lying peer does not choose what we store", async (t) => {
    const liar = createServer({ ...bobIdentity }, (socket) => {
      socket.on("error", () => undefined);
      socket.write("@");
      socket.setEncoding("utf8").on("data", (text: string) => {
        const lies = text.startsWith("from:")
          ? "data:proof:publickey@alice:x\n@"
          : "error:AT0015-Exception: none : x\n@";
        socket.write(lies);
      });
    });
    await new Promise<void>((resolve) => liar.listen(0, "127.0.0.1", resolve));
    t.teardown(() => liar.close());
    point(alice.platform, "evil", (liar.address() as AddressInfo).port);
    const before = await A.data("llookup:public:publickey@alice");
    const id = await A.data("notify:@evil:k.wavi@alice:v");
    await eventually(A, `notify:status:${id}`, "data:errored\n@alice@");
    t.equal(await A.data("llookup:public:publickey@alice"), before);
    t.match(await A.ask("lookup:a.b@evil"), /^error:AT0008-Handshake failure : /u);
  });

  await t.test("a peer that does not answer costs its time, and no more", async (t) => {
    const mute = createServer({ ...bobIdentity }, (socket) => void socket.on("error", () => undefined));
    await new Promise<void>((resolve) => mute.listen(0, "127.0.0.1", resolve));
    t.teardown(() => mute.close());
    point(alice.platform, "mute", (mute.address() as AddressInfo).port);
    const startMs = performance.now();
    const slow = (await alice.pkam("@alice")).ask("lookup:a.b@mute", 12_000);
    t.equal(await A.data("notify:id:meanwhile:@bob:m.wavi@alice:v"), "meanwhile");
    await eventually(A, "notify:status:meanwhile", "data:delivered\n@alice@");
    t.ok(performance.now() - startMs < 4_000, "others are served meanwhile");
    t.match(await slow, /^error:AT00(?:04|08|23)-/u);
  });

  await t.test("a peer with another's certificate, or none that we trust, is refused", async (t) => {
    const strangerCa = await DevCa.open(t.testdir(), systemClock);
    const stranger = await alice.connect(alice.portOf("@alice"), await strangerCa.leafFor(["localhost"]));
    t.equal(await stranger.chunk(), "@");
    t.match(await stranger.ask("from:@bob"), /^error:AT0401-Exception: Certificate Verification Failed/u);
    const other = await alice.connect(alice.portOf("@alice"), await bobCa.leafFor(["localhost.attacker.example"]));
    t.equal(await other.chunk(), "@");
    t.match(await other.ask("from:@bob"), /^error:AT0401-Exception: Certificate Verification Failed/u);
  });
});

t.test("C116: two peers at once, every notification exactly once", async (t) => {
  const platform = await openPlatform({ stateDir: t.testdir(), settings }, new AbortController().signal);
  await platform[Symbol.asyncDispose]();
  await using world = await WireWorld.open(platform.store.stateDir, { settings });
  for (const atSign of ["@alice", "@bob", "@carol"]) {
    await world.add(atSign);
    await world.activate(atSign);
  }
  const M = await world.pkam("@alice");
  M.send("monitor:strict \\.many\n");
  t.ok(await M.silent(30));
  const senders = await Promise.all(["@bob", "@carol"].map((atSign) => world.pkam(atSign)));
  await Promise.all(
    senders.map(async (sender, who) => {
      for (let i = 0; i < 100; i += 1)
        await sender.data(`notify:id:s${who}-${i}:@alice:k${i}.many@${who === 0 ? "bob" : "carol"}:v`);
    }),
  );
  const ids: string[] = [];
  while (ids.length < 200) {
    const lines = (await M.until("\n")).trimEnd().split("\n");
    ids.push(...lines.map((line) => (JSON.parse(line.slice("notification: ".length)) as { id: string }).id));
  }
  t.equal(new Set(ids).size, 200);
  t.ok(await M.silent(100));
});
