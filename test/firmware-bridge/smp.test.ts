import fc from "fast-check";
import { createHash } from "node:crypto";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { isDeepStrictEqual } from "node:util";
import t from "tap";
import nacl from "tweetnacl";
import * as v from "valibot";
import { systemClock } from "../../core/clock.js";
import type { DriverDeps } from "../../core/driver.js";
import { DeviceGone, SyntaxInvalid } from "../../core/errors.js";
import { type LogFields, silentLog } from "../../core/log.js";
import type { Port } from "../../core/port.js";
import { Scope } from "../../core/scope.js";
import { bridgeOpener, bridgeSchemas } from "../../firmware-bridge/registry.js";
import { mcubootHash } from "../../firmware-bridge/smp/mcuboot-image.js";
import { SmpClient } from "../../firmware-bridge/smp/smp-client.js";
import {
  smpEcho,
  smpErase,
  smpImages,
  smpParameters,
  smpReset,
  smpSetState,
  smpUpload,
} from "../../firmware-bridge/smp/smp-commands.js";
import { formatSmpConsole, SmpConsoleFramer } from "../../firmware-bridge/smp/smp-console.js";
import { formatSmpPacket, parseSmpPacket } from "../../firmware-bridge/smp/smp-packet.js";
import { openSmpTarget } from "../../firmware-bridge/smp/smp-target.js";
import { signManifest } from "../../firmware-bridge/update/manifest.js";
import { UpdateStore } from "../../firmware-bridge/update/update-store.js";
import { Updater } from "../../firmware-bridge/update/updater.js";
import { cutAt } from "../fixtures/cut.js";
import { hashOf, newFlash, SmpBoard, type SmpBoardOptions, smpImage } from "./smp-board.js";
import { until } from "./link-rig.js";
import { seeded } from "./wire-faults.js";

const never = new AbortController().signal;
const hex = (text: string): Uint8Array => Uint8Array.from(Buffer.from(text.replaceAll(" ", ""), "hex"));
const toHex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex");

t.test("SMP packets", async (t) => {
  t.test("have the header of the specification: version and operation, length, group, sequence, command", async (t) => {
    const echo = { operation: "write", version: 1, group: 0, command: 0, sequence: 7, body: { d: "hi" } } as const;
    t.equal(toHex(formatSmpPacket(echo)), "0a 00 0006 0000 07 00 a1 61 64 62 6869".replaceAll(" ", ""));
    const state = { operation: "read", version: 0, group: 1, command: 0, sequence: 255, body: {} } as const;
    t.equal(toHex(formatSmpPacket(state)), "00 00 0001 0001 ff 00 a0".replaceAll(" ", ""));
    // A Zephyr server answers with maps of indefinite length.
    t.match(parseSmpPacket(hex("0b 00 0007 0000 07 00 bf 61 72 62 6869 ff")), {
      operation: "write-response",
      version: 1,
      sequence: 7,
      body: new Map([["r", "hi"]]),
    });
  });

  t.test("that are damaged are refused with a typed error", async (t) => {
    for (const bytes of [
      "",
      "0a000006000007",
      "0a 00 0005 0000 07 00 a1 61 64 62 6869",
      "0f 00 0000 0000 00 00",
      "0a 00 0001 0000 07 00 01",
    ]) {
      t.throws(() => parseSmpPacket(hex(bytes)), { code: "SYNTAX_INVALID" }, bytes);
    }
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 40 }), (bytes) => {
        try {
          parseSmpPacket(bytes);
          return true;
        } catch (error) {
          return error instanceof SyntaxInvalid;
        }
      }),
    );
  });
});

t.test("A dialogue of mcumgr-cli with a Mynewt board", async (t) => {
  const { dialogues } = JSON.parse(await readFile("test/firmware-bridge/vectors/smp-mynewt.json", "utf8")) as {
    dialogues: {
      request: { group: number; command: number };
      requestLine: string;
      responseLines: string[];
      response: { bytes: number; tasks?: string[]; version?: string; hash?: string };
    }[];
  };
  for (const { request, requestLine, responseLines, response } of dialogues) {
    // Its requests have no body at all; the console echoes them before it answers.
    const header = Buffer.from([0, 0, 0, 0, 0, request.group, 0, request.command]);
    t.equal(Buffer.from(formatSmpConsole(header)).toString("latin1"), `${requestLine}\n`, "the same request line");
    const framer = new SmpConsoleFramer({ maxBytes: 1024 });
    const wire = Buffer.from(`${requestLine}\r\n\r${responseLines.join("\n")}\n`, "latin1");
    const [echo, answer] = framer.push(wire);
    t.strictSame(echo, header);
    t.equal(answer?.length, response.bytes);
    const packet = parseSmpPacket(answer ?? header);
    t.match(packet, { operation: "read-response", group: request.group, command: request.command });
    if (response.tasks)
      t.strictSame([...((packet.body.get("tasks") ?? new Map()) as Map<string, unknown>).keys()], response.tasks);
    // The same lines, as the answer to our own client's request.
    const port: Port = {
      path: "mynewt",
      read: async function* (signal) {
        yield wire;
        await new Promise((resolve) => signal.addEventListener("abort", resolve, { once: true }));
      },
      write: async () => undefined,
      [Symbol.asyncDispose]: async () => undefined,
    };
    if (response.version === undefined) continue;
    const slow: Port = {
      ...port,
      read: (signal) =>
        (async function* () {
          await systemClock.sleep(20, signal);
          yield* port.read(signal);
        })(),
    };
    await using client = new SmpClient({ port: slow, clock: systemClock });
    const [image] = await smpImages(client, never);
    t.match(image, {
      slot: 0,
      version: response.version,
      active: true,
      confirmed: true,
      pending: false,
      bootable: true,
    });
    t.equal(toHex(image?.hash ?? new Uint8Array()), response.hash);
  }
});

t.test("What Zephyr's own tests expect of its server is what our client reads", async (t) => {
  interface Vector {
    readonly what: string;
    readonly hex: string;
    readonly packet: { readonly operation: string; readonly sequence: number; group: number; command: number };
    readonly body?: Readonly<Record<string, string>>;
    readonly error?: { readonly rc: number; readonly group?: number; readonly message: string };
  }
  const { packets } = JSON.parse(await readFile("test/firmware-bridge/vectors/smp-zephyr.json", "utf8")) as {
    packets: Vector[];
  };
  for (const { what, hex: text, packet, body, error } of packets) {
    const parsed = parseSmpPacket(hex(text));
    t.match(parsed, packet, what);
    if (body) t.strictSame(Object.fromEntries(parsed.body), body, what);
    if (!error) continue;
    // The same bytes as the answer to a request of ours, whose sequence number is 0.
    const answer = Buffer.from(hex(text));
    answer[6] = 0;
    const port: Port = {
      path: "zephyr",
      read: async function* (signal) {
        await systemClock.sleep(20, signal);
        yield formatSmpConsole(answer);
        await new Promise((resolve) => signal.addEventListener("abort", resolve, { once: true }));
      },
      write: async () => undefined,
      [Symbol.asyncDispose]: async () => undefined,
    };
    await using client = new SmpClient({ port, clock: systemClock });
    const { group, command } = packet;
    await t.rejects(
      client.request({ operation: "read", group, command }, never),
      { code: "SMP_ERROR", rc: error.rc, group: error.group, message: new RegExp(error.message, "u") },
      what,
    );
  }
});

t.test("The console framing", async (t) => {
  t.test("is a length, the packet and its CRC in base64, after 06 09", async (t) => {
    const packet = hex("00 00 0001 0001 42 00 a0");
    const wire = Buffer.from(formatSmpConsole(packet));
    t.equal(toHex(wire.subarray(0, 2)), "0609");
    t.equal(wire.at(-1), 0x0a);
    const raw = Buffer.from(wire.subarray(2, -1).toString("latin1"), "base64");
    t.equal(raw.readUInt16BE(0), packet.length + 2);
    t.equal(toHex(raw.subarray(2, -2)), toHex(packet));
  });

  t.test("keeps each line within 127 bytes, and gives the packet back however it is cut", async () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 1, maxLength: 900 }), fc.array(fc.nat(1500)), (packet, cuts) => {
        const wire = formatSmpConsole(packet);
        const lines = Buffer.from(wire).toString("latin1").split("\n").slice(0, -1);
        const framer = new SmpConsoleFramer({ maxBytes: 1000 });
        const found = cutAt(
          wire,
          cuts.map((cut) => cut % wire.length),
        ).flatMap((chunk) => framer.push(chunk));
        const marked = lines.every(
          (line, index) => line.startsWith(index === 0 ? "\x06\t" : "\x04\x14") && line.length < 127,
        );
        return marked && isDeepStrictEqual(found.map(toHex), [toHex(packet)]);
      }),
    );
  });

  t.test("finds packets among a console's own text, and drops what is damaged", async (t) => {
    const framer = new SmpConsoleFramer({ maxBytes: 256 });
    const [one, two] = [formatSmpConsole(hex("010203")), formatSmpConsole(new Uint8Array(200).fill(9))];
    const damaged = Buffer.from(one);
    damaged[4] = (damaged[4] ?? 0) === 0x41 ? 0x42 : 0x41;
    const wire = Buffer.concat([
      Buffer.from("*** Booting Zephyr ***\r\nuart:~$ "),
      one,
      damaged,
      two.subarray(0, 127),
      one,
      two.subarray(127),
      two,
      Buffer.from("[00:00:01] ok\n"),
    ]);
    t.strictSame(framer.push(wire).map(toHex), ["010203", "010203", "09".repeat(200)]);
    t.strictSame(framer.counters, { bad: 4, otherLines: 2 });
    const tooLong = Buffer.alloc(4);
    tooLong.writeUInt16BE(5000);
    t.strictSame(framer.push(Buffer.from(`\x06\t${tooLong.toString("base64")}\n`, "latin1")), []);
    t.equal(framer.counters.bad, 5);
  });

  t.test("holds no more than a packet of garbage", async () => {
    const piece = fc.oneof(fc.uint8Array(), fc.constantFrom(hex("0609"), hex("0414"), hex("0a"), Buffer.from("AAoB")));
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 60 }), (pieces) => {
        const framer = new SmpConsoleFramer({ maxBytes: 64 });
        return pieces.flatMap((chunk) => framer.push(chunk)).every((packet) => packet.length <= 64);
      }),
    );
  });
});

t.test("An SMP client", async (t) => {
  for (const options of [
    {},
    { bufferBytes: 160 },
    { bufferBytes: 2048, chatter: "\r\n[00:01] led on\r\nuart:~$ " },
    { version1: true },
  ]) {
    t.test(`echoes, lists, uploads, tests, confirms and erases with ${JSON.stringify(options)}`, async (t) => {
      const flash = newFlash();
      const board = new SmpBoard(flash, options);
      await using client = new SmpClient({ port: board, clock: systemClock });
      await smpParameters(client, never);
      t.equal(await smpEcho(client, "hello", never), "hello");
      const image = smpImage("2.0.0", 5000);
      const progress: number[] = [];
      await smpUpload(client, image, (bytes) => progress.push(bytes), never);
      t.equal(progress.at(-1), 5000);
      t.equal(board.badPackets, 0, "every packet fits the board's buffer");
      t.match(await smpImages(client, never), [
        { version: "1.0.0", active: true, confirmed: true },
        { version: "2.0.0", active: false, pending: false },
      ]);
      await smpSetState(client, hashOf(image), false, never);
      t.match((await smpImages(client, never))[1], { pending: true });
      await t.rejects(smpSetState(client, hashOf(smpImage("3", 10)), false, never), {
        code: "SMP_ERROR",
        rc: options.version1 ? 6 : 8,
        message: options.version1 ? /bad state/u : /no image with this hash/u,
      });
      await smpReset(client, never);
      await using after = new SmpClient({ port: new SmpBoard(flash, options), clock: systemClock });
      t.match(
        (await smpImages(after, never)).find(({ active }) => active),
        { version: "2.0.0", confirmed: false },
      );
      await smpSetState(after, hashOf(image), true, never);
      await smpErase(after, never);
      t.match(await smpImages(after, never), [{ version: "2.0.0", active: true, confirmed: true }]);
    });
  }

  t.test("repeats what was lost, and goes on with an upload that was cut", async (t) => {
    const flash = newFlash();
    const random = seeded(7);
    const image = smpImage("2.0.0", 4000);
    let requests = 0;
    const cut = () => {
      requests += 1;
      if (requests === 8) throw new DeviceGone("unplugged");
    };
    {
      await using client = new SmpClient({ port: new SmpBoard(flash, { onRequest: cut }), clock: systemClock });
      await t.rejects(
        smpUpload(client, image, () => undefined, never),
        { code: "DEVICE_GONE" },
      );
    }
    const before = flash.upload?.bytes.length ?? 0;
    t.ok(before > 500);
    const clock = { ...systemClock, sleep: (ms: number, signal: AbortSignal) => systemClock.sleep(ms / 100, signal) };
    await using client = new SmpClient({ port: new SmpBoard(flash, { lose: () => random() < 0.2 }), clock });
    const progress: number[] = [];
    await smpUpload(client, image, (bytes) => progress.push(bytes), never);
    t.equal(progress[0], before, "it went on where it was");
    t.strictSame(flash.slots[1]?.image, Buffer.from(image));
  });

  t.test("gives up on a board that says nothing", async (t) => {
    const clock = { ...systemClock, sleep: (ms: number, signal: AbortSignal) => systemClock.sleep(ms / 100, signal) };
    await using client = new SmpClient({ port: new SmpBoard(newFlash(), { lose: () => true }), clock });
    await t.rejects(smpEcho(client, "x", never), { code: "TIMED_OUT" });
  });
});

t.test("The SMP driver lists images, and takes firmware over the command path", async (t) => {
  const flash = newFlash();
  const folder = t.testdir();
  const signer = nacl.sign.keyPair();
  const clock = { ...systemClock, sleep: (ms: number, signal: AbortSignal) => systemClock.sleep(ms / 50, signal) };
  const deps: DriverDeps = {
    publish: async () => undefined,
    openPort: async () => new SmpBoard(flash, { bufferBytes: 512 }),
    clock,
    log: silentLog,
    stateDir: async () => folder,
  };
  const keys = [Buffer.from(signer.publicKey).toString("base64")];
  const config = v.parse(bridgeSchemas.smp, {
    id: "radio",
    type: "smp",
    path: "/dev/x",
    hardware: "nrf52840dk",
    firmware: { keys },
  });
  const stop = new AbortController();
  const driver = await bridgeOpener(config)(deps, stop.signal);
  const running = driver.run(stop.signal);
  t.match(await driver.call("images", {}, never), [{ version: "1.0.0", active: true, confirmed: true }]);
  const image = smpImage("2.0.0", 3000);
  const manifest = {
    target: "radio",
    hardware: "nrf52840dk",
    version: "2.0.0",
    sha256: toHex(hashOf(image)),
    size: image.length,
    counter: 0,
  };
  await t.rejects(driver.call("firmware-begin", { ...signManifest(manifest, nacl.sign.keyPair().secretKey) }, never), {
    code: "COMMAND_REFUSED",
  });
  t.strictSame(await driver.call("firmware-begin", { ...signManifest(manifest, signer.secretKey) }, never), {
    offset: 0,
  });
  await driver.call("firmware-data", { offset: 0, data: Buffer.from(image).toString("base64") }, never);
  await until(() => flash.active === 1 && flash.confirmed, "the new firmware");
  stop.abort();
  await running;
  await driver[Symbol.asyncDispose]();
});

t.test("An MCUboot image is named by the SHA-256 of its trailer", async (t) => {
  const body = Buffer.alloc(64, 1);
  const header = Buffer.alloc(32);
  header.writeUInt32LE(0x96f3b83d, 0);
  header.writeUInt16LE(32, 8);
  header.writeUInt32LE(body.length, 12);
  const hash = createHash("sha256").update(header).update(body).digest();
  const tlv = (magic: number, ...entries: [number, Buffer][]): Buffer => {
    const parts = entries.map(([type, value]) => {
      const head = Buffer.alloc(4);
      head.writeUInt16LE(type, 0);
      head.writeUInt16LE(value.length, 2);
      return Buffer.concat([head, value]);
    });
    const all = Buffer.concat(parts);
    const head = Buffer.alloc(4);
    head.writeUInt16LE(magic, 0);
    head.writeUInt16LE(all.length + 4, 2);
    return Buffer.concat([head, all]);
  };
  const plain = Buffer.concat([header, body, tlv(0x6907, [0x01, Buffer.alloc(32)], [0x10, hash])]);
  t.strictSame(mcubootHash(plain), hash);
  const guarded = Buffer.concat([header, body, tlv(0x6908, [0x50, Buffer.alloc(4)]), tlv(0x6907, [0x10, hash])]);
  t.strictSame(mcubootHash(guarded), hash);
  t.equal(mcubootHash(Buffer.from("no image")), undefined);
  for (let length = 0; length < plain.length; length += 1) t.equal(mcubootHash(plain.subarray(0, length)), undefined);
});

t.test("An update over SMP", async (t) => {
  const signer = nacl.sign.keyPair();
  /** Runs an update to its end on a board that is cut at the nth request, and gives the status. */
  async function update(image: Uint8Array, version: string, cutAtRequest: number) {
    const folder = await mkdtemp(join(tmpdir(), "atedge-smp-"));
    const flash = newFlash();
    let requests = 0;
    const options: SmpBoardOptions = {
      bufferBytes: 512,
      onRequest: () => {
        requests += 1;
        if (requests === cutAtRequest) throw new DeviceGone("unplugged");
      },
    };
    const steps: unknown[] = [];
    const log = { ...silentLog, info: (fields: LogFields) => void steps.push(fields["step"]) };
    const clock = { ...systemClock, sleep: (ms: number, signal: AbortSignal) => systemClock.sleep(ms / 50, signal) };
    const open = () =>
      Updater.open({
        target: "radio",
        hardware: "nrf52840dk",
        publicKeys: [signer.publicKey],
        store: new UpdateStore(folder),
        lease: async () => new Scope(),
        openTarget: (signal) => openSmpTarget({ port: new SmpBoard(flash, options), clock }, signal),
        clock,
        log,
      });
    const updater = await open();
    const manifest = {
      target: "radio",
      hardware: "nrf52840dk",
      version,
      sha256: toHex(hashOf(image)),
      size: image.length,
      counter: 0,
    };
    await updater.begin(signManifest(manifest, signer.secretKey));
    await updater.data(0, image);
    await updater.run(never);
    const status = await (await open()).status();
    await rm(folder, { recursive: true, force: true });
    return { status, flash, steps, requests };
  }

  t.test("that waits for a board which is away makes room for another image", async (t) => {
    const folder = t.testdir();
    let openings = 0;
    const updater = await Updater.open({
      target: "radio",
      hardware: "nrf52840dk",
      publicKeys: [signer.publicKey],
      store: new UpdateStore(folder),
      lease: async () => new Scope(),
      openTarget: async () => {
        openings += 1;
        throw new DeviceGone("unplugged");
      },
      clock: systemClock,
      log: silentLog,
    });
    const begin = (image: Uint8Array, version: string) => {
      const about = { target: "radio", hardware: "nrf52840dk", version, counter: 0 };
      const signed = signManifest({ ...about, sha256: toHex(hashOf(image)), size: image.length }, signer.secretKey);
      return updater.begin(signed);
    };
    const first = smpImage("2.0.0", 300);
    await begin(first, "2.0.0");
    await updater.data(0, first);
    const running = updater.run(never);
    await until(() => openings > 0, "a try");
    t.match((await updater.status()).update, { step: "leased", version: "2.0.0" });
    await t.rejects(updater.seal(), { code: "COMMAND_REFUSED", message: /under way/u });
    t.equal(await begin(first, "2.0.0"), 300, "the same one goes on");
    t.equal(await begin(smpImage("2.0.1", 200), "2.0.1"), 0);
    await running;
    t.match((await updater.status()).update, { step: "receiving", version: "2.0.1", receivedBytes: 0 });
  });

  t.test("goes through all steps", async (t) => {
    const { status, flash, steps } = await update(smpImage("2.0.0", 3000), "2.0.0", 0);
    t.match(status.update, { step: "confirmed" });
    t.strictSame(steps, ["receiving", "received", "verified", "leased", "uploaded", "tested", "probed", "confirmed"]);
    t.match(flash, { active: 1, confirmed: true });
  });

  t.test("cut at any request ends with the new or the old firmware confirmed, and says which", async (t) => {
    const { requests } = await update(smpImage("2.0.0", 1500), "2.0.0", 0);
    t.ok(requests >= 10, `${requests} requests`);
    for (let cut = 1; cut <= requests; cut += 1) {
      const { status, flash } = await update(smpImage("2.0.0", 1500), "2.0.0", cut);
      t.equal(
        flash.slots[flash.active]?.version,
        status.update?.step === "confirmed" ? "2.0.0" : "1.0.0",
        `cut ${cut}: ${status.update?.step}`,
      );
      t.match(status.update?.step, /^(?:confirmed|reverted)$/u);
      t.ok(flash.confirmed, "confirmed");
    }
  });

  t.test("to a firmware that does not come up goes back", async (t) => {
    const { status, flash } = await update(smpImage("bad", 1500), "2.0.0", 0);
    t.match(status.update, { step: "reverted", reason: /went back by itself/u });
    t.match(flash, { active: 0, confirmed: true });
  });
});
