import { generateKeyPairSync, sign } from "node:crypto";
import t from "tap";
import { compactLogs } from "../../../atplatform/server/jobs.js";
import { systemClock } from "../../../core/clock.js";
import type { WireClient } from "../../fixtures/wire-client.js";
import { wirePattern } from "../../fixtures/wire-pattern.js";
import { spkiText, testKeys, WireWorld } from "../../fixtures/wire-world.js";

// What an atServer does by itself, and who sees what of it.

const never = new AbortController().signal;
const settings = { statsNotificationMs: -1, deliveryBackoffFirstMs: 20, deliveryBackoffMaxMs: 100 };

async function eventually(client: WireClient, line: string, expected: string): Promise<void> {
  const pattern = wirePattern(expected);
  for (let i = 0; ; i += 1) {
    const reply = await client.ask(line);
    if (pattern.test(reply)) return;
    if (i === 100) throw new Error(`${line}: still ${reply}`);
    await systemClock.sleep(30, never);
  }
}

async function enrol(
  world: WireWorld,
  namespaces: object,
  apkamPublicKey = spkiText(testKeys.publicKey),
): Promise<string> {
  const A = await world.pkam("@alice");
  const U = await world.unauthenticated("@alice");
  const deviceName = `d${Math.random().toString(36).slice(2)}`;
  const otp = await A.data("otp:get");
  const params = { appName: "wavi", deviceName, namespaces, otp, apkamPublicKey, encryptedAPKAMSymmetricKey: "s" };
  const { enrollmentId } = JSON.parse(await U.data(`enroll:request:${JSON.stringify(params)}`)) as {
    enrollmentId: string;
  };
  const keys = { encryptedDefaultEncryptionPrivateKey: "a", encryptedDefaultSelfEncryptionKey: "b" };
  await A.data(`enroll:approve:${JSON.stringify({ enrollmentId, ...keys })}`);
  A.close();
  U.close();
  return enrollmentId;
}

t.test("jobs", async (t) => {
  const world = await WireWorld.open(t.testdir(), { settings: { ...settings, expiryJobMs: 100, testingMode: true } });
  t.teardown(() => world[Symbol.asyncDispose]());
  for (const atSign of ["@alice", "@bob"]) {
    await world.add(atSign);
    await world.activate(atSign);
  }
  const A = await world.pkam("@alice");
  const B = await world.pkam("@bob");

  await t.test("an expired record goes, and its deletion is in the log for clients that sync", async (t) => {
    const n = Number(await A.data("update:ttl:150:short.wavi@alice v"));
    t.equal(await A.data("llookup:short.wavi@alice"), "v");
    await eventually(A, "llookup:short.wavi@alice", "error:AT0015-…\n@alice@");
    const entries = JSON.parse(await A.data(`sync:from:${n}:limit:10`)) as object[];
    t.match(entries, [{ atKey: "short.wavi@alice", operation: "-", value: null }]);
  });

  await t.test("a copy whose time has come is fetched again, and goes when the record has gone", async (t) => {
    await A.data("config:set:autoNotify=false");
    t.equal(await A.data("config:print:autoNotify"), "false");
    await A.data("update:ttr:1:@bob:fresh.wavi@alice one");
    t.equal(await B.data("lookup:fresh.wavi@alice"), "one");
    await A.data("update:ttr:1:@bob:fresh.wavi@alice two");
    t.equal(await B.data("lookup:fresh.wavi@alice"), "one", "from the copy");
    await systemClock.sleep(1_050, never);
    t.equal(await B.data("config:set:doCacheRefreshNow=true"), "ok");
    t.equal(await B.data("llookup:cached:@bob:fresh.wavi@alice"), "two");
    await A.data("delete:@bob:fresh.wavi@alice");
    await systemClock.sleep(1_050, never);
    await B.data("config:set:doCacheRefreshNow=true");
    t.match(await B.ask("llookup:cached:@bob:fresh.wavi@alice"), /^error:AT0015-/u);
    await A.data("config:reset:autoNotify");
    t.match(await A.ask("config:set:nonsense=1"), /^error:AT0010-Internal server error : /u);
  });

  await t.test("a change of metadata reaches the copy without its value", async (t) => {
    await A.data("update:ttr:-1:@bob:meta.wavi@alice v");
    await eventually(B, "llookup:cached:@bob:meta.wavi@alice", "data:v\n@bob@");
    await A.data("update:meta:@bob:meta.wavi@alice:ttr:-1:isEncrypted:true");
    await eventually(B, "llookup:meta:cached:@bob:meta.wavi@alice", 'data:{…"isEncrypted":true…}\n@bob@');
    t.equal(await B.data("llookup:cached:@bob:meta.wavi@alice"), "v");
  });

  await t.test("expired notifications are not sent, and are forgotten by those who ask", async (t) => {
    const id = await A.data("notify:ttln:1:@alice:gone.wavi@alice:v");
    await systemClock.sleep(20, never);
    t.equal(await A.data(`notify:status:${id}`), "expired");
    t.equal(await A.data("notify:list:gone"), "null");
  });
});

t.test("3.22: stats 12 to 14 tell what the jobs that keep the logs short did last", async (t) => {
  await using world = await WireWorld.open(t.testdir(), { settings });
  await world.add("@alice");
  await world.activate("@alice");
  const A = await world.pkam("@alice");
  const [server] = world.platform.servers;
  if (!server) throw new Error("no server");
  const last = async (id: number): Promise<unknown> => {
    const [stat] = JSON.parse(await A.data(`stats:${id}`)) as { value: string }[];
    return JSON.parse(stat?.value ?? "");
  };
  const counts = (before: number, after: number): object => ({
    lastCompactionRun: /^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}Z$/u,
    compactionDurationInMills: /^\d+$/u,
    preCompactionEntriesCount: String(before),
    postCompactionEntriesCount: String(after),
    deletedKeysCount: String(before - after),
  });
  for (const id of [12, 13, 14]) t.same(await last(id), {}, "not yet");
  for (let n = 0; n < 5; n += 1) await A.data("update:same.wavi@alice v");
  for (let n = 0; n < 3; n += 1) await A.data(`notify:id:n${n}:ttln:1:@alice:n${n}.wavi@alice:v`);
  await A.data("notify:@alice:stays.wavi@alice:v");
  await eventually(A, "notify:status:n2", "data:expired\n@alice@");
  await compactLogs(server.services);
  t.match(await last(12), { atCompactionType: "AtCommitLog", ...counts(2 + 5, 2 + 1) });
  t.match(await last(13), { atCompactionType: "AtAccessLog", ...counts(1, 1) });
  t.match(await last(14), { atCompactionType: "AtNotificationKeystore", ...counts(4, 1) });
  await A.data("update:same.wavi@alice v");
  await compactLogs(server.services);
  t.match(await last(12), counts(2 + 2, 2 + 1), "since the run before");
});

t.test("enrolments", async (t) => {
  const world = await WireWorld.open(t.testdir(), { settings });
  t.teardown(() => world[Symbol.asyncDispose]());
  await world.add("@alice");
  await world.activate("@alice");
  const A = await world.pkam("@alice");

  await t.test("see the notifications of their namespaces, live and replayed", async (t) => {
    const since = Date.now() - 1;
    const wavi = await world.pkam("@alice", await enrol(world, { wavi: "r" }));
    const everything = await world.pkam("@alice", await enrol(world, { "*": "rw" }));
    const keysOf = async (client: WireClient, count: number): Promise<string[]> => {
      const keys: string[] = [];
      while (keys.length < count) {
        const lines = (await client.until("\n")).trimEnd().split("\n");
        keys.push(...lines.map((line) => (JSON.parse(line.slice("notification: ".length)) as { key: string }).key));
      }
      return keys;
    };
    wavi.send("monitor:strict .\n");
    everything.send("monitor:strict:selfNotifications .\n");
    t.ok(await wavi.silent(30));
    for (const key of ["a.wavi", "b.buzz", "nodot", "c.sub.wavi"]) await A.data(`notify:@alice:${key}@alice:v`);
    await A.data("notify:messageType:text:@alice:some text");
    const forWavi = ["@alice:a.wavi@alice", "@alice:c.sub.wavi@alice"];
    const all = [
      "@alice:a.wavi@alice",
      "@alice:b.buzz@alice",
      "@alice:nodot@alice",
      "@alice:c.sub.wavi@alice",
      "@alice:some text",
    ];
    t.same(await keysOf(wavi, 2), forWavi);
    t.same(await keysOf(everything, 5), all, "but no enrolment requests, which take __manage");
    const later = await world.pkam("@alice", await enrol(world, { wavi: "r" }));
    later.send(`monitor:strict:${since} .\n`);
    t.same(await keysOf(later, 2), forWavi);
    t.ok(await wavi.silent(50));
    const list = JSON.parse(await later.data("notify:list")) as { key: string }[];
    t.same(
      list.map(({ key }) => key),
      forWavi,
    );
  });

  await t.test("may sign with a P-256 key", async (t) => {
    const { privateKey, publicKey } = generateKeyPairSync("ec", { namedCurve: "prime256v1" });
    const point = publicKey.export({ type: "spki", format: "der" }).subarray(-65).toString("hex");
    const id = await enrol(world, { wavi: "rw" }, point);
    const U = await world.unauthenticated("@alice");
    const challenge = await U.data("from:@alice");
    const signature = sign("sha256", Buffer.from(challenge), { key: privateKey, dsaEncoding: "ieee-p1363" });
    const text = Buffer.from(signature.toString("hex")).toString("base64");
    const login = `pkam:signingAlgo:ecc_secp256r1:hashingAlgo:sha256:enrollmentId:${id}:`;
    t.match(await U.ask(`${login}${text.slice(0, -8)}AAAAAAA=`), /^error:AT0401-/u);
    t.equal(await U.ask(`${login}${text}`), "data:success\n@alice@");
  });

  await t.test("a failed login ends what the connection was, its monitor included", async (t) => {
    const M = await world.pkam("@alice");
    M.send("monitor .\n");
    await M.data("from:@alice").catch(() => undefined);
    M.drain();
    M.send("from:@alice\npkam:AAAA\n");
    const text = await M.until("error:AT0401-Exception: pkam authentication failed\n@");
    t.match(text, /data:_/u);
    await A.data("notify:@alice:after.wavi@alice:v");
    t.ok(await M.silent(50));
    t.match(await M.ask("llookup:a.wavi@alice"), /^error:AT0401-/u);
  });
});

t.test("someone who fails to log in again and again is slowed down", async (t) => {
  const slept: number[] = [];
  const clock = {
    ...systemClock,
    sleep: (ms: number, signal: AbortSignal) => {
      if (ms >= 250 && ms <= 10_000) slept.push(ms);
      return systemClock.sleep(Math.min(ms, 100_000) === ms && ms <= 10_000 ? 1 : ms, signal);
    },
  };
  await using world = await WireWorld.open(t.testdir(), {
    settings: { ...settings, expiryJobMs: 1e6, notificationJobMs: 1e6 },
    clock,
  });
  await world.add("@alice");
  await world.activate("@alice");
  const U = await world.unauthenticated("@alice");
  await U.data("from:@alice");
  for (let i = 0; i < 12; i += 1) t.match(await U.ask("cram:00"), /^error:AT0401-/u);
  t.same(slept, [250, 500, 1_000, 2_000, 4_000, 8_000, 10_000]);
});
