import fc from "fast-check";
import { isDeepStrictEqual } from "node:util";
import t from "tap";
import { EdgeError } from "../../core/errors.js";
import { Delivery } from "../../firmware-bridge/link/delivery.js";
import { parseBoardFrame, toWire, withCrc } from "../../firmware-bridge/link/frames.js";
import { LinkMachine } from "../../firmware-bridge/link/link-machine.js";
import { LinkRefused, PairingFailed } from "../../firmware-bridge/link/link-errors.js";
import { HostPairing } from "../../firmware-bridge/link/pairing.js";
import { seeded } from "./wire-faults.js";

const options = { window: 8, maxMessageBytes: 200, maxQueuedBytes: 4000, retransmitMs: 50 };

/** Two ends and a wire that loses this share of packets; time goes in steps of 5 ms. */
function deliverAll(
  messages: readonly Uint8Array[],
  limits: { readonly pieceBytes: number; readonly window: number },
  loss: number,
  random: () => number,
) {
  const [left, right] = [new Delivery(options), new Delivery(options)];
  left.reset(limits);
  right.reset(limits);
  const received: Uint8Array[] = [];
  let sent = 0;
  let nowMs = 0;
  for (; nowMs < 600_000 && (received.length < messages.length || left.queuedBytes > 0); nowMs += 5) {
    while (sent < messages.length && left.queuedBytes < 2000) left.enqueue(messages[sent++] ?? new Uint8Array());
    for (const [from, to] of [
      [left, right],
      [right, left],
    ] as const) {
      for (let packet = from.nextPacket(nowMs); packet; packet = from.nextPacket(nowMs)) {
        if (random() < loss) {
          if (random() < 0.5) to.damaged();
          continue;
        }
        for (let times = random() < 0.1 ? 2 : 1; times > 0; times -= 1) {
          const message = to.receive(packet, nowMs);
          if (message) received.push(message);
        }
      }
    }
  }
  return { received, nowMs };
}

t.test("Delivery", async (t) => {
  t.test("brings every message once and in order, whatever is lost or doubled", async () => {
    fc.assert(
      fc.property(
        fc.array(fc.uint8Array({ minLength: 1, maxLength: 200 }), { maxLength: 60 }),
        fc.integer({ min: 1, max: 100 }),
        fc.integer({ min: 1, max: 8 }),
        fc.double({ min: 0, max: 0.3, noNaN: true }),
        fc.nat(),
        (messages, pieceBytes, window, loss, seed) => {
          const { received } = deliverAll(messages, { pieceBytes, window }, loss, seeded(seed));
          return isDeepStrictEqual(
            received.map((message) => [...message]),
            messages.map((message) => [...message]),
          );
        },
      ),
      { numRuns: 60 },
    );
  });

  t.test("sends nothing while the peer has no room, and says so when it has room again", async (t) => {
    const [left, right] = [new Delivery(options), new Delivery(options)];
    for (const end of [left, right]) end.reset({ pieceBytes: 10, window: 4 });
    right.setCredit(0);
    right.ask();
    left.receive(right.nextPacket(0) ?? new Uint8Array(), 0);
    left.enqueue(Uint8Array.of(1));
    t.equal(left.nextPacket(0)?.length, 2, "only the answer");
    t.equal(left.nextPacket(0), undefined);
    right.setCredit(4);
    left.receive(right.nextPacket(10) ?? new Uint8Array(), 10);
    t.strictSame([...(right.receive(left.nextPacket(10) ?? new Uint8Array(), 10) ?? [])], [1]);
  });

  t.test("gives up after a dozen tries, and takes no more than its bounds", async (t) => {
    const left = new Delivery(options);
    left.reset({ pieceBytes: 50, window: 2 });
    left.enqueue(Uint8Array.of(1));
    let sent = 0;
    t.throws(
      () => {
        for (let nowMs = 0; nowMs < 60_000; nowMs += 10) if (left.nextPacket(nowMs)) sent += 1;
      },
      { code: "LINK_STUCK" },
    );
    t.equal(sent, 13);
    t.throws(() => left.enqueue(new Uint8Array()), { code: "LIMIT_EXCEEDED" });
    t.throws(() => left.enqueue(new Uint8Array(201)), { code: "LIMIT_EXCEEDED" });
    t.throws(
      () => {
        for (let count = 0; count < 100; count += 1) left.enqueue(new Uint8Array(200));
      },
      { code: "LIMIT_EXCEEDED" },
    );
  });

  t.test("takes any packets, and counts those that break the rules", async () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 60 }), { maxLength: 40 }), (packets) => {
        const end = new Delivery(options);
        end.reset({ pieceBytes: 50, window: 2 });
        end.enqueue(new Uint8Array(120));
        return packets.every((packet) => (end.receive(packet, 0)?.length ?? 1) <= options.maxMessageBytes);
      }),
    );
  });
});

t.test("The host's end of a link, fed with anything, only drops it or refuses with a reason", async () => {
  const record = {
    hostSecret: new Uint8Array(32).fill(1),
    boardKey: new Uint8Array(32).fill(2),
    staticKey: new Uint8Array(32).fill(3),
    root: { key: new Uint8Array(32).fill(4), id: new Uint8Array(4), index: 5, sinceMs: 0 },
  };
  const hello = [1, 7, 7, 7, 7, 0xfc, 1, 2];
  const type = fc.constantFrom(0x10, 0x11, 0x30, 0x31, 0x32, 0x41, 0x43, 0x50, 0x51);
  const fields = fc.oneof(
    fc.uint8Array({ maxLength: 80 }),
    fc.uint8Array({ minLength: 36, maxLength: 36 }).map((rest) => Uint8Array.from([...hello, ...rest])),
    fc.uint8Array({ minLength: 64, maxLength: 64 }).map((rest) => Uint8Array.from([...hello, ...rest])),
    fc.uint8Array({ minLength: 1, maxLength: 6 }),
  );
  const frame = fc.tuple(type, fields).map(([first, rest]) => withCrc(Uint8Array.from([first, ...rest])));
  const chunk = fc.oneof(fc.uint8Array(), frame.map(toWire));
  const typed = (work: () => void): boolean => {
    try {
      work();
      return true;
    } catch (error) {
      return error instanceof LinkRefused || error instanceof PairingFailed || error instanceof EdgeError;
    }
  };
  fc.assert(
    fc.property(fc.array(chunk, { maxLength: 30 }), fc.boolean(), (chunks, clear) =>
      typed(() => {
        const random = (length: number): Uint8Array => new Uint8Array(length).fill(9);
        const limits = { keepAliveMs: 1000, retransmitMs: 50, maxMessageBytes: 4096, maxQueuedBytes: 65_536 };
        const machine = new LinkMachine({ ...limits, random, wallNowMs: 0, ...(clear ? {} : { record }) }, 0);
        machine.start(0);
        for (const [index, bytes] of chunks.entries()) {
          machine.receive(bytes, index * 40);
          machine.tick(index * 40 + 20);
          machine.takeEvents();
        }
        const out = machine.takeOutput();
        if (out.length > 20 * (chunks.length + 1)) throw new Error("more is sent than came");
      }),
    ),
  );
  fc.assert(
    fc.property(fc.array(frame, { maxLength: 10 }), (frames) =>
      typed(() => {
        const pairing = new HostPairing({ random: (length) => new Uint8Array(length).fill(8) });
        for (const bytes of frames) {
          const parsed = parseBoardFrame(bytes);
          if (parsed) pairing.receive(parsed);
        }
      }),
    ),
  );
});
