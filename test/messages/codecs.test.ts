import { deepStrictEqual } from "node:assert";
import { deflateRawSync } from "node:zlib";
import fc from "fast-check";
import t from "tap";
import { EdgeError } from "../../core/errors.js";
import { formatInfo, parseInfo, type DeviceInfo } from "../../messages/info.js";
import { JsonField } from "../../messages/json-field.js";
import {
  agentRegex,
  answerKey,
  answerPartsOf,
  atKeyOf,
  callerRegex,
  canonicalAtKey,
  infoKey,
  parseAddress,
  parseDevice,
  parseNamespace,
  proofKey,
  readerRegex,
  receiptKey,
  requestIdOf,
  requestKey,
  stateKey,
  telemetryKey,
} from "../../messages/names.js";
import { formatReceipt, parseConsumer, parseReceipt } from "../../messages/receipt.js";
import { answerDetails, formatAnswer, formatRequest, parseAnswer, parseRequest } from "../../messages/rpc.js";
import { formatPack, parsePack, type SenmlReading } from "../../messages/senml.js";
import { formatState, parseState } from "../../messages/state.js";
import { formatTelemetry, parseTelemetry, type TelemetryMessage } from "../../messages/telemetry.js";

/** What t.throws compares a refusal with. */
const typed = { code: /^(SYNTAX_INVALID|LIMIT_EXCEEDED)$/u };
const wire = (value: unknown): unknown => JSON.parse(JSON.stringify(value));
const unpack = (value: unknown): SenmlReading[] => parsePack(new JsonField(wire(value), "senml"));
const onlyTypedErrors = (work: () => unknown): boolean => {
  try {
    work();
    return true;
  } catch (error) {
    return error instanceof EdgeError && (error.code === "SYNTAX_INVALID" || error.code === "LIMIT_EXCEEDED");
  }
};

const stream = "0123456789abcdef0123456789abcdef";
const north = parseAddress("north", "atedge");

const timeMs = fc.integer({ min: 2 ** 28 * 1000, max: 253_402_300_799_999 });
const name = fc.stringMatching(/^[A-Za-z0-9][A-Za-z0-9\-:./_]{0,40}$/u);
const number = fc.double({ noNaN: true, noDefaultInfinity: true }).map((value) => value + 0);
const reading: fc.Arbitrary<SenmlReading> = fc.record(
  { name, unit: fc.constantFrom("Cel", "%RH", "m/s"), value: fc.oneof(number, fc.string(), fc.boolean()), timeMs },
  { requiredKeys: ["name", "value", "timeMs"], noNullPrototype: true },
);

t.test("a SenML pack", async (t) => {
  t.test("is as short as RFC 8428 allows without reordering", async (t) => {
    t.strictSame(formatPack([{ name: "temperature", unit: "Cel", value: 21.5, timeMs: 1_700_000_000_123 }]), [
      { n: "temperature", u: "Cel", v: 21.5, t: 1_700_000_000.123 },
    ]);
    t.strictSame(
      formatPack([
        { name: "temperature.north", unit: "Cel", value: 21.5, timeMs: 1_700_000_000_123 },
        { name: "temperature.south", unit: "Cel", value: -3, timeMs: 1_700_000_000_125 },
      ]),
      [
        { bn: "temperature.", bt: 1_700_000_000.123, bu: "Cel", n: "north", v: 21.5 },
        { n: "south", v: -3, t: 0.002 },
      ],
    );
    t.strictSame(
      formatPack([
        { name: "door.front", value: true, timeMs: 1_700_000_000_000 },
        { name: "door.front", value: false, timeMs: 1_700_000_001_000 },
        { name: "door.front", value: "jammed", timeMs: 1_699_999_999_999 },
      ]),
      [
        { bn: "door.front", bt: 1_700_000_000, vb: true },
        { vb: false, t: 1 },
        { vs: "jammed", t: -0.001 },
      ],
    );
  });

  t.test("gives back every reading, to the millisecond", async () => {
    fc.assert(
      fc.property(fc.array(reading, { minLength: 1, maxLength: 20 }), (readings) => {
        deepStrictEqual(unpack(formatPack(readings)), readings);
      }),
    );
  });

  t.test("of other make is resolved as RFC 8428, 4.6, says", async (t) => {
    // Section 5.1.3 of the RFC, its times moved past 2^28 as they are there.
    const pack = [
      { bn: "urn:dev:ow:10e2073a0108006:", bt: 1.276020076001e9, bu: "A", bver: 10, n: "voltage", u: "V", v: 120.1 },
      { n: "current", t: -5, v: 1.2 },
      { n: "current", t: -4, v: 1.3, ut: 10, extra: 1 },
      { bn: "x", bv: 10, n: "y", v: 2.5 },
      { n: "z" },
    ];
    t.strictSame(unpack(pack), [
      { name: "urn:dev:ow:10e2073a0108006:voltage", unit: "V", value: 120.1, timeMs: 1_276_020_076_001 },
      { name: "urn:dev:ow:10e2073a0108006:current", unit: "A", value: 1.2, timeMs: 1_276_020_071_001 },
      { name: "urn:dev:ow:10e2073a0108006:current", unit: "A", value: 1.3, timeMs: 1_276_020_072_001 },
      { name: "xy", unit: "A", value: 12.5, timeMs: 1_276_020_076_001 },
      { name: "xz", unit: "A", value: 10, timeMs: 1_276_020_076_001 },
    ]);
  });

  t.test("is refused with the place and what was expected", async (t) => {
    const at = 1_700_000_000;
    const table: readonly (readonly [unknown, string])[] = [
      [[], "senml: expected at least 1 entries"],
      [{}, "senml: expected an array"],
      [[1], "senml[0]: expected an object"],
      [[{ n: "a", v: 1 }], "senml[0].t: expected an absolute time from 2^28 seconds"],
      [[{ n: "a", v: 1, t: 60 }], "senml[0].t: expected an absolute time from 2^28 seconds"],
      [[{ n: "a", t: at }], "senml[0].v: expected a value, it is missing"],
      [[{ n: "a", t: at, v: "1" }], "senml[0].v: expected a number"],
      [[{ n: "a", t: at, v: 1, vs: "1" }], "senml[0].vs: expected one value in a record"],
      [[{ n: "a", t: at, vd: "AA" }], "senml[0].vd: expected no sum and no binary value"],
      [[{ n: "a", t: at, v: 1, s: 1 }], "senml[0].s: expected no sum and no binary value"],
      [[{ n: "a", t: at, v: 1, must_: 1 }], "senml[0].must_: expected only members that this version understands"],
      [[{ n: "a", t: at, v: 1, bver: 11 }], "senml[0].bver: expected SenML version 10"],
      [[{ t: at, v: 1 }], "senml[0].n: expected a SenML name"],
      [[{ n: "-a", t: at, v: 1 }], "senml[0].n: expected a SenML name"],
      [[{ n: "a b", t: at, v: 1 }], "senml[0].n: expected a part of a SenML name"],
      [[{ n: "a", t: at, v: 1, u: "" }], "senml[0].u: expected a unit"],
      [[{ n: "a", t: 1e300, v: 1 }], "senml[0].t: expected a time before the year 10000"],
      [[{ n: "a", t: at, bv: 1.7e308, v: 1.7e308 }], "senml[0].v: expected a number"],
    ];
    for (const [pack, message] of table) t.throws(() => parsePack(new JsonField(pack, "senml")), { message });
    const many = Array.from({ length: 1025 }, () => ({ n: "a", t: at, v: 1 }));
    t.throws(() => unpack(many), { code: "LIMIT_EXCEEDED" });
  });

  t.test("is not made of a reading that cannot be sent", async (t) => {
    const good = { name: "a", value: 1, timeMs: 1_700_000_000_000 };
    const bad: readonly SenmlReading[] = [
      { ...good, value: Number.NaN },
      { ...good, value: Number.POSITIVE_INFINITY },
      { ...good, name: "" },
      { ...good, name: "ö" },
      { ...good, name: "a".repeat(129) },
      { ...good, unit: "\n" },
      { ...good, timeMs: 1000 },
      { ...good, timeMs: 1_700_000_000_000.5 },
      { ...good, value: "x".repeat(8193) },
    ];
    for (const reading of bad) t.throws(() => formatPack([good, reading]), typed);
    t.throws(() => formatPack([]), { code: "SYNTAX_INVALID" });
  });
});

t.test("telemetry", async (t) => {
  const position = fc.record(
    {
      stream: fc.stringMatching(/^[0-9a-f]{32}$/u),
      inc: fc.integer({ min: 1 }),
      class: fc.constantFrom("alarm", "event", "measurement"),
      seq: fc.integer({ min: 1 }),
      prev: fc.record(
        { stream: fc.stringMatching(/^[0-9a-f]{32}$/u), inc: fc.integer({ min: 1 }) },
        { noNullPrototype: true },
      ),
    },
    { requiredKeys: ["stream", "inc", "class", "seq"], noNullPrototype: true },
  );
  const pack = fc
    .tuple(position, fc.array(reading, { minLength: 1, maxLength: 4 }), fc.option(fc.tuple(timeMs, timeMs)))
    .map(([at, readings, bracket]): TelemetryMessage => {
      const undated = bracket && { boot: stream, timeFrom: Math.min(...bracket), timeTo: Math.max(...bracket) };
      return { type: "pack", ...at, readings, ...(undated && { undated }) };
    });
  const gap = fc
    .tuple(position, fc.option(fc.nat()), fc.option(timeMs), fc.double({ min: 0, max: 1, noNaN: true }))
    .map(([at, readings, time, part]): TelemetryMessage => {
      const fromSeq = 1 + Math.floor((at.seq - 1) * part);
      const bounds = { fromSeq, toSeq: at.seq, timeFrom: time, timeTo: time };
      return { type: "gap", ...at, gap: { ...bounds, readings, reason: "outbox-full" } };
    });

  t.test("reads back what was formatted, pack or gap", async () => {
    fc.assert(
      fc.property(fc.oneof(pack, gap), fc.boolean(), (message, deflate) => {
        deepStrictEqual(parseTelemetry(wire(formatTelemetry(message, { deflate }))), message);
      }),
    );
  });

  t.test("is deflated where asked and where that saves bytes, under a version that older readers refuse", async (t) => {
    const readings = Array.from({ length: 50 }, (_, n) => ({ name: "bench/t", value: 20 + n / 10, timeMs: 2e12 + n }));
    const message: TelemetryMessage = {
      type: "pack",
      stream,
      inc: 1,
      class: "event",
      seq: 9,
      readings,
      recovered: true,
    };
    const plain = JSON.stringify(formatTelemetry(message));
    const body = formatTelemetry(message, { deflate: true });
    t.ok(JSON.stringify(body).length < plain.length / 2, `${JSON.stringify(body).length} of ${plain.length}`);
    t.match(body, { v: 2, deflate: String, senml: undefined });
    t.strictSame(parseTelemetry(wire(body)), message);
    t.match(formatTelemetry({ ...message, readings: readings.slice(0, 1) }, { deflate: true }), { v: 1, senml: Array });
    const bad =
      (deflate: unknown, v = 2): (() => unknown) =>
      () =>
        parseTelemetry({ ...body, v, deflate });
    t.throws(bad(undefined), { code: "SYNTAX_INVALID" });
    t.throws(bad("AAAA"), { message: "telemetry.deflate: expected base64 of deflated bytes" });
    t.throws(bad("%"), { code: "SYNTAX_INVALID" });
    t.throws(bad(body["deflate"], 1), { message: "telemetry.senml: expected a value, it is missing" });
    const bomb = deflateRawSync(Buffer.alloc(100_000_000)).toString("base64");
    t.ok(bomb.length < 200_000);
    const beforeBytes = process.memoryUsage().rss;
    t.throws(bad(bomb), { code: "LIMIT_EXCEEDED", message: "telemetry.senml: inflates to over 262144 bytes" });
    t.ok(process.memoryUsage().rss - beforeBytes < 50_000_000, "and is not held");
  });

  t.test("is refused with the place and what was expected", async (t) => {
    const head = { v: 1, stream, inc: 1, class: "event", seq: 9 };
    const body = { ...head, senml: [{ n: "a", v: 1, t: 1_700_000_000 }] };
    const gap = { fromSeq: 5, toSeq: 8, readings: null, timeFrom: null, timeTo: null, reason: "outbox-full" };
    t.match(
      parseTelemetry({ ...body, later: true }),
      { type: "pack", seq: 9 },
      "a member of a later version is read over",
    );
    t.match(parseTelemetry({ ...head, gap }), { type: "gap", gap });
    const table: readonly (readonly [object, string])[] = [
      [{ ...body, v: 3 }, "telemetry.v: expected an integer from 1 to 2"],
      [{ ...body, v: 2 }, "telemetry.deflate: expected a value, it is missing"],
      [{ ...body, stream: "00" }, "telemetry.stream: expected 32 lower-case hex digits"],
      [{ ...body, inc: 0 }, "telemetry.inc: expected an integer from 1 to 9007199254740991"],
      [{ ...body, seq: "9" }, "telemetry.seq: expected an integer from 1 to 9007199254740991"],
      [{ ...body, class: "answer" }, 'telemetry.class: expected "alarm" or "event" or "measurement"'],
      [{ ...body, prev: { stream } }, "telemetry.prev.inc: expected a value, it is missing"],
      [{ ...body, gap }, "telemetry.senml: expected either senml or gap, not both"],
      [{ ...head, gap: { ...gap, toSeq: 10 } }, "telemetry.gap.toSeq: expected an integer from 5 to 9"],
      [{ ...head, gap: { ...gap, fromSeq: 10 } }, "telemetry.gap.fromSeq: expected an integer from 1 to 9"],
      [
        { ...head, gap: { ...gap, readings: -1 } },
        "telemetry.gap.readings: expected an integer from 0 to 9007199254740991",
      ],
      [{ ...head, gap: { ...gap, reason: "Full!" } }, "telemetry.gap.reason: expected a reason such as outbox-full"],
      [head, "telemetry.senml: expected a value, it is missing"],
    ];
    for (const [value, message] of table) t.throws(() => parseTelemetry(value), { message });
  });
});

t.test("a receipt", async (t) => {
  const ranges = fc.array(fc.tuple(fc.integer({ min: 2, max: 9 }), fc.nat(5)), { maxLength: 20 }).map((steps) => {
    let at = 0;
    return steps.map(([skip, length]): [number, number] => {
      const from = at + skip;
      at = from + length;
      return [from, at];
    });
  });

  t.test("reads back what was formatted", async () => {
    fc.assert(
      fc.property(ranges, fc.nat(1000), (missing, more) => {
        const have = (missing.at(-1)?.[1] ?? 0) + more;
        const receipt = { consumer: "watch --keep", stream, inc: 3, have, missing };
        deepStrictEqual(parseReceipt(wire(formatReceipt(receipt))), receipt);
      }),
    );
  });

  t.test("is refused when its holes overlap, touch, go down, or lie beyond what it has", async (t) => {
    const receipt = { v: 1, consumer: "c", stream, inc: 1, have: 9 };
    const bad = [
      [[3, 2]],
      [[0, 1]],
      [[2, 10]],
      [[10, 11]],
      [
        [4, 5],
        [2, 2],
      ],
      [
        [2, 4],
        [4, 5],
      ],
      [
        [2, 4],
        [5, 6],
      ],
      [[2]],
      [[2, 3, 4]],
      [2, 3],
      [["2", "3"]],
    ];
    for (const missing of bad) t.throws(() => parseReceipt({ ...receipt, missing }), typed);
    const many = Array.from({ length: 65 }, (_, index) => [2 * index + 2, 2 * index + 2]);
    t.throws(() => parseReceipt({ ...receipt, have: 1000, missing: many }), { code: "LIMIT_EXCEEDED" });
    t.throws(() => parseConsumer("a\nb"), { code: "SYNTAX_INVALID" });
  });
});

t.test("AtRpc", async (t) => {
  t.test("reads back requests and answers", async () => {
    fc.assert(
      fc.property(fc.maxSafeNat(), fc.dictionary(fc.string(), fc.jsonValue()), (reqId, payload) => {
        const request = wire(formatRequest({ reqId, payload }));
        deepStrictEqual(parseRequest(request, reqId), request);
        const answer = wire(formatAnswer({ reqId, respType: "success", payload, message: null }));
        deepStrictEqual(parseAnswer(answer, { type: "success", reqId }), answer);
      }),
    );
  });

  t.test("wants number and type to be the same in key and JSON", async (t) => {
    t.throws(() => parseRequest({ reqId: 8, payload: {} }, 7), { message: "request.reqId: expected 7" });
    t.throws(() => parseRequest({ reqId: "7", payload: {} }, 7), { code: "SYNTAX_INVALID" });
    t.throws(() => parseRequest({ reqId: 7, payload: [] }, 7), { message: "request.payload: expected an object" });
    const ack = { reqId: 7, respType: "ack", payload: {} };
    t.match(parseAnswer(ack, { type: "ack", reqId: 7 }), { message: null }, "a message may be absent");
    t.throws(() => parseAnswer(ack, { type: "success", reqId: 7 }), {
      message: 'answer.respType: expected "success", as in the key',
    });
    t.throws(() => parseAnswer({ ...ack, respType: "maybe" }, { type: "ack", reqId: 7 }), { code: "SYNTAX_INVALID" });
  });

  t.test("reads the details of an answer, and nothing into one of other make", async (t) => {
    const answer = {
      reqId: 7,
      respType: "nack",
      payload: { id: "c", reason: "expired", result: [1] },
      message: null,
    } as const;
    t.strictSame(answerDetails(answer), { id: "c", reason: "expired", result: [1] });
    t.strictSame(answerDetails({ ...answer, payload: { reason: 5 } }), {
      id: undefined,
      reason: undefined,
      result: undefined,
    });
    t.equal(formatAnswer({ ...answer, message: "x".repeat(5000) })["message"], "x".repeat(1024));
  });
});

t.test("records", async (t) => {
  t.test("of state have one value a channel, in the order of their names", async (t) => {
    const readings = [
      { name: "b", value: 1, timeMs: 1_700_000_000_000 },
      { name: "a", unit: "Cel", value: 2, timeMs: 1_700_000_000_500 },
    ];
    const state = parseState(wire(formatState({ at: 1_700_000_001_000, readings })));
    t.strictSame(state, { at: 1_700_000_001_000, readings: [readings[1], readings[0]] });
  });

  t.test("of info read back", async (t) => {
    const info: DeviceInfo = {
      at: 1_700_000_000_000,
      version: "0.1.0",
      drivers: [{ id: "vent", type: "serial" }],
      commands: [{ target: "vent", command: "open", idempotent: true, argsSchema: { type: "object" } }],
      limits: { windowMessages: 64 },
      health: { state: "degraded", parts: [{ name: "mqtt", state: "failed", since: 5, code: "ECONNREFUSED" }] },
    };
    t.strictSame(parseInfo(wire(formatInfo(info))), info);
    t.throws(() => parseInfo({ ...formatInfo(info), drivers: [{ id: 5 }] }), {
      message: "info.drivers[0].id: expected a text",
    });
  });
});

t.test("every parser meets garbage with typed errors only", async () => {
  const parsers: readonly ((value: unknown) => unknown)[] = [
    parseTelemetry,
    parseReceipt,
    parseState,
    parseInfo,
    (value) => parseRequest(value, 1),
    (value) => parseAnswer(value, { type: "ack", reqId: 1 }),
    (value) => parsePack(new JsonField(value, "senml")),
  ];
  const half = fc.record({
    v: fc.constantFrom(1, 2),
    deflate: fc.oneof(fc.base64String(), fc.anything()),
    stream: fc.oneof(fc.constant(stream), fc.anything()),
    inc: fc.oneof(fc.constant(1), fc.anything()),
    class: fc.constant("alarm"),
    seq: fc.oneof(fc.constant(9), fc.anything()),
    senml: fc.oneof(
      fc.array(fc.dictionary(fc.constantFrom("n", "bn", "v", "t", "bt", "u"), fc.anything())),
      fc.anything(),
    ),
    have: fc.oneof(fc.constant(9), fc.anything()),
    consumer: fc.oneof(fc.constant("c"), fc.anything()),
    missing: fc.oneof(fc.array(fc.array(fc.nat(9))), fc.anything()),
  });
  fc.assert(
    fc.property(fc.oneof(fc.anything(), half), fc.constantFrom(...parsers), (value, parse) =>
      onlyTypedErrors(() => parse(value)),
    ),
    { numRuns: 1000 },
  );
});

t.test("names", async (t) => {
  t.test("end in device and namespace", async (t) => {
    t.strictSame(
      [telemetryKey, receiptKey, proofKey, stateKey, infoKey].map((key) => key(north)),
      [
        "telemetry.north.atedge",
        "receipt.north.atedge",
        "proof.north.atedge",
        "state.north.atedge",
        "info.north.atedge",
      ],
    );
    t.equal(requestKey(north, 1_729_771_200_000_001), "request.1729771200000001.cmd.__rpcs.north.atedge");
    t.equal(answerKey(north, "nack", 5), "nack.5.cmd.__rpcs.north.atedge");
    t.equal(atKeyOf("@Bob", "state.north.atedge", "@ALICE"), "@bob:state.north.atedge@alice");
    t.throws(() => canonicalAtKey("@bob:@alice"), { code: "SYNTAX_INVALID" });
    t.throws(() => canonicalAtKey("public:state@alice"), { code: "SYNTAX_INVALID" });
  });

  t.test("are compared to their very end", async (t) => {
    t.equal(requestIdOf("request.12.cmd.__rpcs.north.atedge", north), 12);
    t.strictSame(answerPartsOf("success.12.cmd.__rpcs.north.atedge", north), { type: "success", reqId: 12 });
    const others = [
      "request.12.cmd.__rpcs.up-north.atedge",
      "request.12.cmd.__rpcs.north.atedge2",
      "request.12.cmd.__rpcs.x.north.atedge",
      "x.request.12.cmd.__rpcs.north.atedge",
      "request.012.cmd.__rpcs.north.atedge",
      "request.-1.cmd.__rpcs.north.atedge",
      "request..cmd.__rpcs.north.atedge",
      "request.1e3.cmd.__rpcs.north.atedge",
      "request.9007199254740992.cmd.__rpcs.north.atedge",
      "request.12.cmd.__rpcs.north-atedge",
      "success.12.cmd.__rpcs.north.atedge",
    ];
    for (const key of others) t.equal(requestIdOf(key, north), undefined, key);
  });

  t.test("of devices and namespaces follow their rules", async (t) => {
    for (const text of ["north", "a", "pi-4-b", "a".repeat(30)]) t.equal(parseDevice(text), text);
    for (const text of ["", "North", "4th", "a_b", "a.b", "a".repeat(31), "my-enrollments", "-a"])
      t.throws(() => parseDevice(text), { code: "SYNTAX_INVALID" }, text);
    for (const text of ["atedge", "a_1", "a".repeat(55)]) t.equal(parseNamespace(text), text);
    for (const text of ["", "null", "a-b", "a.b", "_a", "a".repeat(56), "shared_key", "__rpcs"])
      t.throws(() => parseNamespace(text), { code: "SYNTAX_INVALID" }, text);
  });

  t.test("are found by the expressions for monitor, which survive being lower-cased and have no colon", async (t) => {
    const found = (regex: string, key: string): boolean => new RegExp(regex, "u").test(key);
    for (const regex of [agentRegex(north), readerRegex(north), callerRegex(north)]) {
      t.equal(regex, regex.toLowerCase());
      t.notMatch(regex, /[:\s]/u);
    }
    t.ok(found(agentRegex(north), "@bob:receipt.north.atedge@alice"));
    t.ok(found(agentRegex(north), "@bob:request.12.cmd.__rpcs.north.atedge@alice"));
    t.ok(found(readerRegex(north), "@bob:telemetry.north.atedge@alice"));
    t.ok(found(callerRegex(north), "@bob:error.12.cmd.__rpcs.north.atedge@alice"));
    t.notOk(found(readerRegex(north), "@bob:telemetry.north.atedge2@alice"));
    t.notOk(found(readerRegex(north), "@bob:telemetryxnorth.atedge@alice"));
  });
});
