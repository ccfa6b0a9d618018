import { once } from "node:events";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { createServer } from "node:tls";
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
import { pkamSignature, spkiText, testKeys } from "../../fixtures/wire-world.js";

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
  const metricsPort = await freePort();
  await config("east", "west", `directoryPort = 0\nmetricsPort = ${metricsPort}`);
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

  await t.test("keep copies of what is shared, and give them up with it", async (t) => {
    const copied = async (): Promise<string | undefined> =>
      (await b.send("scan ^cached:@bob:copy", {}, never)).includes("copy.sni") ? "there" : undefined;
    await a.put({ key: "copy.sni", for: bob }, "v", { ttrSeconds: -1, ccd: true }, never);
    while ((await copied()) === undefined) await systemClock.sleep(20, never);
    await a.delete({ key: "copy.sni", for: bob }, never);
    while ((await copied()) !== undefined) await systemClock.sleep(20, never);
    t.pass("gone");
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

  await t.test("do not believe a peer that proves who it is and then speaks for another", async (t) => {
    const evil = await openEvil(await cas.west.leafFor(["evil.localhost"]));
    t.teardown(() => evil.close());
    await ok("east", "point", "@evil", `evil.localhost:${evil.port}`);
    const P = await WireClient.open({
      port: ports.east,
      serverName: "alice.east.localhost",
      caPem: ca,
      identity: await cas.west.leafFor(["evil.localhost"]),
    });
    t.teardown(() => P.close());
    await P.chunk();
    const [, name = "", uuid = ""] = (await P.data("from:@evil")).split(":");
    evil.proofs.set(name, "another");
    t.match(await P.ask("pol"), /^error:AT0401-Exception: Pol Authentication Failed/u, "a wrong proof");
    evil.proofs.set(name, uuid);
    t.equal(await P.ask("pol"), "@evil@");
    t.match(await P.ask("notify:id:l1:update:ttr:-1:@alice:x.sni@carol:lie"), /^error:AT0009-/u, "a copy of @carol's");
    t.match(await P.ask("notify:id:l2:update:ttr:-1:@bob:x.sni@evil:lie"), /^error:AT0009-/u, "for @bob");
    t.equal(await P.ask("notify:id:l3:update:ttr:-1:@alice:x.sni@evil:own"), "data:success\n@evil@");
    t.equal(await a.send("scan ^cached:.*x\\.sni", {}, never), '["cached:@alice:x.sni@evil"]');
  });

  await t.test("go on while the other hangs, and deliver when it does no more", async (t) => {
    west.child.kill("SIGSTOP");
    const id = await a.notify({ to: bob, key: "greeting.sni", value: "patience", ttlnMs: 600_000 }, never);
    const startMs = performance.now();
    const slow = a.get({ key: "other.sni", by: bob }, { fresh: true }, never);
    await using second = await open(alice, keys.alice);
    await second.put({ key: "meanwhile.sni" }, "v", {}, never);
    t.ok(performance.now() - startMs < 4_000, "others are served meanwhile");
    await t.rejects(slow, { code: /^AT00(?:04|08|23)$/u });
    west.child.kill("SIGCONT");
    while ((await a.notificationStatus(id, never)) !== "delivered") await systemClock.sleep(20, never);
  });

  await t.test("show their numbers to Prometheus", async (t) => {
    const page = await (await fetch(`http://127.0.0.1:${metricsPort}/metrics`)).text();
    t.match(page, /^atedge_platform_commands_total\{atsign="@alice"\} \d+$/mu);
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

/** An atServer that shows the proofs that it is told to. */
async function openEvil(identity: { readonly cert: string; readonly key: string }) {
  const proofs = new Map<string, string>();
  const server = createServer(identity, (socket) => {
    socket.on("error", () => undefined);
    socket.write("@");
    socket.setEncoding("utf8").on("data", (line: string) => {
      const [, name = ""] = /^lookup:(\S+)\n$/u.exec(line) ?? [];
      const proof = proofs.get(name);
      if (name === "signing_publickey@evil") socket.write(`data:${spkiText(testKeys.publicKey)}\n@`);
      else if (proof !== undefined) socket.write(`data:${pkamSignature(proof)}\n@`);
      else socket.write("error:AT0015-Exception: it does not exist in keystore\n@");
    });
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  return { port, proofs, close: () => server.close() };
}
