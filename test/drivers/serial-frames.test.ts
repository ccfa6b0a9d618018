import fc from "fast-check";
import t from "tap";
import { utf8 } from "../../core/bytes.js";
import { readBinaryFields } from "../../drivers/serial/binary-fields.js";
import { checksumOf, crc16Modbus } from "../../drivers/checksum.js";
import { CountedFrames } from "../../drivers/serial/counted-frames.js";
import { CsvLines } from "../../drivers/serial/csv-lines.js";
import { CobsFrames, DelimitedFrames, LineFrames, SlipFrames } from "../../drivers/serial/delimited-frames.js";
import type { FrameCodec } from "../../drivers/serial/frame-codec.js";
import { formatNmea, parseNmea } from "../../drivers/serial/nmea.js";
import { cutAt } from "../fixtures/cut.js";

const MAX = 300;
const start = Buffer.from([0xaa, 0x55]);
const counted = (
  checksum: "none" | "crc16-modbus" | "xor8",
  length: CountedFrames extends never ? never : 12 | { bytes: 1 | 2; order: "big" | "little" },
) =>
  new CountedFrames({
    start,
    length,
    checksum,
    maxBytes: typeof length === "number" ? length : Math.min(MAX, length.bytes === 1 ? 255 : MAX),
  });

interface Kind {
  readonly make: () => FrameCodec;
  /** Frames that it can hold. */
  readonly frame: fc.Arbitrary<Uint8Array>;
}

const anyBytes = fc.uint8Array({ minLength: 1, maxLength: MAX });
const kinds: Readonly<Record<string, Kind>> = {
  lines: {
    make: () => new LineFrames(MAX),
    frame: anyBytes.map((bytes) => bytes.map((byte) => (byte === 10 || byte === 13 ? 0 : byte))),
  },
  "delimited by CR LF": {
    make: () => new DelimitedFrames(utf8("\r\n"), MAX),
    frame: anyBytes
      .map((bytes) => bytes.map((byte) => (byte === 10 ? 0 : byte)))
      .filter((bytes) => bytes.at(-1) !== 13),
  },
  cobs: { make: () => new CobsFrames(MAX), frame: anyBytes },
  slip: { make: () => new SlipFrames(MAX), frame: anyBytes },
  "fixed-length with CRC": {
    make: () => counted("crc16-modbus", 12),
    frame: fc.uint8Array({ minLength: 12, maxLength: 12 }),
  },
  "length-prefixed": {
    make: () => counted("xor8", { bytes: 1, order: "big" }),
    frame: fc.uint8Array({ minLength: 1, maxLength: 255 }),
  },
  "length-prefixed, 16 bit,": { make: () => counted("crc16-modbus", { bytes: 2, order: "little" }), frame: anyBytes },
};

const hex = (frames: readonly Uint8Array[]): string =>
  frames.map((frame) => Buffer.from(frame).toString("hex")).join(" ");

for (const [name, { make, frame }] of Object.entries(kinds)) {
  void t.test(`${name} frames`, async (t) => {
    await t.test("come out as they went in, however the line cuts them", async () => {
      fc.assert(
        fc.property(fc.array(frame, { maxLength: 6 }), fc.array(fc.nat(2000)), (frames, cuts) => {
          const codec = make();
          const wire = Buffer.concat(frames.map((one) => codec.encode(one)));
          const got = cutAt(
            wire,
            cuts.filter((cut) => cut <= wire.length),
          ).flatMap((chunk) => codec.push(chunk));
          return hex(got) === hex(frames) && codec.dropped === 0;
        }),
      );
    });

    await t.test("come out the same a byte at a time", async () => {
      fc.assert(
        fc.property(fc.array(frame, { maxLength: 3 }), fc.uint8Array({ maxLength: 50 }), (frames, noise) => {
          const [one, other] = [make(), make()];
          const wire = Buffer.concat([noise, ...frames.map((each) => one.encode(each))]);
          const bytewise = Array.from(wire, (byte) => other.push(Buffer.from([byte]))).flat();
          return hex(one.push(wire)) === hex(bytewise);
        }),
      );
    });

    await t.test("are found again after garbage", async () => {
      fc.assert(
        fc.property(fc.uint8Array({ maxLength: 700 }), frame, (noise, last) => {
          const codec = make();
          codec.push(noise);
          // Whatever the garbage claimed to be, so many good frames later it is over.
          const good = codec.encode(last);
          const many = Math.ceil((MAX * 2 + 8) / good.length) + 2;
          const got = Array.from({ length: many }, () => codec.push(good)).flat();
          return hex(got.slice(-1)) === hex([last]);
        }),
        { numRuns: 60 },
      );
    });

    await t.test("never throw at garbage, nor hold more than their bound", async () => {
      fc.assert(
        fc.property(fc.array(fc.uint8Array({ maxLength: 400 }), { maxLength: 20 }), (chunks) => {
          const codec = make();
          return chunks.flatMap((chunk) => codec.push(chunk)).every((got) => got.length <= MAX);
        }),
      );
    });
  });
}

void t.test("frames over the limit are dropped and counted, and the next one is found", async (t) => {
  for (const codec of [new LineFrames(10), new DelimitedFrames(utf8("\n"), 10)]) {
    const got = codec.push(utf8(`${"x".repeat(50)}\ngood\n`));
    t.equal(hex(got), hex([utf8("good")]));
    t.equal(codec.dropped, 1);
  }
  const cobs = new CobsFrames(10);
  t.equal(
    hex(cobs.push(Buffer.concat([Buffer.alloc(100, 7), Buffer.from([0]), cobs.encode(utf8("good"))]))),
    hex([utf8("good")]),
  );
  t.equal(cobs.dropped, 1);
});

void t.test("a false length is not believed: the frame inside what it claims is found", async (t) => {
  const codec = counted("xor8", { bytes: 1, order: "big" });
  const good = codec.encode(utf8("good"));
  const got = codec.push(Buffer.concat([start, Buffer.from([200]), Buffer.alloc(30, 1), good, Buffer.alloc(200)]));
  t.equal(hex(got), hex([utf8("good")]));
  t.ok(codec.dropped >= 1);
});

void t.test("COBS is the published one", async (t) => {
  const codec = new CobsFrames(600);
  const encode = (bytes: readonly number[]): string => Buffer.from(codec.encode(Buffer.from(bytes))).toString("hex");
  t.equal(encode([0]), "010100");
  t.equal(encode([0, 0]), "01010100");
  t.equal(encode([0x11, 0x22, 0x00, 0x33]), "03112202" + "3300");
  t.equal(encode([0x11, 0, 0, 0]), "021101010100");
  const run = Array.from({ length: 254 }, (_, n) => n + 1);
  t.equal(encode(run).slice(0, 4), "ff01");
  t.equal(encode(run).length, (254 + 2) * 2 + (encode(run).endsWith("0100") ? 2 : 0));
  const full = codec.push(Buffer.from([0xff, ...run, 0]));
  t.equal(hex(full), hex([Buffer.from(run)]), "a full block at the end without the empty one after it");
});

void t.test("SLIP is RFC 1055", async (t) => {
  const codec = new SlipFrames(100);
  t.equal(Buffer.from(codec.encode(Buffer.from([0xc0, 0xdb, 1]))).toString("hex"), "c0dbdcdbdd01c0");
  t.equal(codec.push(Buffer.from([0xc0, 1, 0xdb, 2, 0xc0, 3, 0xc0])).length, 1, "a false escape drops its frame only");
});

void t.test("checksums", async (t) => {
  t.equal(crc16Modbus(Buffer.from([0x01, 0x03, 0x00, 0x00, 0x00, 0x0a])), 0xcdc5);
  t.equal(checksumOf("crc16-modbus", utf8("123456789")).toString("hex"), "374b", "check value 0x4B37, low byte first");
  t.equal(checksumOf("xor8", Buffer.from([1, 2, 4])).toString("hex"), "07");
  t.equal(checksumOf("sum8", Buffer.from([0xff, 2])).toString("hex"), "01");
});

void t.test("binary fields", async (t) => {
  const frame = Buffer.alloc(16);
  frame.writeInt16LE(-215, 0);
  frame.writeUInt32BE(4_000_000_000, 2);
  frame.writeFloatBE(1.5, 6);
  const fields = [
    { name: "t", at: 0, type: "i16", order: "little" },
    { name: "count", at: 2, type: "u32", order: "big" },
    { name: "level", at: 6, type: "f32", order: "big" },
  ] as const;
  t.strictSame(readBinaryFields(frame, fields), { t: -215, count: 4_000_000_000, level: 1.5 });
  t.equal(readBinaryFields(frame.subarray(0, 9), fields), undefined, "a frame that is too short gives nothing");
});

void t.test("NMEA 0183", async (t) => {
  const gga = "$GPGGA,123519,4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,*47";
  t.match(parseNmea(gga), {
    talker: "GP",
    kind: "GGA",
    fix: true,
    lat: 48.1173,
    lon: 11 + 31 / 60,
    satellites: 8,
    hdop: 0.9,
    altitude: 545.4,
  });
  const rmc = "$GPRMC,123519,A,4807.038,S,01131.000,W,022.4,084.4,230394,003.1,W*6B";
  t.equal(parseNmea(rmc), undefined, "the checksum is that of N and E");
  const south = parseNmea(formatNmea(rmc.slice(1, rmc.indexOf("*"))));
  t.ok(
    typeof south?.["lat"] === "number" && south["lat"] < -48 && typeof south["lon"] === "number" && south["lon"] < -11,
  );
  t.ok(Math.abs(Number(south?.["speed"]) - 11.5236) < 0.001, "22.4 knots in m/s");
  t.match(parseNmea(formatNmea("GNGGA,,,,,,0,,,,,,,,")), { fix: false });
  t.match(parseNmea(formatNmea("PMTK001,220,3")), { talker: "P", kind: "MTK001", f: ["220", "3"] });
  t.equal(parseNmea("$GPGGA,1"), undefined);
  t.match(parseNmea("$HCHDG,101.1,,,7.1,W", false), { kind: "HDG", f: ["101.1", "", "", "7.1", "W"] });

  await t.test("notices every changed character", async () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: gga.length - 4 }), fc.integer({ min: 1, max: 127 }), (at, flip) => {
        const changed = `${gga.slice(0, at)}${String.fromCharCode(gga.charCodeAt(at) ^ flip)}${gga.slice(at + 1)}`;
        return parseNmea(changed) === undefined;
      }),
    );
  });

  await t.test("never throws", async () => {
    fc.assert(fc.property(fc.string({ unit: "binary" }), (text) => (parseNmea(`$GPGGA${text}`, false), true)));
  });
});

void t.test("CSV lines", async (t) => {
  const read = (codec: CsvLines, line: string): unknown => codec.parse(utf8(line));

  await t.test("take their names from the header, which may come again", async (t) => {
    const codec = new CsvLines([], ",");
    t.equal(read(codec, "boot v1.0: ready!"), undefined);
    t.equal(read(codec, "21.5,40"), undefined, "no names yet");
    t.equal(read(codec, "t, rh"), undefined);
    t.strictSame(read(codec, "21.5, 40"), { t: 21.5, rh: 40 });
    t.equal(read(codec, "21.5"), undefined);
    t.equal(read(codec, "rh,t"), undefined);
    t.strictSame(read(codec, "40,21.5"), { rh: 40, t: 21.5 });
  });

  await t.test("take quotes as RFC 4180 has them", async (t) => {
    const codec = new CsvLines(["name", "t"], ";");
    t.strictSame(read(codec, '"north; ""wall""";21.5'), { name: 'north; "wall"', t: 21.5 });
    t.strictSame(read(codec, "on;true"), { name: "on", t: true });
    for (const line of ['"open;1', '"a"b;1', 'a"b;1', "a;b;c"]) t.equal(read(codec, line), undefined, line);
  });

  await t.test("read back what they wrote", async () => {
    fc.assert(
      fc.property(
        fc.stringMatching(/^[a-zA-Z;", ]{1,20}$/u),
        fc.double({ noNaN: true, noDefaultInfinity: true }),
        (text, n) => {
          const codec = new CsvLines(["text", "n"], ";");
          const back = codec.parse(utf8(codec.format({ text, n })));
          const same = text === "true" || text === "false" ? String(back?.["text"]) : back?.["text"];
          return same === (/[";]/u.test(text) ? text : text.trim()) && Object.is(back?.["n"], n === 0 ? 0 : n);
        },
      ),
    );
  });
});
