/**
 * The inputs of docs/understand/scale.md: what one device, one atSign and one message cost directory, atServer, collector,
 * JetStream and the operator's machine. No limits: the formulas there say what follows.
 *
 * Parts can be named: `node scripts/run.mjs test/bench/scale.ts atsigns fleet`. JetStream is measured when there is a
 * `nats-server` (Debian's will do; NATS_SERVER names another).
 */
import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdtemp, readdir, rm, stat } from "node:fs/promises";
import { connect } from "node:net";
import { cpus, tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { encryptText, decryptText } from "../../atplatform/crypto/aes-ctr.js";
import { Secret } from "../../core/secret.js";
import { applyPlan } from "../../deploy/fleet/apply.js";
import { FleetStore } from "../../deploy/fleet/fleet-store.js";
import { parseManifest } from "../../deploy/fleet/manifest.js";
import { planFleet } from "../../deploy/fleet/plan.js";
import { openSealed, seal } from "../../messages/seal.js";
import { playRole, ServerProcess } from "../fixtures/bench/server-roles.js";
import { BenchWire } from "../fixtures/bench/wire.js";

const FEW = 20;
const MANY = 120;
const LOOKUPS = 5_000;
const LOGINS = 200;
/** atSigns, and the connections that they have in all. */
const SENDERS = 8;
const CONNECTIONS = 32;
const NOTIFICATIONS = 4_000;
const PUBLISHED = 20_000;
const QUEUED = 5_000;
const DEVICES = 10_000;
const IN_FLIGHT = 256;
/** A pack of some thirty readings, as it is sent. */
const PACK = "v".repeat(1_400);
const forever = new AbortController().signal;

const PARTS = { atsigns, directory, logins, notifications, collector, fleet, jetstream };

async function measure(wanted: readonly string[]): Promise<void> {
  const [cpu] = cpus();
  process.stdout.write(`${cpus().length} x ${cpu?.model ?? "?"}, Node ${process.version}\n`);
  for (const [name, part] of Object.entries(PARTS)) {
    if (wanted.length > 0 && !wanted.includes(name)) continue;
    const folder = await mkdtemp(join(tmpdir(), "atedge-scale-"));
    try {
      await part(folder);
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  }
  process.exit();
}

/** What one more atSign that nobody talks to costs the process that hosts it. */
async function atsigns(folder: string): Promise<void> {
  const rss: number[] = [];
  for (const count of [FEW, MANY]) {
    const state = join(folder, String(count));
    const names = Array.from({ length: count }, (_, at) => `@a${at}`);
    const server = await ServerProcess.start("platform", state, ...names);
    rss.push(await server.rssBytes());
    if (count === MANY) {
      const files = await readdir(`/proc/${server.pid}/fd`);
      tell("open files an atSign", files.length / count, "");
      tell("disk of an atSign that is new", (await bytesOf(join(state, "atsigns"))) / count / 1e3, "kB");
    }
    await server.stop();
  }
  const [few = 0, many = 0] = rss;
  const each = (many - few) / (MANY - FEW);
  tell("memory of an idle atSign", each / 1e3, "kB");
  tell("memory of the process without them", (few - each * FEW) / 1e6, "MB");
}

async function directory(folder: string): Promise<void> {
  const names = Array.from({ length: FEW }, (_, at) => `@a${at}`);
  const server = await ServerProcess.start("platform", folder, ...names);
  const { ports, caPem } = server.ready;
  const port = ports["directory"] ?? 0;
  const wires = await Promise.all(Array.from({ length: 4 }, () => BenchWire.open(port, caPem)));
  await perSecond("look-ups/s on open connections", LOOKUPS, 4, (_, lane) => wires[lane]?.ask("a7"));
  await perSecond("look-ups/s, a connection each", 500, 4, async () => {
    const wire = await BenchWire.open(port, caPem);
    await wire.ask("a7");
    wire.socket.destroy();
  });
  for (const wire of wires) wire.socket.destroy();
  await server.stop();
}

/** What all devices do at once when a site, or an atServer, comes back. */
async function logins(folder: string): Promise<void> {
  const { server, owner } = await activated(folder, "@alice");
  await perSecond("logins/s with their TLS handshake", LOGINS, 4, async () => (await owner("@alice")).socket.destroy());
  await server.stop();
}

async function notifications(folder: string): Promise<void> {
  const senders = Array.from({ length: SENDERS }, (_, at) => `@s${at}`);
  const { server, owner } = await activated(folder, "@bob", ...senders);
  const monitor = await owner("@bob");
  monitor.socket.write("monitor\n");
  let arrived = 0;
  monitor.onLine = (line) => (arrived += line.includes(PACK) ? 1 : 0);
  const wires = await Promise.all(
    Array.from({ length: CONNECTIONS }, async (_, lane) => {
      const from = senders[lane % SENDERS] ?? "";
      return { from, wire: await owner(from) };
    }),
  );
  const send = (at: string, lane: number, to: string): Promise<string> | undefined => {
    const { wire, from } = wires[lane] ?? {};
    return wire?.ask(
      `notify:id:${at}:update:messageType:key:ttln:600000:${to}:telemetry.d${lane}.bench${from}:${PACK}`,
    );
  };
  // The first makes the way from atServer to atServer. Lanes of one sender: 0, SENDERS, 2 * SENDERS, …
  await lanes(SENDERS, SENDERS, (at, lane) => send(`w${at}`, lane, "@bob"));
  for (const [what, width] of [
    ["one atSign", 1],
    [`${SENDERS} atSigns`, SENDERS],
  ] as const) {
    while (arrived < SENDERS) await sleep(20);
    arrived = SENDERS;
    const startMs = performance.now();
    const inLanes = CONNECTIONS / SENDERS;
    await lanes(NOTIFICATIONS, width * inLanes, (at, lane) =>
      send(`${width}-${at}`, (lane % width) + Math.floor(lane / width) * SENDERS, "@bob"),
    );
    tell(`notifications/s that are taken from ${what}`, (1000 * NOTIFICATIONS) / (performance.now() - startMs), "");
    while (arrived < SENDERS + NOTIFICATIONS) await sleep(20);
    tell(
      `notifications/s of ${what} that arrive at a monitor`,
      (1000 * NOTIFICATIONS) / (performance.now() - startMs),
      "",
    );
  }
  const before = await bytesOf(join(folder, "atsigns"));
  await lanes(QUEUED, CONNECTIONS, (at, lane) => send(`q${at}`, lane, "@nobody"));
  tell("disk of a notification that waits", ((await bytesOf(join(folder, "atsigns"))) - before) / QUEUED / 1e3, "kB");
  for (const { wire } of wires) wire.socket.destroy();
  await server.stop();
}

/** Of the work on a pack what is the collector's alone: decrypt, check the seal, parse. */
function collector(): void {
  const key = randomBytes(32);
  const iv = randomBytes(16);
  const atKey = "@bob:telemetry.north.atedge@alice";
  const readings = Array.from({ length: 30 }, (_, at) => ({ n: `sensor/${at}`, u: "Cel", v: 20 + at / 7, t: at }));
  const text = encryptText(seal({ v: 1, seq: 7, readings }, atKey, key), key, iv);
  const open = (): unknown => openSealed(decryptText(text, key, iv), atKey, key);
  for (let at = 0; at < 2_000; at += 1) open();
  const startMs = performance.now();
  for (let at = 0; at < 20_000; at += 1) open();
  tell("packs/s that one core decrypts and checks", (1000 * 20_000) / (performance.now() - startMs), "");
  tell("size of a pack of 30 readings, as sent", text.length / 1e3, "kB");
}

/** The operator's machine, without the way to the atServers. */
async function fleet(folder: string): Promise<void> {
  const pools = Array.from({ length: DEVICES / 25 }, (_, at) => `@p${at}`);
  const rows = Array.from({ length: DEVICES }, (_, at) => `[[device]]\nname="d${at}"\nserial="s${at}"\npool="p"\n`);
  const source = `[pools]\np=${JSON.stringify(pools)}\n${rows.join("")}`;
  const [parseMs, manifest] = await timed(() => parseManifest(source, "fleet.toml"));
  const store = await FleetStore.open(folder);
  const [newMs, plan] = await timed(() => planFleet(manifest, store, 0));
  let passcodes = 0;
  const owner = {
    publicKeyOf: () => Promise.resolve(Buffer.alloc(294).toString("base64")),
    enrollments: { newPasscode: () => Promise.resolve(new Secret(String((passcodes += 1)).padStart(6, "A"))) },
  };
  const options = {
    ...{ manifest, store, outDir: join(folder, "out"), lifeMs: 86_400_000, passcodes: 3, nowMs: () => 0 },
    ...{ ownerOf: () => Promise.resolve(owner as never), templateOf: () => Promise.reject(new Error("none")) },
  };
  const [applyMs, results] = await timed(() => applyPlan({ ...options, plan }, forever));
  if (results.some(({ outcome }) => outcome !== "bundled")) throw new Error("not all were bundled");
  const [againMs, again] = await timed(() => planFleet(manifest, store, 0));
  const [keptMs] = await timed(() => applyPlan({ ...options, plan: again }, forever));
  const bytes = await bytesOf(folder, ["out"]);
  store.close();
  tell(`read a manifest of ${DEVICES} devices`, parseMs, "ms");
  tell("plan it, nothing done yet", newMs, "ms");
  tell("apply it, without the atServers", applyMs / 1000, "s");
  tell("plan it, all done", againMs, "ms");
  tell("apply it again", keptMs / 1000, "s");
  tell("disk of a device at the operator's, without its bundle", bytes / DEVICES / 1e3, "kB");
}

/** One stream in a file, one publisher, acknowledged. */
async function jetstream(folder: string): Promise<void> {
  const port = 20_000 + (process.pid % 20_000);
  const args = ["-js", "-sd", folder, "-a", "127.0.0.1", "-p", String(port)];
  const server = spawn(process.env["NATS_SERVER"] ?? "nats-server", args, { stdio: "ignore" });
  const failed = once(server, "error").then(() => true);
  if ((await Promise.race([failed, sleep(1_500)])) === true) {
    process.stdout.write("JetStream: not measured, there is no nats-server\n");
    return;
  }
  const socket = connect({ host: "127.0.0.1", port });
  let replies = 0;
  let wake = (): void => undefined;
  socket.setEncoding("latin1").on("data", (text: string) => {
    if (text.includes("-ERR")) throw new Error(text);
    if (text.includes("PING\r\n")) socket.write("PONG\r\n");
    replies += text.split("MSG ").length - 1;
    wake();
  });
  const until = async (count: number): Promise<void> => {
    while (replies < count) await new Promise<void>((resolve) => (wake = resolve));
  };
  const publish = (subject: string, body: string): void =>
    void socket.write(`PUB ${subject} in.box ${Buffer.byteLength(body)}\r\n${body}\r\n`);
  socket.write('CONNECT {"verbose":false}\r\nSUB in.box 1\r\n');
  publish("$JS.API.STREAM.CREATE.t", JSON.stringify({ name: "t", subjects: ["t.>"], storage: "file" }));
  await until(1);
  const startMs = performance.now();
  for (let at = 0; at < PUBLISHED; at += 1) {
    publish(`t.d${at % 100}`, PACK);
    await until(2 + at - IN_FLIGHT);
  }
  await until(1 + PUBLISHED);
  tell("messages/s that JetStream acknowledges", (1000 * PUBLISHED) / (performance.now() - startMs), "");
  tell("disk of a message in JetStream", (await bytesOf(folder)) / PUBLISHED / 1e3, "kB");
  socket.destroy();
  server.kill();
  await once(server, "exit");
}

async function activated(folder: string, ...atSigns: readonly string[]) {
  const server = await ServerProcess.start("platform", folder, ...atSigns);
  const { ports, caPem, secrets } = server.ready;
  for (const atSign of atSigns) await BenchWire.activate(ports[atSign] ?? 0, caPem, atSign, secrets[atSign] ?? "");
  return { server, owner: (atSign: string) => BenchWire.owner(ports[atSign] ?? 0, caPem, atSign) };
}

/** So many at a time, each lane one after the other. */
async function lanes(count: number, width: number, work: (at: number, lane: number) => unknown): Promise<void> {
  const queue = Array.from({ length: count }, (_, at) => at).values();
  await Promise.all(
    Array.from({ length: width }, async (_, lane) => {
      for (const at of queue) await work(at, lane);
    }),
  );
}

async function perSecond(
  what: string,
  count: number,
  width: number,
  work: (at: number, lane: number) => unknown,
): Promise<void> {
  await lanes(count / 5, width, work);
  const [ms] = await timed(() => lanes(count, width, work));
  tell(what, (1000 * count) / ms, "");
}

async function timed<T>(work: () => T): Promise<[number, Awaited<T>]> {
  const startMs = performance.now();
  const result = await work();
  return [performance.now() - startMs, result];
}

/** Of all files below a folder. */
async function bytesOf(folder: string, without: readonly string[] = []): Promise<number> {
  let bytes = 0;
  for (const name of await readdir(folder, { recursive: true })) {
    if (without.some((each) => name.startsWith(each))) continue;
    const { size } = await stat(join(folder, name));
    bytes += size;
  }
  return bytes;
}

function tell(what: string, value: number, unit: string): void {
  const digits = value < 10 ? 2 : value < 100 ? 1 : 0;
  process.stdout.write(`${what.padEnd(60)} ${value.toFixed(digits)} ${unit}\n`);
}

delete process.env["NODE_OPTIONS"];
if (!(await playRole(process.argv.slice(2)))) await measure(process.argv.slice(2));
