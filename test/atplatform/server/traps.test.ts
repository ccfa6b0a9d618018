import { generateKeyPairSync, randomUUID, sign, type KeyObject } from "node:crypto";
import { createServer } from "node:tls";
import type { AddressInfo } from "node:net";
import t, { type Test } from "tap";
import { DevCa } from "../../../atplatform/server/dev-ca.js";
import { expireKeys } from "../../../atplatform/server/jobs.js";
import type { Services } from "../../../atplatform/server/services.js";
import { systemClock } from "../../../core/clock.js";
import { ManualClock } from "../../fixtures/manual-clock.js";
import type { WireClient } from "../../fixtures/wire-client.js";
import { wirePattern } from "../../fixtures/wire-pattern.js";
import { pkamSignature, spkiText, testKeys, WireWorld } from "../../fixtures/wire-world.js";

// Every trap of the specification's section 8, by its number, on the wire.

const settings = {
  ...{ statsNotificationMs: -1, enrollRequestsMax: 1_000, invalidOtpDelayMaxMs: 10 },
  ...{ deliveryBackoffFirstMs: 20, deliveryBackoffMaxMs: 100 },
};
const publicKey = spkiText(testKeys.publicKey);
const never = new AbortController().signal;
const second = (ms: number): Promise<void> => systemClock.sleep(ms, never);

type Steps = readonly (readonly [send: string, expected: string])[];

async function play(t: Test, client: WireClient, steps: Steps): Promise<void> {
  for (const [send, expected] of steps) {
    t.match(await client.ask(send), wirePattern(expected), `${send} < ${JSON.stringify(expected)}`);
  }
}

async function eventually(client: WireClient, line: string, expected: RegExp): Promise<void> {
  for (let tries = 0; ; tries += 1) {
    const reply = await client.ask(line);
    if (expected.test(reply)) return;
    if (tries === 100) throw new Error(`${line}: still ${reply}`);
    await second(30);
  }
}

async function openWorld(t: Test): Promise<WireWorld> {
  const world = await WireWorld.open(t.testdir(), { settings });
  t.teardown(() => world[Symbol.asyncDispose]());
  for (const atSign of ["@alice", "@bob"]) {
    await world.add(atSign);
    await world.activate(atSign);
  }
  return world;
}

function servicesOf(world: WireWorld, atSign: string): Services {
  const server = world.platform.servers.find((server) => server.atSign === atSign);
  if (!server) throw new Error(`${atSign} does not run`);
  return server.services;
}

/** A connection to @alice's server with the certificate of @bob's. */
async function asBob(world: WireWorld): Promise<WireClient> {
  const ca = await DevCa.open(world.platform.store.stateDir, systemClock);
  const client = await world.connect(world.portOf("@alice"), await ca.leafFor(["localhost"]));
  await client.chunk();
  return client;
}

/** `from` and `pol`, with what `proofText` makes of the challenge signed and published at @bob's server. */
async function prove(world: WireWorld, client: WireClient, proofText = (uuid: string) => uuid): Promise<string> {
  const reply = await client.data("from:@bob");
  const [, name = "", uuid = ""] = reply.split(":");
  const { cookies, settingStore } = servicesOf(world, "@bob");
  const key = settingStore.get("signing_private_key") ?? "";
  const proof = sign("sha256", Buffer.from(proofText(uuid)), key).toString("base64");
  cookies.set(`public:${name}`, proof);
  return await client.ask("pol");
}

const requestLine = (otp: string, changes: Readonly<Record<string, unknown>> = {}): string =>
  `enroll:request:${JSON.stringify({
    ...{ appName: "wavi", deviceName: "pixel", namespaces: { wavi: "rw" }, otp, apkamPublicKey: publicKey },
    ...{ encryptedAPKAMSymmetricKey: "s", ...changes },
  })}`;

async function requested(
  world: WireWorld,
  A: WireClient,
  changes: Readonly<Record<string, unknown>> = {},
): Promise<string> {
  const U = await world.unauthenticated("@alice");
  const reply = JSON.parse(await U.data(requestLine(await A.data("otp:get"), changes))) as { enrollmentId: string };
  U.close();
  return reply.enrollmentId;
}

async function enrolled(
  world: WireWorld,
  A: WireClient,
  changes: Readonly<Record<string, unknown>> = {},
): Promise<string> {
  const enrollmentId = await requested(world, A, { deviceName: `d${randomUUID().slice(0, 8)}`, ...changes });
  const keys = { encryptedDefaultEncryptionPrivateKey: "a", encryptedDefaultSelfEncryptionKey: "b" };
  await A.data(`enroll:approve:${JSON.stringify({ enrollmentId, ...keys })}`);
  return enrollmentId;
}

/** The next notification that is not a statistic. */
async function notification(client: WireClient, held = { text: "" }): Promise<Readonly<Record<string, unknown>>> {
  for (;;) {
    const end = held.text.indexOf("\n");
    if (end === -1) {
      held.text += await client.chunk();
      continue;
    }
    const line = held.text.slice(0, end);
    held.text = held.text.slice(end + 1);
    const parsed = JSON.parse(line.slice(line.indexOf("{"))) as Readonly<Record<string, unknown>>;
    if (parsed["id"] !== "-1") return parsed;
  }
}

t.test("framing", async (t) => {
  const world = await openWorld(t);
  const A = await world.pkam("@alice");
  const U = await world.unauthenticated("@alice");

  await t.test("traps 1 and 11: the greeting comes alone, and so does each reply with its prompt", async (t) => {
    const client = await world.connect(world.portOf("@alice"));
    client.send("noop:0\nnoop:0\n");
    t.equal(await client.chunk(), "@");
    t.equal(await client.chunk(), "data:ok\n@");
    t.equal(await client.chunk(), "data:ok\n@");
  });

  await t.test("traps 2 and 3: a blank line is answered by both servers, each with its own line end", async (t) => {
    const D = await world.connect(world.platform.directoryPort);
    t.equal(await D.chunk(), "@");
    D.send("\r\n");
    t.equal(await D.chunk(1_000), "null\r\n@");
    t.match(await D.ask("alice"), wirePattern("localhost:<n>\r\n@"));
    U.send("\r\n");
    t.equal(await U.chunk(1_000), "error:AT0003-Exception: invalid command\n@");
  });

  await t.test(
    "traps 4 and 6: pol and monitor answer otherwise; errors on a pol connection have the bare prompt",
    async (t) => {
      const P = await asBob(world);
      t.equal(await prove(world, P), "@bob@");
      await play(t, P, [
        ["lookup:none.wavi@alice", "error:AT0015-Exception: @bob:none.wavi@alice does not exist in keystore\n@"],
        ["scan", "data:[…]\n@bob@"],
      ]);
      const M = await world.pkam("@alice");
      M.send("monitor\n");
      t.ok(await M.silent(100));
    },
  );

  await t.test("trap 5: stats and notify:all have a blank after `data:`", async (t) => {
    await play(t, A, [
      ["stats:3", 'data: [{"id":"3","name":"lastCommitID","value":"<n>"}]\n@alice@'],
      ["notify:all:@bob:k.wavi@alice:v", 'data: {"@bob":"<id>"}\n@alice@'],
    ]);
  });

  await t.test("trap 7: a monitor gets no prompts and no line without a colon, unless it is multiplexed", async (t) => {
    const M = await world.pkam("@alice");
    M.send("monitor :nothing:\n");
    t.ok(await M.silent(30));
    t.equal(await M.ask("noop:0"), "data:ok\n");
    t.match(await M.ask("llookup:"), /^error:AT0003-[^\n]*:[^\n]*\n$/u);
    M.send("\n");
    t.match(await M.chunk(), /^error:AT0003-[^\n]*:[^\n]*\n$/u);
    M.send("monitor:multiplexed\n");
    t.equal(await M.ask("noop:0"), "data:ok\n@alice@");
  });

  await t.test("trap 8: enrolment states are told with a colon, whatever the client's version", async (t) => {
    const pending = await requested(world, A, { deviceName: "trap8" });
    await play(t, U, [
      ['from:@alice:clientConfig:{"version":"3.0.40"}', "data:_<id>@alice:<id>\n@"],
      ["pkam:enrollmentId:nope:AAAA", "error:AT0028:enrollment_id: nope is expired or invalid\n@"],
      [`pkam:enrollmentId:${pending}:AAAA`, "error:AT0026:enrollment_id: <id> is pending\n@"],
    ]);
  });

  await t.test("trap 9: an error is one line, also where the usage has two", async (t) => {
    const fresh = await world.unauthenticated("@alice");
    t.match(await fresh.ask("from:"), /^error:AT0003-[^\n]*\n@$/u);
    for (const line of ["delete:", "config:block:", "config:"]) {
      t.match(await A.ask(line), /^error:AT0003-[^\n]*\n@alice@$/u, line);
    }
  });

  await t.test("traps 12 and 13: case and blanks before the first colon", async (t) => {
    await A.data("update:public:case.wavi@alice here");
    const fresh = await world.unauthenticated("@alice");
    await play(t, fresh, [
      ["SCAN", "data:[…]\n@"],
      ["INFO", "data:{…}\n@"],
      ["lookup :case.wavi@alice", "data:here\n@"],
    ]);
    await play(t, A, [
      ["Notify:Update:@alice:c.wavi@alice:hi", "data:<id>\n@alice@"],
      ["scan .*:case", 'data:["public:case.wavi@alice"]\n@alice@'],
    ]);
    t.equal(await A.data("scan :CASE"), "[]", "the expression keeps its case");
  });

  await t.test("traps 14 and 48: a value ends before trailing blanks, and begins after the first blank", async (t) => {
    for (const value of [" x", '{"a": "b@c:d"}', "a:b @c", "data:x"]) {
      await A.data(`update:v.wavi@alice ${value} \t `);
      const expected = value.startsWith("data:") ? `${value}\n@alice@` : `data:${value}\n@alice@`;
      t.equal(await A.ask("llookup:v.wavi@alice"), expected);
    }
  });

  await t.test("trap 15: the error is there before the end", async (t) => {
    const client = await world.unauthenticated("@alice");
    t.match(await client.ask("from:al!ce"), /^error:AT0011-Exception: invalid @sign: [^\n]*\n@$/u);
    t.equal(await client.chunk(), "{close}");
  });
});

t.test("time", async (t) => {
  const clock = new ManualClock();
  const world = await WireWorld.open(t.testdir(), { settings: { statsNotificationMs: -1 }, clock });
  t.teardown(() => world[Symbol.asyncDispose]());
  await world.add("@alice");
  await world.activate("@alice");
  const minutes = (count: number): Promise<void> => clock.advance(count * 60_000);

  await t.test("trap 10: idle time counts from what the server wrote last", async (t) => {
    const [silent, answered] = [await world.unauthenticated("@alice"), await world.unauthenticated("@alice")];
    await minutes(9);
    silent.send("inf");
    await answered.data("info:brief");
    await minutes(2);
    await world.unauthenticated("@alice");
    t.equal(await silent.chunk(), "{close}");
    await answered.data("info:brief");
  });

  await t.test("trap 24: a wrong passcode waits, and a right one meanwhile does not", async (t) => {
    const A = await world.pkam("@alice");
    const [wrong, right] = [await world.unauthenticated("@alice"), await world.unauthenticated("@alice")];
    const before = clock.sleeping;
    wrong.send(`${requestLine("BADBAD")}\n`);
    while (clock.sleeping === before) await second(5);
    t.match(await right.data(requestLine(await A.data("otp:get"))), /"pending"/u);
    t.ok(await wrong.silent(20));
    await clock.advance(1_000);
    t.equal(await wrong.chunk(), "error:AT0011-Exception: invalid otp. Cannot process enroll request\n@");
  });
});

t.test("authentication", async (t) => {
  const world = await openWorld(t);
  const A = await world.pkam("@alice");

  await t.test("trap 16: what is wrong does not end the connection", async (t) => {
    const U = await world.unauthenticated("@alice");
    const pending = await requested(world, A, { deviceName: "trap16" });
    await U.ask("from:@alice");
    for (const line of ["frobnicate", "scan@", "cram:00", "pkam:AAAA", `pkam:enrollmentId:${pending}:AAAA`]) {
      t.match(await U.ask(line), /^error:AT0/u, line);
      t.equal(await U.ask("noop:0"), "data:ok\n@");
    }
  });

  await t.test("trap 17: a login signs the whole challenge, a proof the bare UUID", async (t) => {
    const U = await world.unauthenticated("@alice");
    const challenge = await U.data("from:@alice");
    const [, uuid = ""] = challenge.split(":");
    t.match(await U.ask(`pkam:${pkamSignature(uuid)}`), /^error:AT0401-/u);
    t.equal(await U.ask(`pkam:${pkamSignature(challenge)}`), "data:success\n@alice@");
    const P = await asBob(world);
    t.equal(await prove(world, P, (uuid) => `x@bob:${uuid}`), "error:AT0401-Exception: Pol Authentication Failed\n@");
    t.equal(await prove(world, P), "@bob@");
  });

  await t.test("trap 18: a proof is read by whoever knows its name, and not listed", async (t) => {
    const name = `_${randomUUID()}@alice`;
    servicesOf(world, "@alice").cookies.set(`public:${name}`, "proof");
    const U = await world.unauthenticated("@alice");
    t.equal(await U.ask(`lookup:${name}`), "data:proof\n@");
    t.notMatch(await U.ask("scan"), name);
  });

  await t.test(
    "trap 19: ECC signatures are the base64 of hex; later ones, of the bytes, are taken as well",
    async (t) => {
      const { publicKey, privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
      const id = await enrolled(world, A, { apkamPublicKey: pointHex(publicKey) });
      const U = await world.unauthenticated("@alice");
      const login = async (changed: string, form: (bytes: Buffer) => Buffer): Promise<string> => {
        const challenge = await U.data("from:@alice");
        const signed = sign("sha256", Buffer.from(challenge + changed), { key: privateKey, dsaEncoding: "ieee-p1363" });
        const algorithms = "signingAlgo:ecc_secp256r1:hashingAlgo:sha256";
        return await U.ask(`pkam:${algorithms}:enrollmentId:${id}:${form(signed).toString("base64")}`);
      };
      const hex = (bytes: Buffer): Buffer => Buffer.from(bytes.toString("hex"));
      t.equal(await login("", hex), "data:success\n@alice@");
      t.equal(await login("", (bytes) => bytes), "data:success\n@alice@");
      t.match(await login("x", hex), /^error:AT0401-/u);
    },
  );

  await t.test("trap 20: an unknown algorithm is a signature that is not base64", async (t) => {
    const U = await world.unauthenticated("@alice");
    await U.ask("from:@alice");
    const unknown = "pkam:signingAlgo:rot13:hashingAlgo:sha256:AAAA";
    t.match(await U.ask(unknown), wirePattern("error:AT0011-Exception: Exception: …\n@"));
    t.equal(await U.chunk(), "{close}");
  });

  await t.test("trap 21: a login with or without enrolment changes the role", async (t) => {
    const id = await enrolled(world, A);
    const E = await world.pkam("@alice", id);
    await play(t, E, [
      ["update:a.buzz@alice v", "error:AT0009-…\n@alice@"],
      ["update:a.wavi@alice v", "data:<n>\n@alice@"],
    ]);
    const challenge = await E.data("from:@alice");
    await play(t, E, [
      [`pkam:${pkamSignature(challenge)}`, "data:success\n@alice@"],
      ["update:a.buzz@alice v", "data:<n>\n@alice@"],
    ]);
  });

  await t.test("trap 22: AT0028 is said of enrolments that are unknown or have expired", async (t) => {
    const unknown = JSON.stringify({ enrollmentId: "nope" });
    await play(t, A, [[`enroll:revoke:${unknown}`, "error:AT0028:enrollment_id: nope is expired or invalid\n@alice@"]]);
  });

  await t.test("trap 23: a passcode is gone although the request was refused", async (t) => {
    await requested(world, A, { deviceName: "twice" });
    const U = await world.unauthenticated("@alice");
    const otp = await A.data("otp:get");
    t.match(await U.ask(requestLine(otp, { deviceName: "twice" })), /Another enrollment with id /u);
    t.match(await U.ask(requestLine(otp, { deviceName: "another" })), /^error:AT0011-Exception: invalid otp\./u);
  });

  await t.test(
    "traps 25 and 26: the first enrolment binds its connection; a deleted secret stays deleted",
    async (t) => {
      const stateDir = t.testdir();
      const first = await WireWorld.open(stateDir, { settings });
      const { cramSecret } = await first.add("@carol");
      const C = await first.cram("@carol");
      const request = requestLine("", { otp: undefined, namespaces: undefined, encryptedAPKAMSymmetricKey: undefined });
      t.match(await C.data(request), /"status":"approved"/u);
      t.match(await C.data("info"), /"apkam_metadata":/u);
      await play(t, C, [
        [`update:public:publickey@carol ${publicKey}`, "data:<n>\n@carol@"],
        ["delete:privatekey:at_secret", "data:-1\n@carol@"],
      ]);
      const gone = "error:AT0015-Exception: privatekey:at_secret does not exist in keystore\n@";
      t.equal(await (await first.unauthenticated("@carol")).cram("@carol", cramSecret), gone);
      await first[Symbol.asyncDispose]();
      await using second = await WireWorld.open(stateDir, { settings });
      t.equal(await (await second.unauthenticated("@carol")).cram("@carol", cramSecret), gone);
    },
  );

  await t.test("traps 27 to 29: names of members, and which states keep a device's name", async (t) => {
    const M = await world.pkam("@alice");
    M.send("monitor:selfNotifications\n");
    await second(50);
    const id = await requested(world, A, { deviceName: "named" });
    const { key, value } = await notification(M);
    t.equal(key, `${id}.new.enrollments.__manage@alice`);
    t.match(JSON.parse(String(value)), {
      encryptedApkamSymmetricKey: "s",
      encryptedAPKAMSymmetricKey: "s",
      namespace: { wavi: "rw" },
    });
    t.match(await A.data('enroll:list:{"enrollmentStatusFilter":["pending"]}'), /"namespace":\{"wavi":"rw"\}/u);
    const U = await world.unauthenticated("@alice");
    const again = async (): Promise<string> =>
      await U.ask(requestLine(await A.data("otp:get"), { deviceName: "named" }));
    t.match(await again(), /in pending state/u);
    await A.data(`enroll:deny:${JSON.stringify({ enrollmentId: id })}`);
    t.match(await again(), /"status":"pending"/u);
  });
});

t.test("data", async (t) => {
  const world = await openWorld(t);
  const A = await world.pkam("@alice");
  const B = await world.pkam("@bob");
  const U = await world.unauthenticated("@alice");
  const metaOf = async (key: string): Promise<Readonly<Record<string, unknown>>> =>
    JSON.parse(await A.data(`llookup:meta:${key}`)) as Readonly<Record<string, unknown>>;
  const syncFrom = async (client: WireClient, commitId: number, rest = ""): Promise<readonly SyncEntry[]> =>
    JSON.parse(await client.data(`sync:from:${commitId}:limit:25${rest}`)) as readonly SyncEntry[];

  await t.test("traps 30 to 32: what an update forgets, keeps and winds up again", async (t) => {
    await A.data("update:ttl:60000:ttr:10:isBinary:true:isEncrypted:true:ivNonce:N:m.wavi@alice v");
    const before = await metaOf("m.wavi@alice");
    const refresh = Date.parse(String(before["refreshAt"])) - Date.parse(String(before["updatedAt"]));
    const expiry = Date.parse(String(before["expiresAt"])) - Date.parse(String(before["updatedAt"]));
    t.same([refresh, expiry], [10_000, 60_000], "ttr counts seconds, ttl milliseconds");
    await second(5);
    await A.data("update:m.wavi@alice w");
    const after = await metaOf("m.wavi@alice");
    t.match(after, { isBinary: false, isEncrypted: false, ivNonce: "N", ttl: 60_000, version: 1 });
    t.ok(String(after["expiresAt"]) > String(before["expiresAt"]));
  });

  await t.test("trap 33: an expired record is null, and missing once it was purged", async (t) => {
    await A.data("update:ttl:1:t.wavi@alice v");
    await second(10);
    t.equal(await A.ask("llookup:t.wavi@alice"), "data:null\n@alice@");
    await expireKeys(servicesOf(world, "@alice"));
    t.match(await A.ask("llookup:t.wavi@alice"), /^error:AT0015-key not found : /u);
  });

  await t.test("traps 34 and 35: whose record a look-up reads, and where it came from", async (t) => {
    await A.data("update:own.wavi@alice self");
    await A.data("update:public:own.wavi@alice public");
    t.match(await A.ask("lookup:own.wavi@alice"), /^error:AT0015-key not found : @alice:own\.wavi@alice /u);
    await A.data("update:@alice:own.wavi@alice mine");
    t.equal(await A.data("lookup:own.wavi@alice"), "mine");
    await A.data("update:ttr:-1:@bob:far.wavi@alice v");
    const keyOf = async (line: string): Promise<unknown> =>
      (JSON.parse(await B.data(line)) as Readonly<Record<string, unknown>>)["key"];
    t.equal(await keyOf("lookup:bypassCache:true:all:far.wavi@alice"), "@bob:far.wavi@alice");
    t.equal(await keyOf("lookup:all:far.wavi@alice"), "cached:@bob:far.wavi@alice");
  });

  await t.test("traps 36 and 37: every change has a higher number and is in the sync", async (t) => {
    let last = Number(await A.data("update:c.wavi@alice v"));
    const changes = [
      () => A.data("update:meta:c.wavi@alice:ttl:1"),
      () => A.data("delete:never.wavi@alice"),
      async () => {
        await second(10);
        await expireKeys(servicesOf(world, "@alice"));
        return (JSON.parse(await A.data("stats:3")) as readonly { value: string }[])[0]?.value ?? "";
      },
    ];
    for (const change of changes) {
      const next = Number(await change());
      t.ok(next > last, `${next} > ${last}`);
      t.same(
        (await syncFrom(A, next - 1)).map(({ commitId }) => commitId),
        [next],
      );
      last = next;
    }
  });

  await t.test("traps 38, 44 and 45: a sync page is empty at the end only; what an enrolment sees", async (t) => {
    const id = await enrolled(world, A, { namespaces: { "buzz.wavi": "rw" } });
    const E = await world.pkam("@alice", id);
    const start = Number(await A.data("update:first.other@alice v"));
    for (let n = 0; n < 30; n += 1) await A.data(`update:o${n}.other@alice v`);
    await A.data("update:k.buzz.wavi@alice v");
    await A.data("update:public:p.other@alice v");
    t.same(
      (await syncFrom(E, start)).map(({ atKey }) => atKey),
      ["k.buzz.wavi@alice"],
    );
    t.equal(await E.data("llookup:k.buzz.wavi@alice"), "v");
    const names = JSON.parse(await E.data("scan")) as readonly string[];
    t.ok(names.includes("k.buzz.wavi@alice") && names.includes("public:p.other@alice"));
    t.notOk(names.includes("o1.other@alice"));
  });

  await t.test("traps 39 and 40: texts in a sync, and what comes through every expression", async (t) => {
    const start = Number(await A.data("update:@bob:shared_key@alice k")) - 1;
    await A.data("update:ttl:60000:public:nodot@alice v");
    await A.data("update:hidden.other@alice v");
    const entries = await syncFrom(A, start, ":matches-nothing");
    t.same(
      entries.map(({ atKey }) => atKey),
      ["@bob:shared_key@alice", "public:nodot@alice"],
    );
    t.match(entries[1]?.metadata, { ttl: "60000", version: "0", isEncrypted: "false" });
    t.match(await metaOf("public:nodot@alice"), { ttl: 60_000, version: 0, isEncrypted: false });
  });

  await t.test("traps 41 and 42: dates and members that Java reads", async (t) => {
    await A.data("update:hash:h:algo:sha512:java.wavi@alice v");
    const metadata = await metaOf("java.wavi@alice");
    t.match(metadata["createdAt"], /^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}Z$/u);
    const known = "createdBy updatedBy createdAt updatedAt status version isBinary isEncrypted".split(" ");
    t.same(Object.keys(metadata), known);
  });

  await t.test("trap 43: reserved names are open to every enrolment, but not the atSign's own keys", async (t) => {
    const E = await world.pkam("@alice", await enrolled(world, A));
    await play(t, E, [
      ["update:@bob:shared_key@alice k", "data:<n>\n@alice@"],
      ["llookup:@bob:shared_key@alice", "data:k\n@alice@"],
      ["update:public:publickey@alice k", "error:AT0009-…\n@alice@"],
      ["update:privatekey:at_pkam_publickey k", "error:AT0009-…\n@alice@"],
    ]);
  });

  await t.test("trap 46: dots vanish from atSigns and stay in keys", async (t) => {
    await play(t, U, [["from:@al.ice", "data:_<id>@alice:<id>\n@"]]);
    await A.data("update:dot.ted.wavi@alice v");
    t.equal(await A.data("llookup:dot.ted.wavi@al.ice"), "v");
  });

  await t.test("trap 47: emoji in atSigns and keys", async (t) => {
    const { cramSecret } = await world.add("@emoji🦄🛠");
    const C = await world.unauthenticated("@emoji🦄🛠");
    t.equal(await C.cram("@emoji🦄🛠", cramSecret), "data:success\n@emoji🦄🛠@");
    await play(t, C, [
      ["update:🛠.wavi@emoji🦄🛠 ⚙️", "data:<n>\n@emoji🦄🛠@"],
      ["llookup:🛠.wavi@emoji🦄🛠", "data:⚙️\n@emoji🦄🛠@"],
      ["scan 🛠\\.wavi", 'data:["🛠.wavi@emoji🦄🛠"]\n@emoji🦄🛠@'],
    ]);
    const D = await world.connect(world.platform.directoryPort);
    await D.chunk();
    t.match(await D.ask("EMOJI🦄🛠"), wirePattern("localhost:<n>\r\n@"));
  });

  await t.test("traps 49 and 50: which error a wrong key has", async (t) => {
    await play(t, A, [
      ["update:a,b.wavi@alice v", "error:AT0016-Invalid key : …\n@alice@"],
      ["update:public:@alice:k@alice v", "error:AT0003-…\n@alice@"],
    ]);
  });
});

t.test("notifications", async (t) => {
  const world = await openWorld(t);
  const A = await world.pkam("@alice");
  const B = await world.pkam("@bob");
  const M = await world.pkam("@bob");
  const held = { text: "" };
  const startMs = Date.now();
  M.send("monitor\n");
  const fetched = async (id: string): Promise<Readonly<Record<string, string>>> =>
    JSON.parse(await A.data(`notify:fetch:${id}`)) as Readonly<Record<string, string>>;
  const lifeMs = ({ expiresAt = "", notificationDateTime = "" }: Readonly<Record<string, string>>): number =>
    Date.parse(expiresAt) - Date.parse(notificationDateTime);

  await t.test("traps 51 and 56: how long a notification lives is not how long its key does", async (t) => {
    t.equal(lifeMs(await fetched(await A.data("notify:@bob:life.wavi@alice:v"))), 24 * 3_600_000);
    const both = await A.data("notify:ttln:60000:ttl:10000:@bob:life.wavi@alice:v");
    t.equal(lifeMs(await fetched(both)), 60_000);
    const all = JSON.parse(await A.data("notify:all:@bob:life.wavi@alice:v")) as Readonly<Record<string, string>>;
    t.equal(lifeMs(await fetched(all["@bob"] ?? "")), 15 * 60_000);
    for (let n = 0; n < 3; n += 1) await notification(M, held);
  });

  await t.test("traps 52, 59 and 60: what is taken for granted, and whose id is shown", async (t) => {
    await A.data("notify:id:mine-1:@bob:enc.wavi@alice:v");
    t.match(await notification(M, held), { id: "mine-1", key: "@bob:enc.wavi@alice", isEncrypted: true });
    await A.data("notify:id:mine-2:isEncrypted:false:@bob:enc.wavi@alice:v");
    t.match(await notification(M, held), { id: "mine-2", isEncrypted: false });
    await A.data("update:@bob:auto.wavi@alice v");
    t.match(await notification(M, held), { key: "@bob:auto.wavi@alice", value: "v", from: "@alice" });
  });

  await t.test("trap 53: a text with an @ has an owner", async (t) => {
    await play(t, A, [["notify:messageType:text:@bob:mail x@y", "error:AT0009-…\n@alice@"]]);
  });

  await t.test("trap 54: one to oneself is received at once", async (t) => {
    const own = await world.pkam("@alice");
    own.send("monitor\n");
    await second(50);
    const id = await A.data("notify:@alice:self.wavi@alice:hi");
    t.match(await notification(own), { id, from: "@alice", to: "@alice", value: "hi" });
    t.equal(await A.data(`notify:status:${id}`), "delivered");
  });

  await t.test("trap 55: while it is tried again its status is errored", async () => {
    const id = await A.data("notify:@nosuch:n.wavi@alice:hi");
    await eventually(A, `notify:status:${id}`, /^data:errored\n/u);
  });

  await t.test("traps 57 and 58: a replay begins after the time, and times never fall", async (t) => {
    const replay = async (fromMs: number): Promise<readonly Readonly<Record<string, unknown>>[]> => {
      const client = await world.pkam("@bob");
      client.send(`monitor:${fromMs}\n`);
      let text = "";
      while (!(await client.silent(200))) text += await client.chunk();
      const lines = text.split("\n").filter((line) => line.startsWith("notification: "));
      const all = lines.map((line) => JSON.parse(line.slice(14)) as Readonly<Record<string, unknown>>);
      client.close();
      return all.filter(({ id }) => id !== "-1");
    };
    const all = await replay(startMs - 1);
    t.ok(all.length >= 5);
    const times = all.map(({ epochMillis }) => Number(epochMillis));
    t.same(
      times,
      [...times].sort((x, y) => x - y),
    );
    t.same(await replay(times.at(-1) ?? 0), []);
  });

  await t.test("trap 61: a shared key is notified like any record", async (t) => {
    await A.data("update:@bob:shared_key@alice k");
    t.match(await notification(M, held), { key: "@bob:shared_key@alice", value: "k" });
  });

  await t.test("trap 62: a peer may say ccd:null, and send public records", async (t) => {
    const P = await asBob(world);
    t.equal(await prove(world, P), "@bob@");
    await play(t, P, [
      ["notify:id:n-1:update:ttr:-1:ccd:null:@alice:c.wavi@bob:v", "data:success\n@bob@"],
      ["notify:id:n-2:update:ttr:-1:ccd:false:@alice:public:p.wavi@bob:v", "data:success\n@bob@"],
    ]);
    t.equal(await A.data("llookup:cached:@alice:c.wavi@bob"), "v");
    await B.data("info");
  });
});

t.test("server to server", async (t) => {
  const world = await openWorld(t);
  const A = await world.pkam("@alice");
  const point = (name: string, port: number): void =>
    world.platform.store.directory.set({ name, host: "localhost", port });

  await t.test("trap 63: a server that we cannot reach back does not pass", async (t) => {
    const port = world.portOf("@bob");
    const P = await asBob(world);
    await P.data("from:@bob");
    point("bob", 1);
    t.match(await P.ask("pol"), /^error:AT00(?:04|23)-Exception: [^\n]*\n@$/u);
    point("bob", port);
    t.equal(await prove(world, P), "@bob@");
  });

  await t.test("trap 64: the directory's answer is kept", async (t) => {
    const dir = t.testdir();
    const directory = { kind: "directory", host: "localhost", port: world.platform.directoryPort } as const;
    await using other = await WireWorld.open(dir, { settings, directory, extraCaPem: world.platform.caPem });
    await other.add("@dave");
    await other.activate("@dave");
    const D = await other.pkam("@dave");
    const lookups = (): number => world.platform.directory?.counters.lookups ?? 0;
    const before = lookups();
    for (let n = 0; n < 3; n += 1) await D.data(`plookup:bypassCache:true:publickey@bob`);
    t.equal(lookups() - before, 1);
  });

  await t.test("traps 65 and 66: what a server says first to another, without clientConfig", async (t) => {
    const lines: string[] = [];
    const ca = await DevCa.open(world.platform.store.stateDir, systemClock);
    const scripted = createServer({ ...(await ca.leafFor(["localhost"])) }, (socket) => {
      socket.on("error", () => undefined);
      socket.write("@");
      socket.setEncoding("utf8").on("data", (text: string) => {
        lines.push(text);
        socket.write("error:AT0015-Exception: none : x\n@");
      });
    });
    await new Promise<void>((resolve) => scripted.listen(0, "127.0.0.1", resolve));
    t.teardown(() => scripted.close());
    point("script", (scripted.address() as AddressInfo).port);
    t.match(await A.ask("lookup:a.wavi@script"), /^error:AT0008-/u);
    t.same(lines, ["lookup:all:publickey@script\n", "from:@alice\n"]);
    const U = await world.unauthenticated("@alice");
    t.match(await U.ask("lookup:all:publickey@alice"), /^data:\{"key":"public:publickey@alice",/u);
  });

  await t.test("trap 67: one's own public records are read without the network", async (t) => {
    const port = world.portOf("@alice");
    point("alice", 1);
    t.equal(await A.data("plookup:publickey@alice"), publicKey);
    point("alice", port);
  });
});

interface SyncEntry {
  readonly atKey: string;
  readonly commitId: number;
  readonly metadata: Readonly<Record<string, string>> | null;
}

/** The uncompressed point, as ECC keys are stored: the last 65 bytes of the SPKI form. */
const pointHex = (key: KeyObject): string => key.export({ type: "spki", format: "der" }).subarray(-65).toString("hex");
