import { mkdir, readFile, writeFile } from "node:fs/promises";
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
import { freePort } from "../../fixtures/mqtt-mosquitto.js";
import { WireClient } from "../../fixtures/wire-client.js";

// Two platform processes, each with one port for all its atSigns, told apart by server name, and real clients of theirs.
// The names are under `localhost`, which needs no DNS: east.localhost, alice.east.localhost, bob.west.localhost, …

const never = new AbortController().signal;
const [alice, bob, carol] = [parseAtSign("@alice"), parseAtSign("@bob"), parseAtSign("@carol")];

interface Ready {
  readonly directoryPort: number;
}

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

t.test("two platforms with one port each", async (t) => {
  await using cli = await bundleCli();
  const dir = t.testdir();
  const state = { east: join(dir, "east"), west: join(dir, "west") };
  const cas = { east: await DevCa.open(state.east, systemClock), west: await DevCa.open(state.west, systemClock) };
  const ca = cas.east.caPem + cas.west.caPem;
  const ports = { east: await freePort(), west: await freePort() };
  type Side = keyof typeof state;

  const ok = async (side: Side, ...args: string[]): Promise<unknown> => {
    const command = new AtedgeProcess(cli.path, ["platform", ...args, "--state", state[side], "--json"]);
    const { code, out, err } = await command.ended;
    if (code !== 0) throw new Error(err);
    return JSON.parse(out) as unknown;
  };
  const start = async (side: Side): Promise<{ child: AtedgeProcess; ready: Ready }> => {
    const child = new AtedgeProcess(cli.path, ["platform", "--config", join(dir, `${side}.toml`), "--json"]);
    const ready = await child.until(
      ({ out }) => (out.includes("\n") ? (JSON.parse(out) as Ready) : undefined),
      "ready",
    );
    return { child, ready };
  };
  const config = (side: Side, other: Side, more: string): Promise<void> =>
    writeFile(
      join(dir, `${side}.toml`),
      `state = "${side}"\nhost = "${side}.localhost"\nsharedPort = ${ports[side]}\ncaFile = "${other}/ca.pem"\n${more}\n`,
    );
  await config("east", "west", "directoryPort = 0");
  const east = await start("east");
  const { directoryPort } = east.ready;
  await config("west", "east", `directoryPort = 0\ndirectory = "east.localhost:${directoryPort}"`);
  let west = await start("west");
  t.teardown(() => Promise.all([east.child, west.child].map((child) => child[Symbol.asyncDispose]())));

  const directory = { kind: "directory", host: "east.localhost", port: directoryPort } as const;
  const own = async (side: Side, atSign: AtSign): Promise<AtKeys> => {
    const secretFile = join(dir, `secret-${atSign}`);
    const added = await ok(side, "add", atSign, "--cram-secret-file", secretFile);
    const host = `${atSign.slice(1)}.${side}.localhost`;
    t.match(added, { atSign, host, port: ports[side] });
    if (side !== "east") await ok("east", "point", atSign, `${host}:${ports[side]}`);
    const secret = new Secret((await readFile(secretFile, "utf8")).trim());
    await mkdir(join(dir, "keys"), { recursive: true });
    return await onboard({ atSign, secret, directory, ca, keyFile: join(dir, "keys", `${atSign}.atKeys`) }, never);
  };
  const keys = {
    alice: await own("east", alice),
    bob: await own("west", bob),
    carol: await own("west", carol),
  };
  const open = (atSign: AtSign, ownKeys: AtKeys): Promise<AtClient> =>
    openAtClient({ atSign, keys: ownKeys, directory, ca }, never);
  await using a = await open(alice, keys.alice);
  await using b = await open(bob, keys.bob);
  await using c = await open(carol, keys.carol);

  const sendAndReceive = async (from: AtClient, to: AtClient, value: string): Promise<void> => {
    const stop = new AbortController();
    const sinceMs = Date.now() - 1;
    const received = (async () => {
      for await (const notification of to.subscribe({ regex: "greeting\\.sni", since: sinceMs }, stop.signal)) {
        const { text } = await notification.decrypt(never);
        if (text === value) return notification.from;
      }
      return undefined;
    })();
    await untilItWorks(() => from.notify({ to: to.atSign, key: "greeting.sni", value, ttlnMs: 600_000 }, never));
    t.equal(await received, from.atSign, `${from.atSign} to ${to.atSign}: ${value}`);
    stop.abort();
  };

  await t.test("bring notifications to one another, and within", async () => {
    await sendAndReceive(a, b, "from east to west");
    await sendAndReceive(b, a, "from west to east");
    await sendAndReceive(c, a, "from another on that port");
    await sendAndReceive(b, c, "within the west");
  });

  await t.test("look up what is shared and what is public", async (t) => {
    await a.put({ key: "shared.sni", for: bob }, "for bob", {}, never);
    t.equal((await b.get({ key: "shared.sni", by: alice }, { fresh: true }, never))?.value, "for bob");
    await c.put({ key: "open.sni", for: "public" }, "for all", {}, never);
    t.equal((await a.get({ key: "open.sni", by: carol, for: "public" }, { fresh: true }, never))?.value, "for all");
  });

  await t.test("take an atServer for none of its neighbours on the same port", async (t) => {
    const asBob = await WireClient.open({
      port: ports.east,
      serverName: "alice.east.localhost",
      caPem: ca,
      identity: await cas.west.leafFor(["bob.west.localhost"]),
    });
    t.teardown(() => asBob.close());
    t.equal(await asBob.chunk(), "@");
    t.match(await asBob.ask("from:@carol"), /^error:AT0401-Exception: Certificate Verification Failed/u);
    t.match(await asBob.ask("from:@bob"), /^data:proof:/u);
    t.match(await asBob.ask("pol"), /^error:AT0015-/u, "and bob's server published no proof");
  });

  await t.test("deliver later what came while the other was killed", async (t) => {
    await west.child.stop("SIGKILL");
    const id = await a.notify({ to: bob, key: "greeting.sni", value: "while away", ttlnMs: 600_000 }, never);
    while ((await a.notificationStatus(id, never)) !== "errored") await systemClock.sleep(20, never);
    west = await start("west");
    while ((await a.notificationStatus(id, never)) !== "delivered") await systemClock.sleep(20, never);
    t.pass("delivered");
    await sendAndReceive(b, a, "and back");
  });

  await t.test("move an atSign from one to the other under a new name", async (t) => {
    const file = join(dir, "alice.atsign");
    await ok("east", "export", "@alice", file, "--move");
    t.match(await ok("west", "import", file), { host: "alice.west.localhost", port: ports.west });
    await ok("east", "point", "@alice", `alice.west.localhost:${ports.west}`);
    await sendAndReceive(b, a, "after the move");
    t.same(await ok("east", "list"), []);
  });
});
