/**
 * The sealed link to a microcontroller, whose board has two 512-byte buffers: bulk throughput over a line of 11,520 bytes/s
 * (limit: 0.8 of it) with 16 ms of latency towards us, as a USB adapter has, and with 16 ms each way; command round trip,
 * CPU a frame, and each operation of the cryptography by tweetnacl and by node:crypto where both can do it.
 */
import { createHash, createPrivateKey, createPublicKey, diffieHellman, randomBytes, verify } from "node:crypto";
import nacl from "tweetnacl";
import { systemClock } from "../../core/clock.js";
import { silentLog } from "../../core/log.js";
import type { Port } from "../../core/port.js";
import { openPort } from "../../drivers/serial/open-port.js";
import { openBoard } from "../../firmware-bridge/link/board.js";
import { loadLinkRecord } from "../../firmware-bridge/link/link-record.js";
import { linkTarget } from "../../firmware-bridge/link/link-target.js";
import { BoardProcess, imageOf, installImage } from "../firmware-bridge/board-process.js";
import { Host, never } from "../firmware-bridge/link-rig.js";

const LINE_BYTES_PER_SECOND = 11_520;
const LATENCY_MS = 16;

delete process.env["NODE_OPTIONS"];

/** A line of a rate and a latency: bytes arrive by 32 when these have left the wire; a write waits for the wire. */
class SlowLine {
  #freeAtMs = 0;
  readonly #latencyMs: number;
  readonly #deliver: (bytes: Uint8Array) => void;

  constructor(latencyMs: number, deliver: (bytes: Uint8Array) => void) {
    this.#latencyMs = latencyMs;
    this.#deliver = deliver;
  }

  async send(bytes: Uint8Array): Promise<void> {
    const now = performance.now();
    this.#freeAtMs = Math.max(now, this.#freeAtMs);
    for (let at = 0; at < bytes.length; at += 32) {
      const part = bytes.subarray(at, at + 32);
      this.#freeAtMs += (1000 * part.length) / LINE_BYTES_PER_SECOND;
      setTimeout(() => this.#deliver(part), this.#freeAtMs + this.#latencyMs - now);
    }
    // A UART driver takes the next bytes a little before these are out.
    await new Promise((resolve) => setTimeout(resolve, Math.max(0, this.#freeAtMs - now - 5)));
  }
}

function slow(port: Port, toBoardMs: number): Port {
  const arrived: Uint8Array[] = [];
  let wake: (() => void) | undefined;
  const toBoard = new SlowLine(toBoardMs, (bytes) => void port.write(bytes, never).catch(() => undefined));
  const toHost = new SlowLine(LATENCY_MS, (bytes) => {
    arrived.push(bytes);
    wake?.();
  });
  return {
    path: port.path,
    async *read(signal) {
      const pump = (async () => {
        for await (const chunk of port.read(signal)) void toHost.send(chunk);
      })();
      signal.addEventListener("abort", () => wake?.(), { once: true });
      while (!signal.aborted) {
        const bytes = arrived.shift();
        if (bytes) yield bytes;
        else await new Promise<void>((resolve) => (wake = resolve));
      }
      await pump;
    },
    write: (bytes) => toBoard.send(bytes),
    [Symbol.asyncDispose]: () => port[Symbol.asyncDispose](),
  };
}

async function rig(args: readonly string[]) {
  const board = await BoardProcess.start({ args: ["-r", "0", "-t", "250", ...args], sanitized: false });
  const host = await Host.create();
  await host.pair(board);
  await board.kill();
  await installImage(board.folder, imageOf("G", "1.0.0"));
  return { folder: board.folder, host };
}

const { folder, host } = await rig([]);
await using process1 = await BoardProcess.start({ args: ["-r", "0", "-t", "250"], sanitized: false, folder });

async function open(through: (port: Port) => Port, baud: number, readings: { count: number }) {
  const record = await loadLinkRecord(host.folder);
  const port = through(await openPort(process1.path, { baudRate: 115_200 }, never));
  return openBoard(
    {
      port,
      record,
      baud,
      keepAliveMs: 5000,
      openTimeoutMs: 20_000,
      save: async (next) =>
        (await import("../../firmware-bridge/link/link-record.js")).saveLinkRecord(host.folder, next),
      publish: async (batch) => void (readings.count += batch.length),
      clock: systemClock,
      log: silentLog,
    },
    never,
  );
}

const percentile = (values: number[], share: number): string =>
  (values.sort((a, b) => a - b)[Math.floor(values.length * share)] ?? 0).toFixed(1);
const say = (text: string): void => void process.stdout.write(`${text}\n`);

for (const toBoardMs of [0, LATENCY_MS]) {
  say(`${LATENCY_MS} ms of latency ${toBoardMs === 0 ? "towards us" : "each way"}`);
  const readings = { count: 0 };
  const board = await open((port) => slow(port, toBoardMs), 115_200, readings);
  const image = imageOf("G", "2.0.0", 60_000);
  const target = linkTarget(board);
  let startMs = 0;
  let firstBytes = 0;
  await target.upload(
    image,
    (bytes) => {
      if (startMs === 0) [startMs, firstBytes] = [performance.now(), bytes];
    },
    never,
  );
  const rate = (1000 * (image.length - firstBytes)) / (performance.now() - startMs);
  say(
    `  bulk to the board      ${rate.toFixed(0)} bytes/s of ${LINE_BYTES_PER_SECOND}: ${(rate / LINE_BYTES_PER_SECOND).toFixed(2)} (limit 0.80), resent ${board.counters.resent}`,
  );
  await target.erase(never);
  const text = "x".repeat(900);
  const since = performance.now();
  let echoed = 0;
  for (let times = 0; times < 12; times += 3) {
    const answers = await Promise.all([1, 2, 3].map(() => board.call("echo", { text }, 20_000, never)));
    echoed += answers.length * text.length;
  }
  const both = (1000 * echoed) / (performance.now() - since);
  say(`  900-byte echoes        ${both.toFixed(0)} bytes/s each way, three under way`);
  const times: number[] = [];
  for (let count = 0; count < 40; count += 1) {
    const at = performance.now();
    await board.call("relay", { on: count % 2 === 0 }, 5000, never);
    times.push(performance.now() - at);
  }
  say(
    `  command round trip     p50 ${percentile(times, 0.5)} ms, p99 ${percentile(times, 0.99)} ms (wire alone: ${LATENCY_MS + toBoardMs} ms and 90 bytes)`,
  );
  await board[Symbol.asyncDispose]();
}

{
  const readings = { count: 0 };
  const board = await open((port) => port, 1_000_000, readings);
  const times: number[] = [];
  for (let count = 0; count < 200; count += 1) {
    const at = performance.now();
    await board.call("relay", { on: true }, 5000, never);
    times.push(performance.now() - at);
  }
  say(`the same on a bare pty   p50 ${percentile(times, 0.5)} ms, p99 ${percentile(times, 0.99)} ms`);
  const MESSAGES = 10_000;
  const before = process.cpuUsage();
  const at = performance.now();
  process1.tell(`burst ${MESSAGES}`);
  while (readings.count < 2 * MESSAGES) await new Promise((resolve) => setTimeout(resolve, 5));
  const { user, system } = process.cpuUsage(before);
  const frames = board.counters.framesIn;
  say(
    `CPU a frame with reading ${((user + system) / frames).toFixed(0)} µs (${frames} frames, ${((1000 * MESSAGES) / (performance.now() - at)).toFixed(0)} messages/s)`,
  );
  await board[Symbol.asyncDispose]();
}

function rateOf(work: () => unknown, forMs = 400): string {
  for (let warm = 0; warm < 20; warm += 1) work();
  const startMs = performance.now();
  let count = 0;
  while (performance.now() - startMs < forMs) {
    work();
    count += 1;
  }
  return `${((1000 * forMs) / count).toFixed(1)} µs`;
}

{
  const key = randomBytes(32);
  const nonce = randomBytes(24);
  const packet = randomBytes(484);
  const box = nacl.secretbox(packet, nonce, key);
  say(
    `secretbox, 484 bytes     seal ${rateOf(() => nacl.secretbox(packet, nonce, key))}, open ${rateOf(() => nacl.secretbox.open(box, nonce, key))} (tweetnacl; node:crypto has no XSalsa20)`,
  );
  const [mine, theirs] = [nacl.box.keyPair(), nacl.box.keyPair()];
  const der = (prefix: string, bytes: Uint8Array): Buffer => Buffer.concat([Buffer.from(prefix, "hex"), bytes]);
  const agreeByNode = (): Buffer =>
    diffieHellman({
      privateKey: createPrivateKey({
        key: der("302e020100300506032b656e04220420", mine.secretKey),
        format: "der",
        type: "pkcs8",
      }),
      publicKey: createPublicKey({
        key: der("302a300506032b656e032100", theirs.publicKey),
        format: "der",
        type: "spki",
      }),
    });
  if (Buffer.compare(agreeByNode(), nacl.scalarMult(mine.secretKey, theirs.publicKey)) !== 0)
    throw new Error("X25519 differs");
  say(
    `X25519                   tweetnacl ${rateOf(() => nacl.scalarMult(mine.secretKey, theirs.publicKey))}, node:crypto ${rateOf(agreeByNode)} (keys imported each time)`,
  );
  say(
    `SHA-512, 150 bytes       tweetnacl ${rateOf(() => nacl.hash(packet.subarray(0, 150)))}, node:crypto ${rateOf(() => createHash("sha512").update(packet.subarray(0, 150)).digest())}`,
  );
  const signer = nacl.sign.keyPair();
  const signature = nacl.sign.detached(packet, signer.secretKey);
  const publicKey = createPublicKey({
    key: der("302a300506032b6570032100", signer.publicKey),
    format: "der",
    type: "spki",
  });
  if (!verify(null, packet, publicKey, signature)) throw new Error("Ed25519 differs");
  say(
    `Ed25519 verify           tweetnacl ${rateOf(() => nacl.sign.detached.verify(packet, signature, signer.publicKey))}, node:crypto ${rateOf(() => verify(null, packet, publicKey, signature))}`,
  );
}
await host[Symbol.asyncDispose]();
