import t from "tap";
import * as v from "valibot";
import { utf8 } from "../../core/bytes.js";
import { CountedFrames } from "../../drivers/serial/counted-frames.js";
import { CobsFrames, SlipFrames } from "../../drivers/serial/delimited-frames.js";
import { formatNmea } from "../../drivers/serial/nmea.js";
import { serialSchema } from "../../drivers/serial/config.js";
import { openSerial } from "../../drivers/serial/serial-driver.js";
import { recordingDeps } from "../contracts/driver.js";
import { PtyDevice } from "../fixtures/pty-device.js";

/** 921,600 baud, 10 bits a byte. */
const BYTES_A_SECOND = 92_160;
const MESSAGES = 4000;
const EVERY = 40;

const json = (n: number): Buffer => utf8(JSON.stringify({ n, t: 21.5 + (n % 10) / 10, sensor: "north wall" }));
const line = (text: string): Buffer => utf8(`${text}\r\n`);
const cobs = new CobsFrames(1000);
const slip = new SlipFrames(1000);
const counted = new CountedFrames({
  start: Buffer.from([0xaa, 0x55]),
  length: { bytes: 1, order: "big" },
  checksum: "crc16-modbus",
  maxBytes: 255,
});
const fixed = new CountedFrames({ start: Buffer.from([0x7e]), length: 16, checksum: "crc16-modbus", maxBytes: 16 });
const binary = (n: number): Buffer => {
  const bytes = Buffer.alloc(16, n & 0xff);
  bytes.writeUInt32BE(n, 0);
  return bytes;
};
const binaryKeys = { content: "binary", field: [{ name: "n", at: 0, type: "u32" }], checksum: "crc16-modbus" };

interface Kind {
  readonly keys: object;
  readonly wire: (n: number) => Uint8Array;
  /** Ends what garbage has begun, as a device's next message does not. */
  readonly end?: Uint8Array;
  readonly first?: Uint8Array;
}

const kinds: Readonly<Record<string, Kind>> = {
  "JSON lines": { keys: {}, wire: (n) => line(json(n).toString()), end: utf8("\n") },
  "key=value": { keys: { frame: "key-value" }, wire: (n) => line(`n=${n} t=21.5 sensor=north`), end: utf8("\n") },
  CSV: { keys: { frame: "csv" }, wire: (n) => line(`${n},21.5,north`), end: utf8("\n"), first: line("n,t,sensor") },
  NMEA: {
    keys: { frame: "nmea", reading: [{ pointer: "/f/0", name: "n" }] },
    wire: (n) => line(formatNmea(`PXYZ1,${n},21.5`)),
    end: utf8("\n"),
  },
  delimited: {
    keys: { frame: "delimited", delimiter: "0304" },
    wire: (n) => Buffer.concat([json(n), Buffer.from([3, 4])]),
    end: Buffer.from([3, 4]),
  },
  "fixed-length": {
    keys: { frame: "fixed-length", length: 16, start: "7e", ...binaryKeys },
    wire: (n) => fixed.encode(binary(n)),
  },
  "length-prefixed": {
    keys: { frame: "length-prefixed", start: "aa55", ...binaryKeys },
    wire: (n) => counted.encode(binary(n)),
  },
  COBS: { keys: { frame: "cobs" }, wire: (n) => cobs.encode(json(n)), end: Buffer.from([0]) },
  SLIP: { keys: { frame: "slip" }, wire: (n) => slip.encode(json(n)), end: Buffer.from([0xc0]) },
};

for (const [name, { keys, wire, end = Buffer.alloc(0), first = Buffer.alloc(0) }] of Object.entries(kinds)) {
  void t.test(`${name} through a pty, with garbage in between, at 921,600 baud and no message lost`, async (t) => {
    await using device = await PtyDevice.open();
    await using recording = await recordingDeps();
    let next = 0;
    let wrong = 0;
    let whole: () => void = () => undefined;
    const all = new Promise<void>((resolve) => (whole = resolve));
    const deps = {
      ...recording,
      publish: async (readings: readonly { readonly name: string; readonly value: unknown }[]) => {
        for (const { name, value } of readings) if (name === "n" && Number(value) !== next++) wrong += 1;
        if (next === MESSAGES) whole();
      },
    };
    const config = v.parse(serialSchema, { id: "x", type: "serial", path: device.path, baud: 921_600, ...keys });
    const stop = new AbortController();
    const driver = await openSerial(config, deps, stop.signal);
    const ended = driver.run(stop.signal).catch((error: unknown) => error);
    const parts: Uint8Array[] = [first];
    for (let n = 0; n < MESSAGES; n += 1) {
      // What no kind takes for a message: control characters, halves of UTF-8, a beginning without an end.
      if (n % EVERY === 0) parts.push(Buffer.from([0x7b, 0xff, 1, 0x7e, 0xaa, 0x55, 9, n & 0x7f]), end);
      parts.push(wire(n));
    }
    const bytes = Buffer.concat(parts);
    const start = process.cpuUsage();
    device.send(bytes);
    const outcome = await Promise.race([all.then(() => "all"), ended]);
    const { user, system } = process.cpuUsage(start);
    stop.abort();
    await ended;
    await driver[Symbol.asyncDispose]();
    t.equal(outcome, "all");
    t.strictSame({ next, wrong }, { next: MESSAGES, wrong: 0 }, "every message, in order");
    const cpuSeconds = (user + system) / 1_000_000;
    t.ok(
      cpuSeconds < bytes.length / BYTES_A_SECOND,
      `${(cpuSeconds * 1000).toFixed(0)} ms of processor time for ${bytes.length} bytes: keeps up with the line`,
    );
  });
}
