import { rmSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import t, { type Test } from "tap";
import Database from "better-sqlite3";
import { openStore } from "../../agent/store/store.js";
import { Uplink } from "../../agent/uplink/uplink.js";
import type { ReceivedNotification } from "../../atplatform/client/at-client.js";
import { systemClock } from "../../core/clock.js";
import { silentLog } from "../../core/log.js";
import { TaskGroup } from "../../core/scope.js";
import { signKeyProof } from "../../messages/key-proof.js";
import { atKeyOf, proofKey, receiptKey, telemetryKey } from "../../messages/names.js";
import { OwnKeyGuard } from "../../messages/own-key.js";
import { PeerTrust } from "../../messages/peer-trust.js";
import { seal } from "../../messages/seal.js";
import { TestPlatform } from "../fixtures/at-platform.js";
import { FaultProxy } from "../fixtures/faults/fault-proxy.js";
import { tempFolder } from "../fixtures/temp-folder.js";
import { ADDRESS, FakeReader, US } from "../fixtures/uplink/fake-world.js";

/** The agent's store, uplink and client, a real atPlatform, and a link in between that does what it is told. */
async function linked(t: Test) {
  const folder = tempFolder(t);
  const platform = await TestPlatform.open(join(folder, "platform"));
  const ours = await platform.onboard(US);
  const theirs = await platform.onboard("@grower");
  const server = platform.platform.list().find(({ atSign }) => atSign === US);
  const proxy = await FaultProxy.open(server?.port ?? 0);
  const directory = new Database(join(folder, "platform", "directory.db"));
  const pointTo = (host: string, port: number): unknown =>
    directory.prepare("UPDATE entry SET host = ?, port = ? WHERE name = ?").run(host, port, US.slice(1));
  pointTo("localhost", proxy.port);

  const watcher = await platform.client("@grower");
  const publicText = await watcher.publicKeyOf(watcher.atSign, {}, AbortSignal.timeout(10_000));
  const reader = new FakeReader("@grower", { privateKey: theirs.encryption.privateKey, publicText });
  const reconnect = { firstMs: 50, maxMs: 400 };
  const client = await platform.client(US, { commandTimeoutMs: 800, connectTimeoutMs: 800, reconnect });
  const store = await openStore({
    ...{ folder: join(folder, "agent"), readers: [reader.atSign], clock: systemClock, log: silentLog },
    ...{ machineId: "ab".repeat(32), commitIntervalMs: 0, space: { maxBytes: 16 << 20, minFreeBytes: 0 } },
  });
  const trust = new PeerTrust({
    us: US,
    address: ADDRESS,
    records: {
      publicKeyOf: (_, options, signal) => client.publicKeyOf(reader.atSign, options, signal),
      sharedRecord: async (peer) => {
        const { aesKey, party } = reader;
        const envelope = signKeyProof({ from: peer, to: US, aesKey }, party.privateKey);
        return { text: seal({ ...envelope }, atKeyOf(US, proofKey(ADDRESS), peer), aesKey), aesKey };
      },
    },
    configured: new Map(),
    remembered: store.pins,
    log: silentLog,
  });
  // Waits between tries are of no interest.
  const clock = { ...systemClock, sleep: (ms: number, signal: AbortSignal) => systemClock.sleep(ms / 10, signal) };
  const uplink = new Uplink({
    ...{ us: US, address: ADDRESS, client, store, trust, clock, log: silentLog },
    ownKeys: new OwnKeyGuard({ remembered: store.pins, accepted: new Set(), howToAccept: String }),
    privateKey: ours.encryption.privateKey,
    ...{ maxBatch: 10, maxDelayMs: 20, stateIntervalMs: 1_000 },
    readers: [{ atSign: reader.atSign, consumer: "keep", receipts: true }],
    info: () => ({ version: "1", drivers: [], commands: [], limits: {}, health: { state: "ok", parts: [] } }),
  });
  const stop = new AbortController();
  const group = new TaskGroup(stop.signal);
  group.start((signal) => uplink.run(signal));
  group.start(async (signal) => {
    const key = telemetryKey(ADDRESS);
    for await (const notification of watcher.subscribe({ regex: key, since: "stored" }, signal)) {
      if (notification.key !== key) continue;
      const { text, aesKey } = await notification.decrypt(signal);
      reader.telemetry(text, aesKey);
    }
  });
  const report = async (): Promise<void> => {
    const key = receiptKey(ADDRESS);
    for (const text of reader.receipts("keep")) {
      const notification: ReceivedNotification = {
        ...{ id: "r", from: reader.atSign, to: US, key, atKey: atKeyOf(US, key, reader.atSign) },
        ...{ operation: "update", messageType: "key", epochMillis: Date.now(), isEncrypted: true, value: "" },
        decrypt: async () => ({ text, aesKey: reader.aesKey }),
      };
      await uplink.receive(notification, stop.signal);
    }
  };
  let accepted = 0;
  t.teardown(async () => {
    stop.abort();
    await group[Symbol.asyncDispose]();
    await client[Symbol.asyncDispose]();
    await watcher[Symbol.asyncDispose]();
    await store.close();
    directory.close();
    await proxy[Symbol.asyncDispose]();
    await platform[Symbol.asyncDispose]();
    rmSync(folder, { recursive: true, force: true });
  });
  return {
    proxy,
    pointTo,
    link: () => client.health.command,
    async publish(count: number): Promise<void> {
      await store.publish(Array.from({ length: count }, (_, at) => ({ name: "n", value: accepted + at + 1 })));
      accepted += count;
    },
    /** What is wrong once all that was accepted should be there. */
    async faults(): Promise<string[]> {
      const id = store.streams.list().find((stream) => stream.class === "measurement")?.id ?? 0;
      const waiting = (): number => store.streams.formed(id).length + store.streams.waiting(id, 10_000);
      for (let tries = 0; tries < 600 && waiting() > 0; tries += 1) {
        await sleep(50);
        await report().catch(() => undefined); // the key of the reader may be asked of a link that is down
      }
      const { values, lost } = reader.got("measurement");
      const twice = values.length - new Set(values).size;
      const sum =
        values.length + lost === accepted ? [] : [`${values.length} came, ${lost} are declared of ${accepted}`];
      return [...(waiting() > 0 ? ["the outbox does not drain"] : []), ...(twice ? [`${twice} twice`] : []), ...sum];
    },
  };
}

t.test("a link that goes dead without a word, ends in the middle of a TLS record, or leads nowhere", async (t) => {
  const world = await linked(t);
  const { proxy } = world;
  await world.publish(25);
  t.same(await world.faults(), []);

  await t.test("half-open TCP", async (t) => {
    proxy.fault = "half-open";
    await world.publish(25);
    for (let tries = 0; tries < 100 && proxy.swallowedBytes === 0; tries += 1) await sleep(50);
    await sleep(1_000);
    t.ok(proxy.swallowedBytes > 0, "nobody said that the connection is dead");
    proxy.fault = "pass";
    t.same(await world.faults(), []);
  });

  await t.test("truncated TLS records", async (t) => {
    for (let round = 0; round < 5; round += 1) {
      proxy.fault = "truncate";
      const before = proxy.truncated;
      await world.publish(10);
      for (let tries = 0; tries < 100 && proxy.truncated === before; tries += 1) await sleep(20);
      proxy.fault = "pass";
      await sleep(100);
    }
    t.ok(proxy.truncated >= 5, `${proxy.truncated} records were cut`);
    t.same(await world.faults(), []);
  });

  await t.test("a name that does not resolve, and a port at which nobody listens", async (t) => {
    const cut = async (host: string, port: number): Promise<void> => {
      world.pointTo(host, port);
      proxy.fault = "truncate"; // so that it has to be looked up again
      await world.publish(25);
      for (let tries = 0; tries < 200 && world.link().lastErrorCode === undefined; tries += 1) await sleep(20);
      await sleep(700);
    };
    await cut("no-such-host.invalid", proxy.port);
    t.ok(world.link().lastErrorCode !== undefined, String(world.link().lastErrorCode));
    await cut("localhost", 1);
    proxy.fault = "pass";
    world.pointTo("localhost", proxy.port);
    t.same(await world.faults(), []);
  });
});
