import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import t, { type Test } from "tap";
import { MemorySyncStore } from "../../../atplatform/client/sync-memory-store.js";
import type { SyncStore } from "../../../atplatform/client/sync-store.js";
import { Sync } from "../../../atplatform/client/sync.js";
import { openSqliteSyncStore } from "../../../atplatform/sync-store/sqlite-sync-store.js";
import { bob, clientOf, welcoming } from "../../fixtures/at-server-script.js";
import { TestPlatform } from "../../fixtures/at-platform.js";
import { ManualClock } from "../../fixtures/manual-clock.js";
import { openScripted } from "../../fixtures/scripted-server.js";

const never = new AbortController().signal;

async function namesOf(sync: Sync): Promise<readonly string[]> {
  const names: string[] = [];
  for await (const name of sync.names()) names.push(name);
  return names.sort();
}

const ownNames = async (sync: Sync): Promise<readonly string[]> =>
  (await namesOf(sync)).filter((name) => name.includes(".demo"));

t.test("a sync store", async (t) => {
  const contract = async (t: Test, store: SyncStore): Promise<void> => {
    const record = { value: "v", metadata: { version: 1, isEncrypted: true, createdAtMs: 1_700_000_000_000 } };
    const change = (key: string, value: string | null) =>
      store.saveChange({ key, command: `c ${value ?? ""}`, record: value === null ? null : { value, metadata: null } });
    t.equal(await store.position(), -1);
    await store.savePage(
      [
        { key: "b", ...record, commitId: 1 },
        { key: "a", value: null, metadata: null, commitId: 4 },
        { key: "c", deleted: true, commitId: 5 },
      ],
      7,
    );
    t.equal(await store.position(), 7);
    t.same(await store.record("b"), { key: "b", ...record, commitId: 1 });
    t.same(
      (await store.records(undefined, 1)).map(({ key }) => key),
      ["a"],
    );
    t.same(
      (await store.records("a", 9)).map(({ key }) => key),
      ["b"],
    );
    for (const [key, value] of [
      ["b", "1"],
      ["d", "2"],
      ["b", "3"],
      ["a", null],
    ] as const)
      await change(key, value);
    const changes = await store.changes(0, 9);
    t.same(
      changes.map(({ key, command }) => [key, command]),
      [
        ["d", "c 2"],
        ["b", "c 3"],
        ["a", "c "],
      ],
    );
    t.ok(changes.every(({ serial }, index) => serial > (changes[index - 1]?.serial ?? 0)));
    t.same(await store.changes(changes[0]?.serial ?? 0, 1), [changes[1]]);
    await change("b", "4"); // while "3" is under way
    const [d, b, a] = changes.map(({ key, serial }) => ({ key, serial }));
    if (!d || !b || !a) throw new Error("there are three changes");
    await store.savePushed([
      { ...d, refusedWith: "AT0009" },
      { ...b, commitId: 8 },
      { ...a, commitId: 9 },
    ]);
    t.same(
      (await store.everyChange()).map(({ key, refusedWith }) => [key, refusedWith]),
      [
        ["d", "AT0009"],
        ["b", undefined],
      ],
    );
    t.equal((await store.change("b"))?.record?.value, "4");
    t.equal(await store.record("a"), undefined);
    t.equal((await store.record("b"))?.commitId, 1);
    const [again] = await store.changes(0, 9);
    await store.savePushed([{ key: "b", serial: again?.serial ?? 0, commitId: 12 }]);
    t.match(await store.record("b"), { value: "4", commitId: 12 });
    await store.dropChange("d");
    t.same(await store.everyChange(), []);
  };

  await t.test("in memory keeps the contract", (t) => contract(t, new MemorySyncStore()));

  await t.test("in SQLite keeps it too, over an end of the process, and for one atSign", async (t) => {
    const path = join(t.testdir(), "alice.db");
    {
      await using store = await openSqliteSyncStore(path, "@alice");
      await contract(t, store);
      await store.saveChange({ key: "later", command: "c", record: null });
    }
    await t.rejects(openSqliteSyncStore(path, "@bob"), { code: "SYNC_STORE_MISMATCH" });
    await using store = await openSqliteSyncStore(path, "@alice");
    t.equal(await store.position(), 7);
    t.equal((await store.record("b"))?.value, "4");
    t.match(await store.changes(0, 9), [{ key: "later", record: null }]);
  });
});

t.test("Sync against our atServer", async (t) => {
  const folder = t.testdir();
  await using platform = await TestPlatform.open(folder);
  await platform.onboard("@alice");
  await platform.onboard("@bob");
  await using here = await platform.client("@alice");
  await using there = await platform.client("@alice");
  await using store = await openSqliteSyncStore(join(folder, "here.db"), "@alice");
  const [a, b] = [new Sync({ client: here, store }), new Sync({ client: there, store: new MemorySyncStore() })];

  await t.test("brings what was there, page after page, and what is changed on either side", async (t) => {
    for (let n = 0; n < 60; n += 1) await there.put({ key: `old${n}.demo` }, `value ${n}`, {}, never);
    t.ok((await a.once(never)).pulled >= 60);
    t.equal((await ownNames(a)).length, 60);
    t.equal((await a.get({ key: "old59.demo" }, never))?.value, "value 59");
    await b.once(never);
    await a.put({ key: "lines.demo" }, "one\ntwo", {}, never);
    await a.put({ key: "bytes.demo" }, Buffer.from([0, 255, 1]), {}, never);
    await a.put({ key: "open.demo", for: "public" }, "for\nall", {}, never);
    await a.put({ key: "for-bob.demo", for: bob }, "dear bob", {}, never);
    await a.delete({ key: "old7.demo" });
    t.equal((await a.get({ key: "lines.demo" }, never))?.value, "one\ntwo", "is readable before it is sent");
    t.match(await a.once(never), { pushed: 5, refused: 0 });
    t.match(await a.once(never), { pushed: 0, pulled: 5 }); // its own changes come back, once
    await b.once(never);
    t.equal((await b.get({ key: "lines.demo" }, never))?.value, "one\ntwo");
    t.same((await b.get({ key: "bytes.demo" }, never))?.bytes, Buffer.from([0, 255, 1]));
    t.match(await b.get({ key: "open.demo", for: "public" }, never), { value: "for\nall", signature: "valid" });
    t.equal(await b.get({ key: "old7.demo" }, never), undefined);
    await using reader = await platform.client("@bob");
    t.equal((await reader.get({ key: "for-bob.demo", by: here.atSign }, {}, never))?.value, "dear bob");
    t.same(await ownNames(a), await ownNames(b));
  });

  await t.test("lets a change made here win over one made elsewhere meanwhile", async (t) => {
    await there.put({ key: "both.demo" }, "theirs", {}, never);
    await a.put({ key: "both.demo" }, "ours", {}, never);
    await there.delete({ key: "old8.demo" }, never);
    await a.put({ key: "old8.demo" }, "still here", {}, never);
    t.match(await a.once(never), { overruled: 2, pushed: 2 });
    await b.once(never);
    t.equal((await b.get({ key: "both.demo" }, never))?.value, "ours");
    t.equal((await there.get({ key: "old8.demo" }, {}, never))?.value, "still here");
  });

  await t.test("keeps changes that are made without a connection, and sends them when there is one", async (t) => {
    await platform.stop();
    await a.put({ key: "offline.demo" }, "kept", {}, never);
    await a.put({ key: "offline.demo" }, "kept in its last form", {}, never);
    t.equal((await a.get({ key: "offline.demo" }, never))?.value, "kept in its last form");
    await platform.start();
    t.match(await a.once(never), { pushed: 1 });
    t.equal((await there.get({ key: "offline.demo" }, {}, never))?.value, "kept in its last form");
  });

  await t.test("runs by itself when the atServer tells of a change, or this side has one", async (t) => {
    const clock = new ManualClock(Date.now());
    const stop = new AbortController();
    const self = new Sync({ client: there, store: new MemorySyncStore(), clock });
    const running = self.run(stop.signal);
    const until = async (fits: () => Promise<boolean>): Promise<void> => {
      while (!(await fits())) {
        await clock.advance(5_000);
        await sleep(20);
      }
    };
    await until(async () => self.health.runs > 0);
    await here.put({ key: "pushed.demo" }, "by stats", {}, never);
    await until(async () => (await self.get({ key: "pushed.demo" }, never))?.value === "by stats");
    await self.put({ key: "own.demo" }, "from there", {}, never);
    await until(async () => (await here.get({ key: "own.demo" }, {}, never))?.value === "from there");
    stop.abort();
    await running;
    t.equal(self.health.state, "ended");
  });

  await t.test("shows what has expired no more", async (t) => {
    const clock = new ManualClock(Date.now());
    const self = new Sync({ client: here, store: new MemorySyncStore(), clock });
    await self.put({ key: "short.demo" }, "lived", { ttlMs: 60_000 }, never);
    t.equal((await self.get({ key: "short.demo" }, never))?.value, "lived");
    await clock.advance(61_000);
    t.equal(await self.get({ key: "short.demo" }, never), undefined);
    t.same(await ownNames(self), []);
  });

  await t.test("refuses names that are not synced", async (t) => {
    await t.rejects(a.delete({ key: "_private" }), { code: "SYNTAX_INVALID" });
  });
});

t.test("Sync against a scripted atServer", async (t) => {
  const entry = (commitId: number, atKey: string, operation = "*"): unknown => ({
    atKey,
    value: operation === "-" ? null : "plain",
    metadata: operation === "-" ? null : { isEncrypted: "false", version: "0" },
    commitId,
    operation,
  });

  await t.test("looks past empty pages, as the reference filters a page after it has cut it", async (t) => {
    const asked: string[] = [];
    await using server = await openScripted((peer) =>
      peer.answer(
        welcoming(bob, (line) => {
          if (line === "stats:3") return 'data: [{"id":"3","name":"lastCommitID","value":"70"}]';
          if (!line.startsWith("sync:")) return undefined;
          asked.push(line);
          return line.startsWith("sync:from:49:")
            ? JSON.stringify([entry(60, "seen.demo@bob"), entry(61, "privatekey:x")])
            : "[]";
        }),
      ),
    );
    await using client = await clientOf(server);
    const store = new MemorySyncStore();
    const sync = new Sync({ client, store, regex: "\\.demo" });
    t.match(await sync.once(never), { pulled: 1 });
    t.same(
      asked,
      [-1, 24, 49, 61].map((from) => `sync:from:${from}:limit:25:\\.demo`),
    );
    t.equal(await store.position(), 70);
    t.same(await namesOf(sync), ["seen.demo@bob"]);
    t.match(await sync.once(never), { pulled: 0 });
    t.equal(asked.length, 4, "what is not visible is asked for once");
  });

  await t.test("does not go round in circles when the atServer repeats itself", async (t) => {
    await using server = await openScripted((peer) =>
      peer.answer(
        welcoming(bob, (line) => {
          if (line === "stats:3") return 'data: [{"id":"3","name":"lastCommitID","value":"9"}]';
          return line.startsWith("sync:") ? JSON.stringify([entry(5, "a.demo@bob")]) : undefined;
        }),
      ),
    );
    await using client = await clientOf(server);
    await t.rejects(new Sync({ client, store: new MemorySyncStore() }).once(never), { code: "ANSWER_INVALID" });
  });

  await t.test("sends again what was missing or failed, sets aside what is refused, never writes ~NL~", async (t) => {
    const batches: string[] = [];
    await using server = await openScripted((peer) =>
      peer.answer(
        welcoming(bob, (line) => {
          if (line === "stats:3") return 'data: [{"id":"3","name":"lastCommitID","value":"null"}]';
          if (!line.startsWith("batch:")) return undefined;
          batches.push(line);
          const commands = JSON.parse(line.slice("batch:".length)) as { id: number; command: string }[];
          return JSON.stringify(
            commands.flatMap(({ id, command }): unknown[] => {
              if (command.includes("refused.demo"))
                return [{ id, response: { error_code: "AT0009", error_message: "no" } }];
              if (batches.length < 3 && command.includes("missing.demo")) return [];
              if (batches.length < 3 && command.includes("later.demo")) {
                return [{ id, response: { error_code: "AT0024", error_message: "paused" } }];
              }
              return [{ id, response: { data: String(100 + id) } }];
            }),
          );
        }),
      ),
    );
    await using client = await clientOf(server);
    const sync = new Sync({ client, store: new MemorySyncStore() });
    for (const name of ["missing", "later", "refused", "ok1", "ok2", "ok3"]) {
      await sync.put({ key: `${name}.demo` }, `${name}\nsecond line`, { encrypt: name !== "ok3" }, never);
    }
    t.match(await sync.once(never), { pushed: 3, refused: 1 });
    t.match(
      (await sync.refused()).map(({ key, refusedWith }) => [key, refusedWith]),
      [["refused.demo@bob", "AT0009"]],
    );
    t.match(await sync.once(never), { pushed: 2, refused: 0 });
    t.equal(batches.length, 3);
    t.notOk(batches.some((line) => line.includes("~NL~") || line.includes("\\n")));
    t.equal((await sync.get({ key: "ok3.demo" }, never))?.value, "ok3\nsecond line");
    await sync.forget({ key: "refused.demo" });
    t.same(await sync.refused(), []);
    t.equal(await sync.get({ key: "refused.demo" }, never), undefined);
  });
});
