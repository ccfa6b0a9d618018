import { once } from "node:events";
import { createServer, connect as connectTcp, type Server, type Socket } from "node:net";
import fc from "fast-check";
import t from "tap";
import { codeOf } from "../../core/errors.js";
import { Haste } from "../../drivers/mqtt/haste.js";
import { PacketFramer, type MqttFrame } from "../../drivers/mqtt/packet-framer.js";
import {
  correlationOf,
  isPublish,
  parsePublish,
  pubacks,
  type InboundMessage,
} from "../../drivers/mqtt/publish-packet.js";
import { ReceivePath } from "../../drivers/mqtt/receive-path.js";
import { captures, parseTopicFilter, withCaptures } from "../../drivers/mqtt/topic-filter.js";
import { eventually } from "../contracts/driver.js";
import { cutAt } from "../fixtures/cut.js";
import { publishPacket } from "../fixtures/mqtt-packets.js";
import { seededRandom } from "../fixtures/seeded-random.js";

const PINGRESP = Buffer.from([0xd0, 0]);

void t.test("PacketFramer", async (t) => {
  const long = publishPacket({ topic: "a/b", payload: "x".repeat(300), packetId: 7 });
  const wire = Buffer.concat([
    PINGRESP,
    publishPacket({ topic: "a", payload: "1" }),
    long,
    Buffer.from([0x90, 3, 0, 1, 1]),
    PINGRESP,
  ]);
  const whole = (frames: readonly MqttFrame[]): string =>
    frames.map(({ fixed, body }) => Buffer.concat([fixed, body]).toString("hex")).join(" ");

  await t.test("gives the same packets however TCP cuts the bytes", async () => {
    const expected = whole(new PacketFramer({ maxBytes: 1024 }).push(wire));
    fc.assert(
      fc.property(fc.array(fc.nat(wire.length)), (cuts) => {
        const framer = new PacketFramer({ maxBytes: 1024 });
        const frames = cutAt(wire, cuts).flatMap((chunk) => framer.push(Buffer.from(chunk)));
        return whole(frames) === expected && frames.length === 5;
      }),
      { examples: [[Array.from(wire.keys())]] },
    );
  });

  await t.test("gives the beginning of a long PUBLISH and finds the next packet", async () => {
    fc.assert(
      fc.property(fc.array(fc.nat(wire.length)), (cuts) => {
        const framer = new PacketFramer({ maxBytes: 50 });
        const frames = cutAt(wire, cuts).flatMap((chunk) => framer.push(Buffer.from(chunk)));
        const message = frames[2] && parsePublish(frames[2], 4);
        return (
          frames.length === 5 && message?.packetId === 7 && message.omittedBytes > 0 && frames[2]?.body.length === 50
        );
      }),
    );
  });

  await t.test("refuses a false length and a long packet of another kind", async (t) => {
    t.throws(() => new PacketFramer({ maxBytes: 50 }).push(Buffer.from([0x30, 0xff, 0xff, 0xff, 0xff])), {
      code: "SYNTAX_INVALID",
    });
    t.throws(() => new PacketFramer({ maxBytes: 50 }).push(Buffer.from([0x90, 0x60])), { code: "LIMIT_EXCEEDED" });
  });

  await t.test("throws typed errors only, whatever comes", async () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 50 })), fc.constantFrom(4, 5), (chunks, version) => {
        const framer = new PacketFramer({ maxBytes: 100 });
        try {
          for (const chunk of chunks) {
            for (const frame of framer.push(Buffer.from(chunk))) {
              if (isPublish(frame)) parsePublish(frame, version === 5 ? 5 : 4);
            }
          }
          return true;
        } catch (error) {
          return ["SYNTAX_INVALID", "LIMIT_EXCEEDED"].includes(codeOf(error) ?? "");
        }
      }),
      { numRuns: 1000 },
    );
  });
});

void t.test("parsePublish", async (t) => {
  const message = fc.record({
    topic: fc.string({ minLength: 1, maxLength: 40, unit: "grapheme" }).filter((topic) => !/[+#\0]/u.test(topic)),
    payload: fc.string({ maxLength: 200 }),
    retained: fc.boolean(),
    packetId: fc.option(fc.integer({ min: 1, max: 65_535 }), { nil: undefined }),
  });

  await t.test("reads what a broker writes, in versions 3.1.1 and 5", async () => {
    fc.assert(
      fc.property(message, fc.constantFrom(4 as const, 5 as const), (sent, version) => {
        const properties = version === 5 ? Buffer.from([0x01, 0x01, 0x23, 0x00, 0x00]) : undefined;
        const [frame] = new PacketFramer({ maxBytes: 10_000 }).push(publishPacket({ ...sent, properties }));
        const got = frame && parsePublish(frame, version);
        return (
          got?.topic === sent.topic &&
          got.payload.toString() === sent.payload &&
          got.retained === sent.retained &&
          got.packetId === sent.packetId
        );
      }),
    );
  });

  await t.test(
    "finds the correlation data among all other properties (MQTT 5, 2.2.2.2), and survives any bytes",
    async (t) => {
      const text = (id: number, ...parts: readonly string[]): Buffer =>
        Buffer.concat([Buffer.from([id]), ...parts.map((part) => Buffer.from([0, part.length, ...Buffer.from(part)]))]);
      const others = [
        Buffer.from([0x01, 1]),
        Buffer.from([0x02, 0, 0, 1, 0]),
        text(0x03, "text/plain"),
        text(0x08, "a/b"),
        Buffer.from([0x0b, 0xff, 0x7f]),
        Buffer.from([0x23, 0, 9]),
        text(0x26, "name", "value"),
      ];
      const mine = text(0x09, "mine");
      fc.assert(
        fc.property(fc.shuffledSubarray(others), fc.shuffledSubarray(others), (before, after) => {
          return correlationOf(Buffer.concat([...before, mine, ...after]))?.toString() === "mine";
        }),
      );
      t.equal(correlationOf(Buffer.concat(others)), undefined);
      fc.assert(
        fc.property(fc.uint8Array({ maxLength: 40 }), (bytes) => {
          const found = correlationOf(Buffer.from(bytes));
          return found === undefined || found.length <= bytes.length;
        }),
      );
    },
  );

  await t.test("refuses QoS 2, wildcards, an empty topic, the number 0 and every cut", async (t) => {
    const parse = (bytes: Buffer): unknown =>
      new PacketFramer({ maxBytes: 1000 }).push(bytes).map((frame) => parsePublish(frame, 5));
    const bad = [
      Buffer.from([0x34, 6, 0, 1, 0x61, 0, 1, 0]),
      publishPacket({ topic: "a/+", payload: "", properties: Buffer.alloc(0) }),
      publishPacket({ topic: "", payload: "", properties: Buffer.alloc(0) }),
      Buffer.from([0x32, 6, 0, 1, 0x61, 0, 0, 0]),
    ];
    for (const bytes of bad) t.throws(() => parse(bytes), { code: "SYNTAX_INVALID" });
    const good = publishPacket({ topic: "abc", payload: "", packetId: 9, properties: Buffer.from([0x01, 0x01]) });
    for (let length = 0; length < good.length - 2; length += 1) {
      const cut = Buffer.concat([Buffer.from([0x32, length]), good.subarray(2, 2 + length)]);
      t.throws(() => parse(cut), { code: "SYNTAX_INVALID" });
    }
  });
});

void t.test("Haste", async (t) => {
  /** Runs a broker with so many messages in flight against an outbox that waits 200 ms unless told to hurry. */
  const drained = (inFlight: number, messages: number): number => {
    const haste = new Haste();
    let nowMs = 0;
    for (let sent = 0; sent < messages; sent += inFlight) {
      nowMs += haste.arrived(inFlight, nowMs) ? 2 : 200;
      haste.acknowledged(nowMs);
      nowMs += 1;
    }
    return nowMs;
  };
  await t.test("brings a broker that waits for each acknowledgement to many times the speed", async (t) => {
    t.ok(drained(1, 2000) < 2000 * 5, `${drained(1, 2000)} ms for 2000 messages one by one`);
    t.ok(drained(20, 2000) <= 300, `${drained(20, 2000)} ms by twenties`);
  });

  await t.test("leaves sensors that publish at their own pace to share a commit", async (t) => {
    for (const perSecond of [1, 3, 7, 15, 40, 120, 400, 1500]) {
      const haste = new Haste();
      const random = seededRandom(perSecond);
      let hurried = 0;
      let commitAtMs = Infinity;
      let nowMs = 0;
      for (let n = 0; n < perSecond * 100; n += 1) {
        nowMs += (0.5 + random()) * (1000 / perSecond);
        if (commitAtMs <= nowMs) {
          haste.acknowledged(commitAtMs);
          commitAtMs = Infinity;
        }
        commitAtMs = Math.min(commitAtMs, (Math.floor(nowMs / 200) + 1) * 200);
        if (haste.arrived(1, nowMs)) {
          hurried += 1;
          commitAtMs = nowMs + 2;
        }
      }
      t.ok(hurried <= 100, `${hurried} commits out of turn in 100 seconds at ${perSecond} messages a second`);
    }
  });
});

void t.test("topic filters", async (t) => {
  await t.test("cover what MQTT section 4.7 says, and give the captures", async (t) => {
    const match = (filter: string, topic: string): readonly string[] | undefined =>
      captures(parseTopicFilter(filter), topic);
    t.strictSame(match("bench/+/temperature", "bench/3/temperature"), ["3"]);
    t.strictSame(match("bench/#", "bench/3/x"), ["3/x"]);
    t.strictSame(match("+/+", "/x"), ["", "x"]);
    t.strictSame(match("sport/#", "sport"), [""]);
    t.strictSame(match("$share/group/a/+", "a/b"), ["b"]);
    t.strictSame(match("$SYS/#", "$SYS/a"), ["a"]);
    for (const [filter, topic] of [
      ["a/b", "a/b/c"],
      ["a/+", "a"],
      ["a/+", "a/b/c"],
      ["#", "$SYS/a"],
      ["+/a", "$SYS/a"],
    ] as const) {
      t.equal(match(filter, topic), undefined, `${filter} does not cover ${topic}`);
    }
    t.equal(
      withCaptures("temp.{1}.{2}.{3}", ["a", "b"], (part) => part.toUpperCase()),
      "temp.A.B.{3}",
    );
  });

  await t.test("are refused when a wildcard is misplaced", async (t) => {
    for (const filter of ["", "a/#/b", "a#", "a/b+", "a\0"]) {
      t.throws(() => parseTopicFilter(filter), { code: "SYNTAX_INVALID" });
    }
  });
});

interface Wire extends AsyncDisposable {
  readonly path: ReceivePath;
  /** The broker's end. */
  readonly broker: Socket;
  /** All that the broker got so far. */
  got(): Buffer;
}

/** A receive path on a real socket. */
async function wire(
  receive: (messages: readonly InboundMessage[]) => Promise<void>,
  limits: { readonly maxPending?: number; readonly maxPendingBytes?: number; readonly hurry?: () => void } = {},
): Promise<Wire> {
  const server: Server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  if (typeof address !== "object" || !address) throw new Error("no address");
  const socket = connectTcp(address.port, "127.0.0.1");
  const broker = await new Promise<Socket>((resolve) => server.once("connection", resolve));
  const path = new ReceivePath({
    socket,
    version: 4,
    receive,
    hurry: limits.hurry,
    maxPacketBytes: 1000,
    maxPending: limits.maxPending ?? 1000,
    maxPendingBytes: limits.maxPendingBytes ?? 1_000_000,
  });
  path.on("error", () => undefined);
  const chunks: Buffer[] = [];
  broker.on("data", (chunk: Buffer) => chunks.push(chunk));
  broker.on("error", () => undefined);
  return {
    path,
    broker,
    got: () => Buffer.concat(chunks),
    async [Symbol.asyncDispose]() {
      path.destroy();
      broker.destroy();
      server.close();
      await once(server, "close");
    },
  };
}

void t.test("ReceivePath", async (t) => {
  const messageOf = (packetId: number): Buffer => publishPacket({ topic: "a", payload: String(packetId), packetId });

  await t.test("acknowledges in the order of arrival, whatever order the commits end in", async (t) => {
    const commits: (() => void)[] = [];
    await using w = await wire(() => new Promise((resolve) => commits.push(resolve)));
    for (let n = 1; n <= 300; n += 1) {
      w.broker.write(messageOf(n));
      await eventually(() => w.path.pending === n, `message ${n}`);
    }
    t.equal(w.path.pending, 300, "300 are under way side by side");
    for (const commit of commits.slice(1).reverse()) commit();
    await new Promise((resolve) => setTimeout(resolve, 30));
    t.equal(w.got().length, 0, "none while the first is not safe");
    commits[0]?.();
    await eventually(() => w.got().length === 300 * 4, "300 acknowledgements");
    t.strictSame(w.got(), pubacks(Array.from({ length: 300 }, (_, index) => index + 1)));
  });

  await t.test("hands everything else to mqtt.js, in both directions", async (t) => {
    await using w = await wire(async () => undefined);
    const passed: Buffer[] = [];
    w.path.on("data", (chunk: Buffer) => passed.push(chunk));
    w.broker.write(Buffer.concat([PINGRESP, messageOf(1), Buffer.from([0x90, 3, 0, 1, 1])]));
    await eventually(() => Buffer.concat(passed).length === 7, "what is passed on");
    t.strictSame(Buffer.concat(passed), Buffer.concat([PINGRESP, Buffer.from([0x90, 3, 0, 1, 1])]));
    w.path.write(Buffer.from([0xc0, 0]));
    await eventually(() => w.got().length === 6, "a ping and an acknowledgement");
    t.strictSame(w.got(), Buffer.concat([pubacks([1]), Buffer.from([0xc0, 0])]));
  });

  await t.test("puts no acknowledgement between the pieces of a packet of mqtt.js", async (t) => {
    const commits: (() => void)[] = [];
    await using w = await wire(() => new Promise((resolve) => commits.push(resolve)));
    w.broker.write(messageOf(1));
    await eventually(() => commits.length === 1, "the message");
    w.path.cork();
    w.path.write(Buffer.from([0x30]));
    commits[0]?.();
    w.path.write(Buffer.from([3, 0, 1, 0x61]));
    process.nextTick(() => w.path.uncork());
    await eventually(() => w.got().length === 9, "both packets");
    t.strictSame(w.got(), Buffer.concat([Buffer.from([0x30, 3, 0, 1, 0x61]), pubacks([1])]));
  });

  await t.test("ends the connection at the first commit that fails, and acknowledges nothing from it on", async (t) => {
    const ends: { resolve: () => void; reject: (error: Error) => void }[] = [];
    await using w = await wire(() => new Promise((resolve, reject) => ends.push({ resolve, reject })));
    for (let n = 1; n <= 3; n += 1) {
      w.broker.write(messageOf(n));
      await eventually(() => ends.length === n, `message ${n}`);
    }
    ends[0]?.resolve();
    await eventually(() => w.got().length === 4, "the first acknowledgement");
    ends[2]?.resolve();
    const closed = once(w.broker, "close");
    ends[1]?.reject(new Error("disk is full"));
    await closed;
    t.strictSame(w.got(), pubacks([1]));
    t.match(w.path.errored, { message: "disk is full" });
  });

  await t.test("stops reading at its bounds, of messages and of bytes, and goes on below them", async (t) => {
    for (const limits of [{ maxPending: 50 }, { maxPendingBytes: 500 }]) {
      const commits: (() => void)[] = [];
      let received = 0;
      await using w = await wire((messages) => {
        received += messages.length;
        return new Promise((resolve) => commits.push(resolve));
      }, limits);
      for (let n = 1; n <= 20_000; n += 1) w.broker.write(messageOf((n % 65_535) + 1));
      await new Promise((resolve) => setTimeout(resolve, 100));
      t.ok(received < 20_000 && w.path.pending === received, `${received} of 20,000 taken`);
      const drain = setInterval(() => commits.splice(0).forEach((commit) => commit()), 1);
      await eventually(() => received === 20_000, "all of them");
      clearInterval(drain);
    }
  });

  await t.test("takes messages at QoS 0 and acknowledges none", async (t) => {
    const payloads: string[] = [];
    await using w = await wire(async (messages) => {
      payloads.push(...messages.map(({ payload }) => payload.toString()));
    });
    w.broker.write(Buffer.concat([publishPacket({ topic: "a", payload: "zero" }), messageOf(1)]));
    await eventually(() => w.got().length > 0, "the acknowledgement");
    t.strictSame(payloads, ["zero", "1"]);
    t.strictSame(w.got(), pubacks([1]));
  });

  await t.test("acknowledges what is too long, so that it is not delivered for ever", async (t) => {
    let omitted = 0;
    await using w = await wire(async (messages) => {
      for (const { omittedBytes } of messages) omitted += omittedBytes;
    });
    w.broker.write(publishPacket({ topic: "a", payload: "x".repeat(5000), packetId: 5 }));
    await eventually(() => w.got().length === 4, "the acknowledgement");
    t.equal(omitted, 5005 - 1000);
  });

  await t.test("keeps the reason with which a broker ends the connection", async (t) => {
    for (const [code, text] of [
      [0x8e, /another client has taken our session/u],
      [0x8b, /reason code 139/u],
    ] as const) {
      await using w = await wire(async () => undefined);
      const closed = new Promise<void>((resolve) => w.path.once("close", () => resolve()));
      w.broker.end(Buffer.from([0xe0, 2, code, 0]));
      await closed;
      t.match(w.path.farewell, { message: text });
    }
  });

  await t.test("asks for haste when a window full of messages comes at once, not for single ones", async (t) => {
    let hurries = 0;
    await using w = await wire(async () => undefined, { hurry: () => (hurries += 1) });
    for (let n = 1; n <= 15; n += 1) {
      w.broker.write(messageOf(n));
      await eventually(() => w.got().length === n * 4, `message ${n}`);
      await new Promise((resolve) => setTimeout(resolve, 6));
    }
    t.equal(hurries, 0);
    w.broker.write(Buffer.concat(Array.from({ length: 20 }, (_, n) => messageOf(n + 1))));
    await eventually(() => hurries > 0, "haste");
  });

  await t.test("ends the connection at garbage", async (t) => {
    await using w = await wire(async () => undefined);
    const closed = new Promise<void>((resolve) => w.path.once("close", () => resolve()));
    w.broker.write(Buffer.from([0x30, 0xff, 0xff, 0xff, 0xff, 0xff]));
    await closed;
    t.ok(w.path.errored);
  });
});
