import { randomUUID } from "node:crypto";
import { mkdir, readFile, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import { type AtClient, openAtClient } from "../../../atplatform/client/at-client.js";
import { onboard } from "../../../atplatform/client/onboard.js";
import type { AtKeys } from "../../../atplatform/crypto/at-keys.js";
import { parseAtSign, type AtSign } from "../../../atplatform/protocol/at-sign.js";
import { DevCa } from "../../../atplatform/server/dev-ca.js";
import { systemClock } from "../../../core/clock.js";
import { codeOf } from "../../../core/errors.js";
import { Secret } from "../../../core/secret.js";
import { AtedgeProcess } from "../../fixtures/atedge-process.js";
import { bundleCli } from "../../fixtures/bundled-cli.js";

// `atedge platform export | import | point`: backup, restore, and a move between two processes with clients connected.

const never = new AbortController().signal;
const [alice, bob] = [parseAtSign("@alice"), parseAtSign("@bob")];

interface Ready {
  readonly directoryPort: number;
  readonly atSigns: readonly { readonly atSign: string; readonly host: string; readonly port: number }[];
}

/** What works in the end, although the link may break any number of times. */
async function untilItWorks<T>(work: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await work();
    } catch (error) {
      if (codeOf(error) === undefined) throw error;
      await systemClock.sleep(20, never);
    }
  }
}

t.test("the file of an atSign", async (t) => {
  await using cli = await bundleCli();
  const dir = t.testdir();
  const [stateA, stateB] = [join(dir, "a"), join(dir, "b")];
  const cas = [await DevCa.open(stateA, systemClock), await DevCa.open(stateB, systemClock)];
  const ca = cas.map(({ caPem }) => caPem).join("");
  await writeFile(join(dir, "a.toml"), 'state = "a"\ncaFile = "b/ca.pem"\ndirectoryPort = 0\n');

  const run = async (...args: string[]): Promise<{ code: number | null; out: string; err: string }> =>
    await new AtedgeProcess(cli.path, ["platform", ...args]).ended;
  const ok = async (...args: string[]): Promise<unknown> => {
    const { code, out, err } = await run(...args, "--json");
    if (code !== 0) throw new Error(err);
    return JSON.parse(out) as unknown;
  };
  const start = async (config: string): Promise<{ child: AtedgeProcess; ready: Ready }> => {
    const child = new AtedgeProcess(cli.path, ["platform", "--config", join(dir, config), "--json"]);
    const ready = await child.until(
      ({ out }) => (out.includes("\n") ? (JSON.parse(out) as Ready) : undefined),
      "ready",
    );
    return { child, ready };
  };

  const { child: a, ready } = await start("a.toml");
  const directory = { kind: "directory", host: "localhost", port: ready.directoryPort } as const;
  await writeFile(
    join(dir, "b.toml"),
    `state = "b"\ncaFile = "a/ca.pem"\ndirectoryPort = 0\ndirectory = "localhost:${ready.directoryPort}"\n`,
  );
  const { child: b } = await start("b.toml");
  t.teardown(() => Promise.all([a, b].map((child) => child[Symbol.asyncDispose]())));

  const own = async (atSign: AtSign): Promise<AtKeys> => {
    const secretFile = join(dir, `secret-${atSign}`);
    await ok("add", atSign, "--cram-secret-file", secretFile, "--state", stateA);
    const secret = new Secret((await readFile(secretFile, "utf8")).trim());
    await mkdir(join(dir, "keys"), { recursive: true });
    return await onboard({ atSign, secret, directory, ca, keyFile: join(dir, "keys", `${atSign}.atKeys`) }, never);
  };
  const [aliceKeys, bobKeys] = [await own(alice), await own(bob)];
  const open = (atSign: AtSign, keys: AtKeys): Promise<AtClient> =>
    openAtClient({ atSign, keys, directory, ca }, never);

  await t.test("is copied while it is in use, for the owner's eyes only, and never over another", async (t) => {
    await using client = await open(alice, aliceKeys);
    await client.put({ key: "before.move" }, "kept", {}, never);
    const file = join(dir, "backup.atsign");
    t.match(await ok("export", "@alice", file, "--state", stateA), { atSign: "@alice", file, moved: false });
    t.equal((await stat(file)).mode & 0o777, 0o600);
    const again = await run("export", "@alice", file, "--state", stateA);
    t.equal(again.code, 1);
    t.match(again.err, /is there already/u);
    t.match((await run("export", "@carol", `${file}.c`, "--state", stateA)).err, /@carol is not hosted here/u);
    t.match((await run("import", file, "--state", stateA)).err, /@alice is hosted here already/u);
    t.equal((await client.get({ key: "before.move" }, { fresh: true }, never))?.value, "kept", "it is still served");
  });

  await t.test("is refused when it is damaged or something else", async (t) => {
    const bytes = await readFile(join(dir, "backup.atsign"));
    bytes.fill(0x55, 5_000, 20_000);
    await writeFile(join(dir, "damaged"), bytes);
    await writeFile(join(dir, "other"), "not a database at all");
    for (const name of ["damaged", "other", "absent"]) {
      const { code, err } = await run("import", join(dir, name), "--state", stateB);
      t.equal(code, 1, name);
      t.match(err, /is damaged|cannot be read as the file/u);
    }
  });

  await t.test("moves to another process while clients are connected, and nothing is lost", async (t) => {
    await using owner = await open(alice, aliceKeys);
    await using other = await open(bob, bobKeys);
    const kept: string[] = [];
    const sent = { toAlice: new Set<string>(), toBob: new Set<string>() };
    const got = { atAlice: new Set<string>(), atBob: new Set<string>() };
    const receive = async (client: AtClient, into: Set<string>, signal: AbortSignal): Promise<void> => {
      for await (const { id } of client.subscribe({ regex: "count\\.move@", since: "stored" }, signal)) into.add(id);
    };
    const stop = new AbortController();
    const receiving = [receive(owner, got.atAlice, stop.signal), receive(other, got.atBob, stop.signal)];
    let stopWriting = false;
    const write = async (): Promise<void> => {
      for (let n = 0; !stopWriting; n += 1) {
        await untilItWorks(() => owner.put({ key: `k${n}.move` }, `value ${n}`, {}, never));
        kept.push(`k${n}.move`);
      }
    };
    const notify = async (client: AtClient, to: AtSign, into: Set<string>): Promise<void> => {
      while (!stopWriting) {
        const id = randomUUID();
        await untilItWorks(() => client.notify({ id, to, key: "count.move", value: id, ttlnMs: 600_000 }, never));
        into.add(id);
        await systemClock.sleep(10, never);
      }
    };
    const working = [write(), notify(other, alice, sent.toAlice), notify(owner, bob, sent.toBob)];
    const enough = async (least: number): Promise<void> => {
      const counts = (): number[] => [kept.length, sent.toAlice.size, sent.toBob.size];
      const wanted = counts().map((count) => count + least);
      while (counts().some((count, at) => count < (wanted[at] ?? 0))) await systemClock.sleep(20, never);
    };
    await enough(10);
    const file = join(dir, "moved.atsign");
    await ok("export", "@alice", file, "--move", "--state", stateA);
    const place = (await ok("import", file, "--state", stateB)) as { host: string; port: number };
    await ok("point", "@alice", `${place.host}:${place.port}`, "--state", stateA);
    await enough(10);
    stopWriting = true;
    await Promise.all(working);

    for (const key of kept) {
      const record = await owner.get({ key }, { fresh: true }, never);
      t.equal(record?.value, `value ${key.slice(1, key.indexOf("."))}`, key);
    }
    const missing = (all: Set<string>, there: Set<string>): string[] => [...all].filter((id) => !there.has(id));
    for (let waits = 0; waits < 500; waits += 1) {
      if (missing(sent.toAlice, got.atAlice).length + missing(sent.toBob, got.atBob).length === 0) break;
      await systemClock.sleep(20, never);
    }
    t.same(missing(sent.toAlice, got.atAlice), []);
    t.same(missing(sent.toBob, got.atBob), []);
    t.comment(`${kept.length} records, ${sent.toAlice.size} and ${sent.toBob.size} notifications`);
    t.same(await ok("list", "--state", stateB), [{ atSign: "@alice", ...place, listening: true }]);
    stop.abort();
    await Promise.allSettled(receiving);
  });

  await t.test("is restored from the copy when the atSign was removed, as it was then", async (t) => {
    await ok("remove", "@alice", "--state", stateB);
    const place = (await ok("import", join(dir, "backup.atsign"), "--state", stateB)) as { host: string; port: number };
    await ok("point", "@alice", `${place.host}:${place.port}`, "--state", stateA);
    await using client = await open(alice, aliceKeys);
    const text = await untilItWorks(
      async () => (await client.get({ key: "before.move" }, { fresh: true }, never))?.value,
    );
    t.equal(text, "kept");
    t.equal(await client.get({ key: "k0.move" }, { fresh: true }, never), undefined, "what came later is not in it");
  });

  await t.test("is exported and imported without a running platform, too", async (t) => {
    await b.stop();
    const file = join(dir, "offline.atsign");
    await ok("export", "@alice", file, "--move", "--state", stateB);
    t.same(await ok("list", "--state", stateB), []);
    t.match(await ok("import", file, "--state", stateB), { atSign: "@alice" });
    t.match(await ok("list", "--state", stateB), [{ atSign: "@alice", listening: false }]);
  });
});
