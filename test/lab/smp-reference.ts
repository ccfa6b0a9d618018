/**
 * Our SMP client, target, updater and driver against the reference implementation of SMP: Apache mynewt-mcumgr, compiled
 * for this host with the port in test/lab/smp-reference/. `--source DIR` is where its sources are (docs: README.md
 * there); needs gcc and Debian's libcbor-dev. Takes some seconds.
 */
import assert from "node:assert/strict";
import { type ChildProcessByStdio, execFileSync, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Readable, Writable } from "node:stream";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import nacl from "tweetnacl";
import * as v from "valibot";
import { systemClock } from "../../core/clock.js";
import { DeviceGone } from "../../core/errors.js";
import { silentLog } from "../../core/log.js";
import type { Port } from "../../core/port.js";
import { Scope } from "../../core/scope.js";
import { openPort } from "../../drivers/serial/open-port.js";
import { bridgeOpener, bridgeSchemas } from "../../firmware-bridge/registry.js";
import { SmpClient, SmpError } from "../../firmware-bridge/smp/smp-client.js";
import {
  smpEcho,
  smpErase,
  smpImages,
  smpParameters,
  smpReset,
  smpSetState,
  smpUpload,
} from "../../firmware-bridge/smp/smp-commands.js";
import { openSmpTarget } from "../../firmware-bridge/smp/smp-target.js";
import { signManifest } from "../../firmware-bridge/update/manifest.js";
import { UpdateStore } from "../../firmware-bridge/update/update-store.js";
import { Updater } from "../../firmware-bridge/update/updater.js";
import { PtyDevice } from "../fixtures/pty-device.js";

const { source } = parseArgs({ options: { source: { type: "string" } } }).values;
if (!source) {
  process.stderr.write("expected --source, a folder with mynewt-mcumgr: see test/lab/smp-reference/README.md\n");
  process.exit(2);
}

const never = new AbortController().signal;
const clock = systemClock;
const portFolder = fileURLToPath(new URL("../../test/lab/smp-reference", import.meta.url));
const work = await mkdtemp(join(tmpdir(), "atedge-smp-reference-"));
const flash = join(work, "flash");
const program = join(work, "board");
const say = (text: string): boolean => process.stdout.write(`ok  ${text}\n`);

function compile(from: string): void {
  const files = [
    "mgmt/src/mgmt.c",
    "smp/src/smp.c",
    "cborattr/src/cborattr.c",
    "cmd/img_mgmt/src/img_mgmt.c",
    "cmd/img_mgmt/src/img_mgmt_state.c",
    "cmd/img_mgmt/src/img_mgmt_util.c",
    "cmd/os_mgmt/src/os_mgmt.c",
  ].map((path) => join(from, path));
  const folders = ["mgmt", "smp", "cborattr", "cmd/img_mgmt", "cmd/os_mgmt"].map((path) => join(from, path, "include"));
  const includes = [portFolder, ...folders].flatMap((path) => ["-I", path]);
  const flags = ["-std=gnu11", "-O1", "-Wno-unused-function", "-include", join(portFolder, "port.h"), ...includes];
  execFileSync("gcc", [...flags, join(portFolder, "port.c"), ...files, "-lcbor", "-o", program], { stdio: "inherit" });
}

/** The board: it is started anew after each reset, and its console can be reached again after a cut. */
class Board {
  #child: ChildProcessByStdio<Writable, Readable, null> | undefined;
  boots = 0;

  get #running(): ChildProcessByStdio<Writable, Readable, null> {
    if (this.#child?.exitCode === null && this.#child.signalCode === null) return this.#child;
    this.boots += 1;
    this.#child = spawn(program, [flash], { stdio: ["pipe", "pipe", "inherit"] });
    return this.#child;
  }

  /** A cable to its console that is cut at the write after `writes`. */
  port(writes = Infinity): Port {
    const child = this.#running;
    const closed = new AbortController();
    child.once("close", () => closed.abort()); // its last answer has been read then
    child.stdin.on("error", () => closed.abort());
    let left = writes;
    return {
      path: "reference",
      async *read(signal) {
        const chunks: Buffer[] = [];
        let wake: (() => void) | undefined;
        const take = (chunk: Buffer): void => {
          chunks.push(chunk);
          wake?.();
        };
        const stop = AbortSignal.any([signal, closed.signal]);
        stop.addEventListener("abort", () => wake?.(), { once: true });
        child.stdout.on("data", take);
        try {
          for (;;) {
            const chunk = chunks.shift();
            if (chunk) yield chunk;
            else if (stop.aborted) return;
            else await new Promise<void>((resolve) => (wake = resolve));
          }
        } finally {
          child.stdout.off("data", take);
        }
      },
      async write(bytes) {
        left -= 1;
        if (left < 0) closed.abort();
        if (closed.signal.aborted) throw new DeviceGone("the cable is cut");
        child.stdin.write(bytes);
      },
      async [Symbol.asyncDispose]() {
        closed.abort();
      },
    };
  }

  /** Resolves when it has ended. */
  async ended(): Promise<void> {
    const child = this.#child;
    if (child && child.exitCode === null && child.signalCode === null) await once(child, "exit");
  }

  async kill(): Promise<void> {
    this.#child?.kill("SIGKILL");
    await this.ended();
  }
}

/** An MCUboot image with its SHA-256 in the trailer. */
function image(major: number, minor: number, bytes: number): { readonly bytes: Buffer; readonly hash: Buffer } {
  const header = Buffer.alloc(32);
  header.writeUInt32LE(0x96f3b83d, 0);
  header.writeUInt16LE(32, 8);
  header.writeUInt32LE(bytes, 12);
  header.writeUInt8(major, 20);
  header.writeUInt8(minor, 21);
  const signed = Buffer.concat([header, Buffer.alloc(bytes, `firmware ${major}.${minor} `)]);
  const hash = createHash("sha256").update(signed).digest();
  const trailer = Buffer.alloc(8);
  trailer.writeUInt16LE(0x6907, 0);
  trailer.writeUInt16LE(8 + hash.length, 2);
  trailer.writeUInt8(0x10, 4);
  trailer.writeUInt16LE(hash.length, 6);
  return { bytes: Buffer.concat([signed, trailer, hash]), hash };
}

async function slots(client: SmpClient): Promise<string[]> {
  return (await smpImages(client, never)).map(({ slot, version, ...flags }) => {
    const set = (["bootable", "pending", "confirmed", "active", "permanent"] as const).filter((name) => flags[name]);
    return `${slot} ${version} ${set.join(" ")}`;
  });
}

async function withClient<T>(board: Board, job: (client: SmpClient) => Promise<T>, writes?: number): Promise<T> {
  await using client = new SmpClient({ port: board.port(writes), clock });
  return await job(client);
}

const refused = (rc: number) => (error: unknown) => error instanceof SmpError && error.rc === rc;
const one = image(1, 0, 3000);
const two = image(2, 1, 20_000);

async function commands(board: Board): Promise<void> {
  const text = "ä".repeat(60);
  await withClient(board, async (client) => {
    assert.equal(await smpEcho(client, text, never), text);
    await assert.rejects(smpEcho(client, "x".repeat(200), never), refused(3));
    say("echo, of 120 bytes; a longer one than its buffer is refused with code 3");
    await smpParameters(client, never);
    assert.equal(client.bufferBytes, 384);
    await assert.rejects(client.request({ operation: "read", group: 9, command: 0 }, never), refused(8));
    say("parameters, which it does not know, leave the packet size; an unknown group is refused with code 8");
    assert.deepEqual(await slots(client), ["0 1.0.0 bootable confirmed active"]);
    say("image list");
    const strange = { off: 0, len: 40, data: Buffer.alloc(40) };
    const upload = client.request({ operation: "write", group: 1, command: 1, body: strange }, never);
    await assert.rejects(upload, refused(3));
    await assert.rejects(smpSetState(client, Buffer.alloc(32), false, never), refused(3));
    say("an image without a header and a test of an unknown hash are refused with code 3");
  });
}

async function uploads(board: Board): Promise<void> {
  const cut = withClient(board, (client) => smpUpload(client, two.bytes, () => undefined, never), 20);
  await assert.rejects(cut, DeviceGone);
  const offsets: number[] = [];
  await withClient(board, (client) => smpUpload(client, two.bytes, (sent) => offsets.push(sent), never));
  assert.ok(Number(offsets[0]) > 5000, `went on at ${offsets[0]}`);
  assert.deepEqual(await readFile(join(flash, "slot1")), two.bytes);
  say(
    `upload of ${two.bytes.length} bytes, cut at the 21st packet, went on at byte ${offsets[0]}: every byte is there`,
  );
  await withClient(board, (client) => smpErase(client, never));
  const killed = withClient(board, (client) =>
    smpUpload(client, two.bytes, (sent) => void (sent > 5000 && board.kill()), never),
  );
  await assert.rejects(killed, DeviceGone);
  await board.ended();
  await withClient(board, (client) => smpUpload(client, two.bytes, () => undefined, never));
  assert.deepEqual(await readFile(join(flash, "slot1")), two.bytes);
  say("erase, and an upload that the board's death cut, begun anew: every byte is there");
}

async function boots(board: Board): Promise<void> {
  const reset = async (): Promise<void> => {
    await withClient(board, (client) => smpReset(client, never));
    await board.ended();
  };
  await withClient(board, async (client) => {
    await smpSetState(client, two.hash, false, never);
    assert.deepEqual(await slots(client), ["0 1.0.0 bootable confirmed active", "1 2.1.0 bootable pending"]);
    await assert.rejects(smpErase(client, never), refused(6));
    const other = image(3, 0, 100).bytes;
    await assert.rejects(
      smpUpload(client, other, () => undefined, never),
      refused(2),
    );
  });
  say("test; then an erase is refused with code 6 and an upload with code 2");
  await reset();
  const tried = ["0 2.1.0 bootable active", "1 1.0.0 bootable confirmed"];
  assert.deepEqual(await withClient(board, slots), tried);
  await reset();
  assert.deepEqual(await withClient(board, slots), ["0 1.0.0 bootable confirmed active", "1 2.1.0 bootable"]);
  say("reset runs the new image; unconfirmed, the next reset brings the old one back");
  await withClient(board, (client) => smpSetState(client, two.hash, false, never));
  await reset();
  await withClient(board, (client) => smpSetState(client, undefined, true, never));
  await reset();
  assert.deepEqual(await withClient(board, slots), ["0 2.1.0 bootable confirmed active", "1 1.0.0 bootable"]);
  say("test, reset, confirm: it stays over a reset");
}

/** The whole way of an update, by the agent's own updater, with the cable cut at the write after `writes`. */
async function update(board: Board, version: string, next: ReturnType<typeof image>, writes: number): Promise<void> {
  const signer = nacl.sign.keyPair();
  const store = join(work, `store-${version}`);
  await mkdir(store);
  let cuts = 0;
  const updater = await Updater.open({
    target: "radio",
    hardware: "reference",
    publicKeys: [signer.publicKey],
    store: new UpdateStore(store),
    lease: async () => new Scope(),
    openTarget: (signal) => openSmpTarget({ port: board.port(cuts++ === 0 ? writes : Infinity), clock }, signal),
    clock,
    log: silentLog,
  });
  const sha256 = createHash("sha256").update(next.bytes).digest("hex");
  const about = { target: "radio", hardware: "reference", version, sha256, size: next.bytes.length, counter: 0 };
  await updater.begin(signManifest(about, signer.secretKey));
  await updater.data(0, next.bytes);
  await updater.run(never);
  assert.equal((await updater.status()).update?.step, "confirmed");
  const [first] = await withClient(board, slots);
  assert.equal(first, `0 ${version} bootable confirmed active`);
}

/** The `smp` driver as the agent has it, with the agent's own serial port on a pty, given firmware as a command. */
async function driver(board: Board, version: string, next: ReturnType<typeof image>): Promise<void> {
  const signer = nacl.sign.keyPair();
  const store = join(work, "driver");
  await mkdir(store);
  await using device = await PtyDevice.open();
  await using scope = new Scope();
  const stop = new AbortController();
  let port = board.port();
  device.onBytes = (chunk) => void port.write(chunk, never).catch(() => undefined);
  const wire = async (): Promise<void> => {
    while (!stop.signal.aborted) {
      for await (const chunk of port.read(stop.signal)) device.send(chunk);
      port = board.port();
    }
  };
  const wired = wire();
  const firmware = { keys: [Buffer.from(signer.publicKey).toString("base64")] };
  const about = { id: "radio", type: "smp", path: device.path, hardware: "reference", firmware };
  const deps = { publish: async () => undefined, openPort, clock, log: silentLog, stateDir: async () => store };
  const radio = scope.use(await bridgeOpener(v.parse(bridgeSchemas.smp, about))(deps, stop.signal));
  const running = radio.run(stop.signal);
  const sha256 = createHash("sha256").update(next.bytes).digest("hex");
  const manifest = { target: "radio", hardware: "reference", version, sha256, size: next.bytes.length, counter: 0 };
  await radio.call("firmware-begin", { ...signManifest(manifest, signer.secretKey) }, never);
  for (let offset = 0; offset < next.bytes.length; offset += 4096) {
    const data = next.bytes.subarray(offset, offset + 4096).toString("base64");
    await radio.call("firmware-data", { offset, data }, never);
  }
  const wanted = `0 ${version} bootable confirmed active`;
  const late = AbortSignal.timeout(30_000);
  for (let status = ""; !status.includes('"confirmed"');) {
    await clock.sleep(100, late);
    status = JSON.stringify(await radio.call("firmware-status", {}, never));
  }
  stop.abort();
  await Promise.allSettled([running, wired]);
  assert.equal((await withClient(board, slots))[0], wanted);
}

const board = new Board();
try {
  compile(source);
  await mkdir(flash);
  await writeFile(join(flash, "slot0"), one.bytes);
  await commands(board);
  await uploads(board);
  await boots(board);
  await update(board, "3.0.0", image(3, 0, 9000), Infinity);
  say("the agent's updater: uploaded, tested, probed, confirmed");
  await update(board, "3.1.0", image(3, 1, 9000), 12);
  say(`the same with the cable cut in the upload; ${board.boots} boots in all`);
  await driver(board, "4.0.0", image(4, 0, 9000));
  say("the smp driver over a serial port on a pty, given firmware by its commands: confirmed");
} finally {
  await board.kill();
  await rm(work, { recursive: true, force: true });
}
