import fc from "fast-check";
import { deepStrictEqual } from "node:assert/strict";
import { isDeepStrictEqual } from "node:util";
import t from "tap";
import { SyntaxInvalid } from "../../core/errors.js";
import { type CborInput, type CborValue, decodeCbor, encodeCbor } from "../../firmware-bridge/cbor.js";
import { crc16Xmodem, crc32 } from "../../firmware-bridge/crc.js";
import { cobsDecode, cobsEncode, CobsFramer } from "../../firmware-bridge/link/cobs.js";
import { parseBoardFrame, toWire, withCrc } from "../../firmware-bridge/link/frames.js";
import { cborToJson, jsonToCbor, parseBoardMessage } from "../../firmware-bridge/link/messages.js";
import { cutAt } from "../fixtures/cut.js";

const hex = (text: string): Uint8Array => Uint8Array.from(Buffer.from(text.replaceAll(" ", ""), "hex"));
const toHex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex");
const run = (from: number, to: number): Uint8Array => Uint8Array.from({ length: to - from + 1 }, (_, i) => from + i);

t.test("COBS", async (t) => {
  t.test("encodes the examples of its paper and of its usual descriptions", async (t) => {
    const examples: [string, string][] = [
      ["", "01"],
      ["00", "01 01"],
      ["00 00", "01 01 01"],
      ["11 22 00 33", "03 11 22 02 33"],
      ["11 22 33 44", "05 11 22 33 44"],
      ["11 00 00 00", "02 11 01 01 01"],
    ];
    for (const [plain, encoded] of examples) {
      t.equal(toHex(cobsEncode(hex(plain))), toHex(hex(encoded)), plain);
      t.equal(toHex(cobsDecode(hex(encoded)) ?? hex("ff")), toHex(hex(plain)), encoded);
    }
    t.equal(toHex(cobsEncode(run(1, 254))), `ff${toHex(run(1, 254))}`);
    t.equal(toHex(cobsEncode(run(0, 254))), `01ff${toHex(run(1, 254))}`);
    t.equal(toHex(cobsEncode(run(1, 255))), `ff${toHex(run(1, 254))}02ff`);
    t.equal(toHex(cobsEncode(Buffer.concat([run(2, 255), hex("00")]))), `ff${toHex(run(2, 255))}0101`);
  });

  t.test("gives back what it was given, without a zero byte in between", async () => {
    const byte = fc.oneof(fc.constant(0), fc.integer({ min: 0, max: 255 }));
    fc.assert(
      fc.property(fc.array(byte, { maxLength: 700 }), (bytes) => {
        const encoded = cobsEncode(Uint8Array.from(bytes));
        return !encoded.includes(0) && isDeepStrictEqual(cobsDecode(encoded), Uint8Array.from(bytes));
      }),
    );
  });

  t.test("gives the same frames however the bytes are cut", async () => {
    const frames = [hex("00"), run(0, 255), hex("11 00 22"), new Uint8Array(600).fill(7)];
    const wire = Buffer.concat(frames.flatMap((frame) => [hex("00"), toWire(frame)]));
    fc.assert(
      fc.property(fc.array(fc.nat(wire.length)), (cuts) => {
        const framer = new CobsFramer({ maxBytes: 600 });
        return isDeepStrictEqual(
          cutAt(wire, cuts).flatMap((chunk) => framer.push(chunk)),
          frames,
        );
      }),
    );
  });

  t.test("finds the next whole frame after any garbage, and holds no more than a frame", async () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 400 }), { maxLength: 20 }), (garbage) => {
        const framer = new CobsFramer({ maxBytes: 64 });
        const before = garbage.flatMap((chunk) => framer.push(chunk));
        framer.push(hex("00"));
        deepStrictEqual(framer.push(toWire(hex("01 02 03"))), [hex("01 02 03")]);
        return before.every((frame) => frame === undefined || frame.length <= 64);
      }),
    );
  });

  t.test("drops and counts a frame over its limit and one that is no COBS", async (t) => {
    const framer = new CobsFramer({ maxBytes: 8 });
    t.same(framer.push(toWire(run(1, 9))), [undefined]);
    t.same(framer.push(hex("05 11 00")), [undefined]);
    t.same(framer.push(new Uint8Array(10_000).fill(1)), []);
    t.same(framer.push(hex("00")), [undefined]);
    t.same(framer.counters, { tooLong: 2, badCobs: 1 });
  });
});

t.test("CRC-32 and CRC-16 have the check values of their catalogue", async (t) => {
  const check = Buffer.from("123456789");
  t.equal(crc32(check), 0xcbf43926);
  t.equal(crc16Xmodem(check), 0x31c3);
});

t.test("CBOR", async (t) => {
  t.test("decodes the examples of RFC 8949, appendix A, that are in the subset", async (t) => {
    const examples: [string, CborValue][] = [
      ["00", 0],
      ["17", 23],
      ["1818", 24],
      ["1903e8", 1000],
      ["1a000f4240", 1000000],
      ["1b000000e8d4a51000", 1000000000000],
      ["1bffffffffffffffff", 18446744073709551615n],
      ["3bffffffffffffffff", -18446744073709551616n],
      ["20", -1],
      ["3903e7", -1000],
      ["f90000", 0],
      ["f93c00", 1],
      ["f97bff", 65504],
      ["f90001", 5.960464477539063e-8],
      ["f9c400", -4],
      ["fa47c35000", 100000],
      ["fb3ff199999999999a", 1.1],
      ["f97c00", Infinity],
      ["f4", false],
      ["f5", true],
      ["f6", null],
      ["4401020304", hex("01020304")],
      ["6449455446", "IETF"],
      ["63e6b0b4", "水"],
      ["8301820203820405", [1, [2, 3], [4, 5]]],
      [
        "a26161016162820203",
        new Map<string, CborValue>([
          ["a", 1],
          ["b", [2, 3]],
        ]),
      ],
      ["c48221196ab3", 273.15],
    ];
    for (const [bytes, value] of examples) t.same(decodeCbor(hex(bytes)), value, bytes);
    t.ok(Number.isNaN(decodeCbor(hex("f97e00"))));
    t.same(
      decodeCbor(hex("bf61610161629f0203ffff"), { indefinite: true }),
      new Map<string, CborValue>([
        ["a", 1],
        ["b", [2, 3]],
      ]),
    );
    t.same(decodeCbor(hex("7f657374726561646d696e67ff"), { indefinite: true }), "streaming");
    t.same(decodeCbor(hex("5f42010243030405ff"), { indefinite: true }), hex("0102030405"));
  });

  t.test("encodes in the shortest form, numbers with a fraction as decimal fractions", async (t) => {
    const examples: [CborInput, string][] = [
      [0, "00"],
      [23, "17"],
      [24, "1818"],
      [1000, "1903e8"],
      [1000000000000, "1b000000e8d4a51000"],
      [-1, "20"],
      [-1000, "3903e7"],
      [18446744073709551615n, "1bffffffffffffffff"],
      [21.5, "c4822018d7"],
      [273.15, "c48221196ab3"],
      [-0.001, "c4822220"],
      [NaN, "fb7ff8000000000000"],
      ["IETF", "6449455446"],
      [{ a: 1, b: [2, 3] }, "a26161016162820203"],
    ];
    for (const [value, bytes] of examples) t.equal(toHex(encodeCbor(value)), bytes);
  });

  t.test("gives back every number, text and structure exactly", async () => {
    const leaf = fc.oneof(
      fc.double(),
      fc.integer(),
      fc.maxSafeInteger(),
      fc.string({ unit: "grapheme" }),
      fc.boolean(),
      fc.constant(null),
      fc.uint8Array(),
    );
    const { value } = fc.letrec<{ value: CborInput }>((tie) => ({
      value: fc.oneof(
        { maxDepth: 5 },
        leaf,
        fc.array(tie("value"), { maxLength: 4 }),
        fc.array(fc.tuple(fc.string(), tie("value")), { maxLength: 4 }).map((entries) => new Map(entries)),
      ),
    }));
    fc.assert(fc.property(value, (input) => isDeepStrictEqual(plain(decodeCbor(encodeCbor(input))), plain(input))));
  });

  t.test("throws only a typed error on garbage, and believes no length", async (t) => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 60 }), fc.boolean(), (bytes, indefinite) => {
        try {
          decodeCbor(bytes, { indefinite });
          return true;
        } catch (error) {
          return error instanceof SyntaxInvalid;
        }
      }),
      { numRuns: 2000 },
    );
    for (const bytes of [
      "9affffffff",
      "5b7fffffffffffffff",
      "bb00ffffffffffffff",
      "818181818181818181818100",
      "a2616101616102",
      "a10102",
      "c249010000000000000000",
      "9f01ff",
      "0000",
      "62c328",
      "ff",
      "f8ff",
      "",
    ]) {
      t.throws(() => decodeCbor(hex(bytes)), { code: "SYNTAX_INVALID" }, bytes);
    }
  });
});

/** Buffers as plain byte arrays, so that they compare. */
function plain(value: CborInput): unknown {
  if (value instanceof Uint8Array) return [...value];
  if (value instanceof Map)
    return new Map([...(value as Map<string, CborInput>)].map(([key, item]) => [key, plain(item)]));
  if (Array.isArray(value)) return (value as CborInput[]).map(plain);
  return value;
}

t.test("Frames and messages from the board", async (t) => {
  t.test("of any bytes are parsed, or dropped, or refused with a typed error", async () => {
    const types = fc.constantFrom(0x10, 0x11, 0x30, 0x31, 0x32, 0x41, 0x43, 0x50, 0x51, 0x77);
    fc.assert(
      fc.property(types, fc.uint8Array({ maxLength: 90 }), (type, rest) => {
        const frame = withCrc(Buffer.concat([Uint8Array.of(type), rest]));
        parseBoardFrame(frame);
        frame[0] = (frame[0] ?? 0) ^ 1;
        return parseBoardFrame(frame) === undefined || frame[0] === 0x50;
      }),
    );
    const message = fc.oneof(
      fc.uint8Array(),
      fc
        .array(
          fc.oneof(fc.nat(12), fc.string(), fc.constant(null), fc.array(fc.array(fc.oneof(fc.nat(300), fc.string())))),
        )
        .map((items) => encodeCbor([fc.sample(fc.nat(12), 1)[0] ?? 0, ...items])),
    );
    fc.assert(
      fc.property(message, (bytes) => {
        try {
          parseBoardMessage(bytes);
          return true;
        } catch (error) {
          return error instanceof SyntaxInvalid;
        }
      }),
    );
  });

  t.test("give their fields, and say which one is wrong", async (t) => {
    t.same(
      parseBoardMessage(
        encodeCbor([
          1,
          7,
          [
            ["t/1", 21.5, 1000, "Cel", 0],
            ["door", true, 1001, null, 2],
          ],
        ]),
      ),
      {
        kind: "readings",
        id: 7,
        readings: [
          { name: "t/1", value: 21.5, atMs: 1000, unit: "Cel", class: "measurement" },
          { name: "door", value: true, atMs: 1001, unit: undefined, class: "alarm" },
        ],
      },
    );
    t.equal(parseBoardMessage(encodeCbor([99, 1])), undefined);
    const wrong: [CborInput, string][] = [
      [[1, 7, [["t", 1, 0, null, 3]]], "readings[0] class: expected 0 to 2"],
      [[1, 7, [["-t", 1, 0, null, 0]]], "readings[0]: not a SenML name"],
      [[1, 7, [["t", Infinity, 0, null, 0]]], "readings[0]: a value is a finite number, a text, true or false"],
      [[1, -7, []], "id: expected an integer of 0 to 2^32 - 1"],
      [[3, 1, 5, null], "status: expected 0 to 2"],
      [[8, "1", "h", 0, 0, [["a b", true, null]]], "commands[0]: not a command name"],
      [{}, "message: expected an array"],
    ];
    for (const [message, text] of wrong) t.throws(() => parseBoardMessage(encodeCbor(message)), { message: text });
  });

  t.test("carry JSON both ways", async (t) => {
    const json = { on: true, level: 0.25, list: [1, "a", null], deep: { x: {} } };
    t.same(cborToJson(decodeCbor(encodeCbor(jsonToCbor(json)))), json);
    t.equal(cborToJson(hex("0102")), "AQI=");
    t.throws(() => jsonToCbor(undefined, "x"), { message: "x: expected JSON" });
  });
});
