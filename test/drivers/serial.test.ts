import { spawn } from "node:child_process";
import { once } from "node:events";
import { readdirSync, readlinkSync } from "node:fs";
import { mkdir, mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import t from "tap";
import * as v from "valibot";
import { utf8 } from "../../core/bytes.js";
import { systemClock } from "../../core/clock.js";
import type { Driver } from "../../core/driver.js";
import { silentLog } from "../../core/log.js";
import { configuredDriver } from "../../drivers/registry.js";
import { serialSchema, type SerialConfig } from "../../drivers/serial/config.js";
import { jsonLines, keyValueLines } from "../../drivers/serial/line-codec.js";
import { untilUsbAppears } from "../../drivers/serial/arrival.js";
import { CountedFrames } from "../../drivers/serial/counted-frames.js";
import { CobsFrames } from "../../drivers/serial/delimited-frames.js";
import { findUsbPorts, listSerialPorts, parseUsbMatch } from "../../drivers/serial/usb-ports.js";
import { openPort } from "../../drivers/serial/open-port.js";
import { rs485Struct, writeWithRts, type RtsPort } from "../../drivers/serial/rs485.js";
import { openSerial } from "../../drivers/serial/serial-driver.js";
import { DriverSupervisor } from "../../drivers/supervisor.js";
import { eventually, recordingDeps, type RecordingDeps } from "../contracts/driver.js";
import { PtyDevice } from "../fixtures/pty-device.js";

const never = new AbortController().signal;

interface Bench extends AsyncDisposable {
  readonly device: PtyDevice;
  readonly deps: RecordingDeps;
  readonly driver: Driver;
  readonly ended: Promise<unknown>;
}

/** A driver that runs on a device on a pty. */
async function bench(
  keys: Record<string, unknown>,
  onLine: PtyDevice["onLine"] = () => undefined,
  publish?: Parameters<typeof recordingDeps>[0],
): Promise<Bench> {
  const device = await PtyDevice.open();
  device.onLine = onLine;
  const deps = await recordingDeps(publish);
  const config: SerialConfig = v.parse(serialSchema, { id: "vent", type: "serial", path: device.path, ...keys });
  const stop = new AbortController();
  const driver = await openSerial(config, deps, stop.signal);
  const ended = driver.run(stop.signal).catch((error: unknown) => error);
  return {
    device,
    deps,
    driver,
    ended,
    async [Symbol.asyncDispose]() {
      stop.abort();
      await ended;
      await driver[Symbol.asyncDispose]();
      await device[Symbol.asyncDispose]();
      await deps[Symbol.asyncDispose]();
    },
  };
}

void t.test("line codecs", async (t) => {
  await t.test("read JSON objects and nothing else", async (t) => {
    t.strictSame(jsonLines.parse(utf8('{"t":21.5,"ok":true}')), { t: 21.5, ok: true });
    for (const line of ["boot v1.2", "[1]", "3", '{"t":', "null", ""]) t.equal(jsonLines.parse(utf8(line)), undefined);
    t.equal(jsonLines.parse(Buffer.from([0x7b, 0xff, 0x7d])), undefined);
  });

  await t.test("read key=value pairs as firmware prints them", async (t) => {
    const read = (line: string): unknown => keyValueLines.parse(utf8(line));
    t.strictSame(read("t=21.5 rh=40"), { t: 21.5, rh: 40 });
    t.strictSame(read("t=-1e3,rh=.5;on=true"), { t: -1000, rh: 0.5, on: true });
    t.strictSame(read(' t = 21.5 , name="north wall" '), { t: 21.5, name: "north wall" });
    t.strictSame(read("mode=eco,"), { mode: "eco" });
    for (const line of ["boot v1.2", "=3", "t=", "t=1 noise", 'n="open', "", " "]) t.equal(read(line), undefined, line);
  });

  await t.test("read back what they wrote", async () => {
    const scalar = fc.oneof(
      fc.double({ noNaN: true, noDefaultInfinity: true }),
      fc.boolean(),
      fc.stringMatching(/^[ -!#-~]{0,20}$/u),
    );
    const fields = fc.dictionary(fc.stringMatching(/^[A-Za-z_][A-Za-z0-9_.-]{0,8}$/u), scalar, { minKeys: 1 });
    const same = (a: unknown, b: unknown): boolean => JSON.stringify(a) === JSON.stringify(b);
    fc.assert(
      fc.property(fields, (all) => {
        // A text that looks like a number is read as one; key=value has no types.
        const plain = Object.fromEntries(
          Object.entries(all).filter(
            ([key, value]) =>
              key !== "__proto__" && (typeof value !== "string" || !/^(?:true|false|[-+.\d].*|)$/u.test(value)),
          ),
        );
        return (
          same(jsonLines.parse(utf8(jsonLines.format(all))), all) &&
          (Object.keys(plain).length === 0 || same(keyValueLines.parse(utf8(keyValueLines.format(plain))), plain))
        );
      }),
    );
  });

  await t.test("never throw at garbage, and write one line whatever the value", async () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        for (const codec of [jsonLines, keyValueLines]) codec.parse(bytes);
        return true;
      }),
    );
    fc.assert(
      fc.property(fc.dictionary(fc.stringMatching(/^[a-z]{1,5}$/u), fc.jsonValue()), (fields) =>
        [jsonLines, keyValueLines].every((codec) => !/[\r\n]/u.test(codec.format(fields))),
      ),
    );
  });

  await t.test("take no longer than the line is long", async (t) => {
    const hostile = utf8(`${"a".repeat(30_000)} ${"b=".repeat(15_000)}${" ".repeat(20_000)}`);
    const start = process.cpuUsage();
    keyValueLines.parse(hostile);
    t.ok(process.cpuUsage(start).user < 200_000, "65,000 bytes in under 200 ms of processor time");
  });
});

void t.test("the serial driver", async (t) => {
  await t.test("maps fields to readings and counts what is none", async (t) => {
    const reading = [
      { pointer: "/t", name: "temperature", unit: "Cel" },
      { pointer: "/air/rh", name: "humidity", unit: "%RH", scale: 0.1 },
      { pointer: "/door", name: "door", class: "alarm" },
    ];
    await using b = await bench({ reading, maxLineBytes: 100 });
    b.device.say("\r\nESP-ROM:esp32c3 boot:0x8");
    b.device.say('{"t":21.5,"air":{"rh":405},"other":1}\r');
    b.device.say(`{"t":"${"x".repeat(200)}"}`);
    b.device.send(Buffer.from([0xff, 0xfe, 0x0a]));
    b.device.say('{"door":true}');
    await b.deps.until(3);
    t.match(b.deps.readings, [
      { name: "temperature", value: 21.5, unit: "Cel", class: "measurement" },
      { name: "humidity", value: 40.5, unit: "%RH" },
      { name: "door", value: true, class: "alarm" },
    ]);
    t.match(b.driver.counters?.(), { noise: 2, dropped: 1 });
  });

  await t.test("takes every number and truth value when no reading is configured", async (t) => {
    await using b = await bench({ ack: "ack {n}", frame: "key-value" });
    b.device.say("t=21.5 relay=true name=north n=7");
    await b.deps.until(2);
    t.match(b.deps.readings, [
      { name: "t", value: 21.5 },
      { name: "relay", value: true },
    ]);
    t.equal(b.deps.readings.length, 2);
  });

  await t.test("acknowledges numbered lines in order, and only when they are in the outbox", async (t) => {
    const commits: (() => void)[] = [];
    await using b = await bench({ ack: "ack {n}" }, undefined, () => new Promise((resolve) => commits.push(resolve)));
    for (const n of [1, 2, 3]) {
      b.device.say(`{"t":20,"n":${n}}`);
      await eventually(() => commits.length === n, `commit ${n} to begin`);
    }
    commits[2]?.();
    commits[1]?.();
    await new Promise((resolve) => setTimeout(resolve, 30));
    t.strictSame(b.device.received, [], "nothing before the first is committed");
    commits[0]?.();
    await eventually(() => b.device.received.length === 3, "three acknowledgements");
    t.strictSame(b.device.received, ["ack 1", "ack 2", "ack 3"]);
  });

  await t.test("acknowledges nothing from the first commit that fails on", async (t) => {
    let commits = 0;
    const publish = async (): Promise<void> => {
      if (++commits === 2) throw new Error("disk is full");
    };
    await using b = await bench({ ack: "ack {n}" }, undefined, publish);
    for (const n of [1, 2, 3]) {
      b.device.say(`{"t":20,"n":${n}}`);
      await eventually(() => commits >= Math.min(n, 2), `commit ${n}`);
    }
    t.match(await b.ended, { message: "disk is full" });
    await eventually(() => b.device.received.length > 0, "the first acknowledgement");
    t.strictSame(b.device.received, ["ack 1"]);
  });

  await t.test("stops reading while too much is on its way into the outbox", async (t) => {
    let published = 0;
    await using b = await bench({}, undefined, (readings) => {
      published += readings.length;
      return new Promise(() => undefined);
    });
    for (let n = 0; n < 5000; n += 1) b.device.say('{"t":20}');
    await new Promise((resolve) => setTimeout(resolve, 300));
    t.ok(published >= 1024 && published < 3000, `${published} of 5,000 lines were taken`);
  });

  await t.test("matches answers by number and passes over late ones", async (t) => {
    const command = [
      { name: "relay", args: { on: { type: "boolean" } }, answerPointer: "/relay" },
      { name: "slow", timeoutMs: 60 },
    ];
    await using b = await bench({ command }, (line) => {
      const { id, cmd, on } = JSON.parse(line) as { id: number; cmd: string; on?: boolean };
      if (cmd === "relay") return JSON.stringify({ id, relay: on });
      setTimeout(() => b.device.say(JSON.stringify({ id })), 100);
      return undefined;
    });
    const late = await b.driver.call("slow", {}, never).catch((error: unknown) => error);
    t.match(late, { code: "UNKNOWN_OUTCOME" });
    t.equal(await b.driver.call("relay", { on: false }, never), false);
    await eventually(() => b.driver.counters?.()["strayAnswers"] === 1, "the late answer");
    t.equal(b.deps.readings.length, 0, "an answer is no reading");
  });

  await t.test("gives the device's refusal to the caller", async (t) => {
    await using b = await bench({ command: [{ name: "relay" }] }, () => '{"id":1,"error":"door is open"}');
    await t.rejects(b.driver.call("relay", {}, never), {
      code: "COMMAND_REFUSED",
      message: "the device says: door is open",
    });
  });

  await t.test("fills a configured line and knows the answer by its field", async (t) => {
    const command = [
      {
        name: "set",
        line: "LEVEL {level}",
        answer: "field",
        answerPointer: "/level",
        args: { level: { type: "number" } },
      },
      { name: "beep", line: "BEEP {text}", answer: "none", args: { text: { type: "string" } } },
    ];
    const answer = (line: string): string => line.toLowerCase().replace(" ", "=");
    await using b = await bench({ frame: "key-value", command }, answer);
    t.equal(await b.driver.call("set", { level: 7 }, never), 7);
    t.strictSame(await b.driver.call("beep", { text: "now" }, never), { sent: true });
    await t.rejects(b.driver.call("beep", { text: "now\nLEVEL 9" }, never), { code: "COMMAND_REFUSED" });
    await eventually(() => b.device.received.length === 2, "two lines");
    t.strictSame(b.device.received, ["LEVEL 7", "BEEP now"]);
  });
});

void t.test("what a device may speak besides lines", async (t) => {
  await t.test("JSON in COBS frames, with commands and acknowledgements", async (t) => {
    const cobs = new CobsFrames(1000);
    const say = (text: string): Uint8Array => cobs.encode(utf8(text));
    const keys = { frame: "cobs", ack: '{"ack":{n}}', command: [{ name: "relay", answerPointer: "/relay" }] };
    const received: string[] = [];
    await using b = await bench(keys);
    b.device.onBytes = (chunk) => {
      for (const frame of cobs.push(chunk)) {
        const text = Buffer.from(frame).toString();
        received.push(text);
        if (text.includes("cmd")) b.device.send(say('{"id":1,"relay":true}'));
      }
    };
    b.device.send(Buffer.concat([Buffer.from([3, 2, 0]), say('{"t":21.5,"n":1}')]));
    await b.deps.until(1);
    t.equal(await b.driver.call("relay", {}, never), true);
    await eventually(() => received.length === 2, "the acknowledgement and the command");
    t.strictSame(received, ['{"ack":1}', '{"id":1,"cmd":"relay"}']);
    t.match(b.driver.counters?.(), { dropped: 1 });
  });

  await t.test("binary fields in frames with a length and a CRC", async (t) => {
    const frames = new CountedFrames({
      start: Buffer.from([0xaa, 0x55]),
      length: { bytes: 1, order: "big" },
      checksum: "crc16-modbus",
      maxBytes: 255,
    });
    await using b = await bench({
      frame: "length-prefixed",
      start: "aa55",
      checksum: "crc16-modbus",
      content: "binary",
      order: "little",
      field: [
        { name: "t", at: 0, type: "i16" },
        { name: "p", at: 2, type: "u32", order: "big" },
      ],
      reading: [
        { pointer: "/t", name: "temperature", unit: "Cel", scale: 0.01 },
        { pointer: "/p", name: "pressure", unit: "Pa" },
      ],
    });
    const content = Buffer.alloc(6);
    content.writeInt16LE(2150, 0);
    content.writeUInt32BE(101_325, 2);
    b.device.send(Buffer.concat([Buffer.from("noise"), frames.encode(content)]));
    await b.deps.until(2);
    t.match(b.deps.readings, [
      { name: "temperature", value: 21.5 },
      { name: "pressure", value: 101_325 },
    ]);
  });

  await t.test("NMEA, with sentences of our own for commands and polls", async (t) => {
    await using b = await bench({
      frame: "nmea",
      reading: [{ pointer: "/lat", name: "lat", unit: "lat" }],
      poll: [{ line: "PMTK605", intervalMs: 10_000 }],
      command: [{ name: "rate", line: "PMTK220,{ms}", args: { ms: { type: "integer" } }, answer: "none" }],
    });
    await b.driver.call("rate", { ms: 200 }, never);
    await eventually(() => b.device.received.length === 2, "the poll and the command");
    t.strictSame([...b.device.received].sort(), ["$PMTK220,200*2C", "$PMTK605*31"]);
    b.device.say("$GPGGA,123519,4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,*47");
    await b.deps.until(1);
    t.match(b.deps.readings, [{ name: "lat", value: 48.1173 }]);
  });

  await t.test("CSV with a header", async (t) => {
    await using b = await bench({ frame: "csv" });
    b.device.say("t,rh");
    b.device.say("21.5,40");
    await b.deps.until(2);
    t.match(b.deps.readings, [
      { name: "t", value: 21.5 },
      { name: "rh", value: 40 },
    ]);
  });

  await t.test("nothing by itself: it is asked again and again", async (t) => {
    await using b = await bench({ frame: "key-value", poll: [{ line: "T?", intervalMs: 10 }] }, () => "t=21.5");
    await b.deps.until(5);
    t.ok(b.device.received.every((line) => line === "T?"));
  });

  await t.test("answers to questions that share the line: one at a time, and a time for each", async (t) => {
    let asked = 0;
    let mostAtOnce = 0;
    const poll = [
      { line: "T?", intervalMs: 20, timeoutMs: 400 },
      { line: "H?", intervalMs: 20, timeoutMs: 400 },
      { line: "NOBODY?", intervalMs: 60_000, timeoutMs: 30 },
    ];
    const command = [{ name: "relay", line: "R!", answer: "field", answerPointer: "/relay" }];
    await using b = await bench({ frame: "key-value", poll, command }, (line) => {
      if (line === "NOBODY?") return undefined;
      asked += 1;
      mostAtOnce = Math.max(mostAtOnce, asked);
      setTimeout(() => {
        asked -= 1;
        b.device.say(line === "R!" ? "relay=1" : `${line[0]?.toLowerCase() ?? ""}=1`);
      }, 5);
      return undefined;
    });
    await b.deps.until(6);
    t.equal(await b.driver.call("relay", {}, never), 1);
    const told = b.deps.readings.length;
    await b.deps.until(told + 4);
    t.equal(mostAtOnce, 1, "no question before the answer to the one before");
    t.equal(b.driver.counters?.()["unanswered"], 1);
    t.strictSame([...new Set(b.deps.readings.map(({ name }) => name))].sort(), ["h", "t"]);
  });

  await t.test("nothing any more: it is opened anew", async (t) => {
    await using b = await bench({ silentAfterMs: 100 });
    b.device.say('{"t":1}');
    t.match(await b.ended, { code: "DEVICE_GONE", message: /said nothing for 100 ms/u });
    t.equal(b.deps.readings.length, 1);
  });
});

void t.test("a USB adapter is found by its identifiers in a tree that looks like /sys", async (t) => {
  const dir = await mkdtemp(join(tmpdir(), "atedge-usb-"));
  t.teardown(() => rm(dir, { recursive: true, force: true }));
  const roots = { sys: join(dir, "sys"), dev: join(dir, "dev") };
  const adapter = async (name: string, port: string, facts: Record<string, string>): Promise<void> => {
    const usb = join(roots.sys, "devices", "pci0", "usb1", port);
    const tty = join(usb, `${port}:1.0`, "tty", name);
    await mkdir(tty, { recursive: true });
    for (const [file, text] of Object.entries(facts)) await writeFile(join(usb, file), `${text}\n`);
    await symlink(join(usb, `${port}:1.0`), join(tty, "device"));
    await mkdir(join(roots.sys, "class", "tty"), { recursive: true });
    await symlink(tty, join(roots.sys, "class", "tty", name));
    await mkdir(join(roots.dev, "serial", "by-id"), { recursive: true });
    await writeFile(join(roots.dev, name), "");
    await symlink(`../../${name}`, join(roots.dev, "serial", "by-id", `usb-${facts["product"] ?? ""}-${port}`));
  };
  const uno = { idVendor: "2341", idProduct: "0043", product: "Uno", manufacturer: "Arduino" };
  t.strictSame(await listSerialPorts(roots), []);
  const stop = new AbortController();
  const appeared = (async () => {
    await mkdir(roots.dev, { recursive: true });
    await untilUsbAppears(parseUsbMatch("2341:0043:B"), stop.signal, roots);
  })();
  await adapter("ttyACM0", "1-1", { ...uno, serial: "A" });
  await adapter("ttyACM1", "1-2", { ...uno, serial: "B" });
  await adapter("ttyUSB0", "1-3", { idVendor: "10C4", idProduct: "EA60", product: "CP2102" });
  await appeared;
  const paths = async (text: string): Promise<string[]> =>
    (await findUsbPorts(parseUsbMatch(text), roots)).map(({ path }) => path.slice(roots.dev.length));
  t.strictSame(await paths("2341:0043"), ["/ttyACM0", "/ttyACM1"]);
  t.strictSame(await paths("2341:0043:B"), ["/ttyACM1"]);
  t.strictSame(await paths("10c4:ea60"), ["/ttyUSB0"]);
  t.match(await listSerialPorts(roots), [
    {},
    { serialNumber: "B", manufacturer: "Arduino", byId: [/usb-Uno-1-2$/u] },
    {},
  ]);
  t.throws(() => parseUsbMatch("2341"), { code: "SYNTAX_INVALID" });
});

void t.test("a port that appears is opened at once, not when the wait is over", async (t) => {
  const dir = await mkdtemp(join(tmpdir(), "atedge-hotplug-"));
  t.teardown(() => rm(dir, { recursive: true, force: true }));
  // The folder is not there either, as /dev/serial/by-id without an adapter.
  const path = join(dir, "serial", "by-id", "board");
  const supervisor = new DriverSupervisor({
    drivers: [configuredDriver(v.parse(serialSchema, { id: "vent", type: "serial", path }))],
    publish: async () => undefined,
    stateDir: dir,
    clock: systemClock,
    log: silentLog,
    limits: { firstWaitMs: 3_600_000, maxWaitMs: 3_600_000 },
  });
  const stop = new AbortController();
  t.teardown(() => stop.abort());
  const running = supervisor.run(stop.signal);
  await eventually(() => supervisor.health()[0]?.state === "waiting", "the first failure");
  await using device = await PtyDevice.open();
  await new Promise((resolve) => setTimeout(resolve, 50));
  await mkdir(join(dir, "serial", "by-id"), { recursive: true });
  await symlink(device.path, path);
  await eventually(() => supervisor.health()[0]?.state === "running", "the port");
  stop.abort();
  await running;
});

void t.test("a serial port", async (t) => {
  await t.test("belongs to one program at a time", async (t) => {
    await using device = await PtyDevice.open();
    const port = await openPort(device.path, { baudRate: 115_200 }, never);
    await t.rejects(openPort(device.path, { baudRate: 115_200 }, never), { code: "PORT_UNUSABLE" });
    await port[Symbol.asyncDispose]();
    await (await openPort(device.path, { baudRate: 115_200 }, never))[Symbol.asyncDispose]();
    await t.rejects(openPort("/dev/no-such-port", { baudRate: 9600 }, never), { code: "DEVICE_GONE" });
    await t.rejects(openPort("/etc/hostname", { baudRate: 9600 }, never), { code: "PORT_UNUSABLE" });
  });

  await t.test("tells within a second that another program has it", async (t) => {
    await using device = await PtyDevice.open();
    // flock(1) stands for a terminal program that locks the port.
    const other = spawn("flock", ["-o", device.path, "-c", "echo locked; exec sleep 60"], {
      stdio: ["ignore", "pipe", "ignore"],
    });
    t.teardown(() => other.kill());
    await once(other.stdout, "data");
    const startMs = performance.now();
    await t.rejects(openPort(device.path, { baudRate: 115_200 }, never), {
      code: "PORT_UNUSABLE",
      message: /is another program using it\?$/u,
    });
    t.ok(performance.now() - startMs < 1000);
  });

  await t.test("without an RS-485 mode or an RTS wire says so and is free again", async (t) => {
    await using device = await PtyDevice.open();
    const rs485 = { rtsOnSend: true, delayBeforeMs: 0, delayAfterMs: 0 };
    const open = (mode: "kernel" | "rts") =>
      openPort(device.path, { baudRate: 9600, rs485: { ...rs485, mode } }, never);
    await t.rejects(open("kernel"), { code: "PORT_UNUSABLE", message: /the driver of this port has no RS-485 mode/u });
    await t.rejects(open("rts"), { code: "PORT_UNUSABLE", message: /has no RTS to switch/u });
    await (await openPort(device.path, { baudRate: 9600 }, never))[Symbol.asyncDispose]();
  });

  await t.test("switches an RS-485 line around what it sends", async (t) => {
    const done: unknown[] = [];
    const port: RtsPort = {
      set: async ({ rts }) => void done.push(rts),
      write: async (bytes) => void done.push(bytes.toString()),
      drain: async () => void done.push("drain"),
    };
    const options = { mode: "rts", rtsOnSend: false, delayBeforeMs: 1, delayAfterMs: 1 } as const;
    await writeWithRts(port, Buffer.from("x"), options);
    t.strictSame(done.splice(0), [false, "x", "drain", true]);
    const gone = { ...port, write: () => Promise.reject(new Error("gone")) };
    await t.rejects(writeWithRts(gone, Buffer.from("x"), options), { message: "gone" });
    t.strictSame(done, [false, true], "back to listening all the same");
    // struct serial_rs485, linux/serial.h: SER_RS485_ENABLED | SER_RS485_RTS_AFTER_SEND, 1 ms, 2 ms.
    t.equal(rs485Struct({ ...options, delayAfterMs: 2 }).toString("hex"), `050000000100000002000000${"00".repeat(20)}`);
  });

  await t.test("gives every byte in order at full speed, both ways", async (t) => {
    await using device = await PtyDevice.open();
    const port = await openPort(device.path, { baudRate: 921_600 }, never);
    const total = 400_000;
    const sent = Buffer.from(Array.from({ length: total }, (_, n) => (n * 7 + (n >> 8)) & 0x7f || 1));
    let at = 0;
    let wrong = 0;
    const reading = (async () => {
      for await (const chunk of port.read(never)) {
        for (const byte of chunk) if (byte !== sent[at++]) wrong += 1;
        if (at === total) return;
      }
    })();
    device.send(sent);
    await reading;
    t.equal(wrong, 0);
    await Promise.all([1, 2, 3].map((n) => port.write(utf8(`${String(n).repeat(3000)}\n`), never)));
    await eventually(() => device.received.length === 3, "three lines");
    t.strictSame(device.received, ["1".repeat(3000), "2".repeat(3000), "3".repeat(3000)], "writes do not mix");
    await port[Symbol.asyncDispose]();
    await t.rejects(port.write(utf8("x"), never), { code: "DEVICE_GONE" });
  });
});

void t.test(
  "unplugged and plugged in 1,000 times, the driver comes back each time and leaks no descriptor",
  async (t) => {
    await using device = await PtyDevice.open();
    await using deps = await recordingDeps();
    let readings = 0;
    const config = v.parse(serialSchema, { id: "vent", type: "serial", path: device.path });
    const supervisor = new DriverSupervisor({
      drivers: [configuredDriver(config)],
      publish: async (_, batch) => void (readings += batch.length),
      stateDir: await deps.stateDir(),
      clock: systemClock,
      log: silentLog,
      limits: { firstWaitMs: 2, maxWaitMs: 5 },
    });
    const stop = new AbortController();
    const running = supervisor.run(stop.signal);
    const state = (): string | undefined => supervisor.health()[0]?.state;
    const open = (): number =>
      readdirSync("/proc/self/fd").filter((fd) => {
        try {
          return /^\/dev\/(?:pts|ptmx)/u.test(readlinkSync(`/proc/self/fd/${fd}`));
        } catch {
          return false;
        }
      }).length;

    /** Looks every millisecond: there are 3,000 waits. */
    const soon = async (condition: () => boolean, what: string): Promise<void> => {
      const limitMs = performance.now() + 30_000;
      while (!condition()) {
        if (performance.now() > limitMs) throw new Error(`waited in vain for ${what}`);
        await new Promise((resolve) => setTimeout(resolve, 1));
      }
    };

    await soon(() => state() === "running", "the first opening");
    const openBefore = open();
    for (let round = 1; round <= 1000; round += 1) {
      const before = readings;
      // In every other round data is under way when the cable is pulled.
      device.say('{"t":1}');
      await soon(() => readings > before, `a reading in round ${round}`);
      if (round % 2 === 0) for (let n = 0; n < 20; n += 1) device.say('{"t":2}');
      device.unplug();
      await soon(() => state() !== "running", `the unplug in round ${round}`);
      device.plug();
      await soon(() => state() === "running", `the replug in round ${round}`);
    }
    t.equal(open(), openBefore);
    t.match(supervisor.health(), [{ counters: { opened: 1001 } }]);
    stop.abort();
    await running;
  },
);
