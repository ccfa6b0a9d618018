import { randomBytes } from "node:crypto";
import { readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import { systemClock } from "../../core/clock.js";
import { codeOf } from "../../core/errors.js";
import { openPort } from "../../drivers/serial/open-port.js";
import { encodeCbor } from "../../firmware-bridge/cbor.js";
import { CobsFramer } from "../../firmware-bridge/link/cobs.js";
import { FrameType, parseBoardFrame, toWire, uint32, withCrc } from "../../firmware-bridge/link/frames.js";
import { hash16, hash32, publicKeyOf, sealBox } from "../../firmware-bridge/link/link-crypto.js";
import { pairBoard } from "../../firmware-bridge/link/pair-board.js";
import { HostPairing } from "../../firmware-bridge/link/pairing.js";
import { BoardProcess } from "./board-process.js";
import { Host, never, portThrough, until, whileRunning } from "./link-rig.js";

/** A way of the wire that sees whole frames, and may answer with others. Fields come without their CRC. */
function frames(change: (frame: Uint8Array) => readonly Uint8Array[]): (bytes: Uint8Array) => Uint8Array {
  const framer = new CobsFramer({ maxBytes: 2048 });
  return (bytes) => Buffer.concat(framer.push(bytes).flatMap((frame) => (frame ? change(frame).map(toWire) : [])));
}

/** The same for frames that are not sealed, without their CRC; the others pass. */
const handshakes = (change: (fields: Uint8Array) => readonly Uint8Array[]): ((bytes: Uint8Array) => Uint8Array) =>
  frames((frame) => (frame[0] === FrameType.sealed ? [frame] : change(frame.subarray(0, -4)).map(withCrc)));

async function pair(args: readonly string[] = ["-r", "0"]) {
  const board = await BoardProcess.start({ args });
  const host = await Host.create();
  await host.pair(board);
  return {
    board,
    host,
    async [Symbol.asyncDispose]() {
      await board[Symbol.asyncDispose]();
      await host[Symbol.asyncDispose]();
    },
  };
}

t.test("Replay", async (t) => {
  t.test("of a recorded session to the board runs no command, in the same session or a later one", async (t) => {
    await using rig = await pair();
    const { board, host } = rig;
    const recorded: Uint8Array[] = [];
    let inject: Uint8Array[] = [];
    const wire = {
      toBoard: (bytes: Uint8Array) => {
        recorded.push(Uint8Array.from(bytes));
        return Buffer.concat([bytes, ...inject.splice(0)]);
      },
    };
    for (const later of [false, true]) {
      const driver = await host.open(board, {}, wire);
      await whileRunning(driver, async () => {
        await driver.call("relay", { on: true }, never);
        const before = await board.counters();
        inject = [...recorded];
        await driver.call("relay", { on: false }, never);
        board.tell("relay");
        await board.said(/^relay off$/u);
        const after = await board.counters();
        t.equal(after["commands"], (before["commands"] ?? 0) + 1, later ? "a later session" : "the same session");
        t.ok((after["refused"] ?? 0) > (before["refused"] ?? 0), "refused, and counted");
        t.strictSame(await driver.call("self-test", {}, never), "passed", "the link goes on");
      });
    }
    t.equal(await board.end(), 0, board.errors);
  });

  t.test("of a recorded session to the host gives no reading", async (t) => {
    await using rig = await pair();
    const { board, host } = rig;
    const recorded: Uint8Array[] = [];
    const record = (bytes: Uint8Array): Uint8Array => (recorded.push(Uint8Array.from(bytes)), bytes);
    const first = await host.open(board, {}, { toHost: record });
    await whileRunning(first, async () => {
      board.tell("burst 20");
      await until(() => host.values("number").length === 20, "readings");
    });
    let inject = false;
    const replay = (bytes: Uint8Array): Uint8Array => {
      if (!inject) return bytes;
      inject = false;
      return Buffer.concat([bytes, ...recorded]);
    };
    const second = await host.open(board, {}, { toHost: replay });
    await whileRunning(second, async (running) => {
      inject = true;
      await second.call("self-test", {}, never);
      board.tell("burst 5");
      await until(() => host.values("number").length === 25, "five more");
      t.equal(await Promise.race([running, Promise.resolve("still running")]), "still running");
    });
    t.strictSame(
      host.values("number"),
      Array.from({ length: 25 }, (_, index) => index + 1),
    );
    t.ok((second.counters?.()["refusedFrames"] ?? 0) > 10, "refused, and counted");
  });
});

t.test(
  "A frame that is held back, and whose truncated, lengthened and changed forms come first, counts once",
  async (t) => {
    await using rig = await pair();
    const { board, host } = rig;
    let held: Uint8Array | undefined;
    let hold = false;
    const toBoard = frames((frame) => {
      if (!hold || frame.length < 40 || held) return held && frame.length >= 40 ? [] : [frame];
      held = frame;
      const broken: Uint8Array[] = [];
      for (let length = 1; length < frame.length; length += 1) broken.push(frame.subarray(0, length));
      for (let at = 0; at < frame.length; at += 1)
        broken.push(frame.map((byte, index) => (index === at ? byte ^ 0x10 : byte)));
      broken.push(Buffer.concat([frame, Buffer.alloc(1)]), Buffer.concat([frame, frame]));
      return [...broken, frame];
    });
    const driver = await host.open(board, {}, { toBoard });
    await whileRunning(driver, async () => {
      hold = true;
      t.strictSame(await driver.call("relay", { on: true }, never), { on: true });
      const { commands, refused = 0, bad = 0 } = await board.counters();
      t.equal(commands, 1);
      t.ok(held && refused + bad >= 2 * held.length - 30, `${refused} refused and ${bad} bad`);
    });
    t.equal(await board.end(), 0, board.errors);
  },
);

t.test("Frames that overtake each other are not taken out of order", async (t) => {
  await using rig = await pair();
  const { board, host } = rig;
  let kept: Uint8Array[] = [];
  let count = 0;
  const toHost = frames((frame) => {
    count += 1;
    if (count % 10 === 0) return ((kept = [frame]), []);
    return [frame, ...kept.splice(0)];
  });
  const driver = await host.open(board, {}, { toHost });
  await whileRunning(driver, async () => {
    board.tell("burst 1000");
    await until(() => host.values("number").length === 1000, "readings");
  });
  t.strictSame(
    host.values("number"),
    Array.from({ length: 1000 }, (_, index) => index + 1),
  );
  t.ok((driver.counters?.()["refusedFrames"] ?? 0) >= 10, "refused, and sent again");
});

t.test("A man in the middle", async (t) => {
  /** Pairs with both sides at once: as a board with the host, as a host with the board. */
  function middle(choose: "commit" | "cheat") {
    const own = randomBytes(32);
    const key = publicKeyOf(own);
    const nonce = randomBytes(16);
    const towardsBoard = new HostPairing({ random: randomBytes });
    let hostKey: Uint8Array = new Uint8Array(32);
    let commitment: Uint8Array = new Uint8Array(32);
    const toHost: Uint8Array[] = [];
    const toBoard: Uint8Array[] = [];
    const common = () => [new Uint8Array(32), Uint8Array.of(1), hostKey, key];
    const step = (): void => {
      const frame = towardsBoard.tick(performance.now());
      if (frame) toBoard.push(frame);
    };
    return {
      digits: undefined as string | undefined,
      toBoard: frames((frame) => {
        const fields = frame.subarray(0, -4);
        if (fields[0] === FrameType.pair1) {
          hostKey = fields.slice(3);
          commitment = hash32("atedge1 commit", ...common(), nonce);
          toHost.push(withCrc(Buffer.concat([Uint8Array.of(FrameType.pair2), key, commitment])));
          step();
        } else if (fields[0] === FrameType.pair3) {
          const hostNonce = fields.slice(1, 17);
          // To cheat is to choose a nonce after the host's is known, so that both see the same digits.
          const shown = choose === "cheat" ? randomBytes(16) : nonce;
          const tag = hash16("atedge1 pair-b", ...common(), hostNonce, shown);
          toHost.push(withCrc(Buffer.concat([Uint8Array.of(FrameType.pair4), shown, tag])));
        }
        return toBoard.splice(0);
      }),
      toHost: frames((frame) => {
        const parsed = parseBoardFrame(frame);
        if (parsed) towardsBoard.receive(parsed);
        step();
        return toHost.splice(0);
      }),
      takeToBoard: () => Buffer.concat(toBoard.splice(0).map(toWire)),
    };
  }

  t.test("at pairing makes the two sides show different digits, and nothing is stored", async (t) => {
    await using board = await BoardProcess.start({ args: ["-r", "0"] });
    await using host = await Host.create();
    const attacker = middle("commit");
    board.tell("pair");
    await board.counters();
    const real = await openPort(board.path, { baudRate: 115_200 }, never);
    await using port = portThrough(real, {
      toBoard: attacker.toBoard,
      toHost: (bytes) => {
        const out = attacker.toHost(bytes);
        const more = attacker.takeToBoard();
        if (more.length > 0) void real.write(more, never);
        return out;
      },
    });
    let shown = "";
    const confirm = async (digits: string): Promise<boolean> => {
      shown = digits;
      const [, theirs] = await board.said(/^digits (\d{6})$/u);
      t.not(theirs, digits, "a person sees it");
      board.tell("reject");
      return theirs === digits;
    };
    await t.rejects(pairBoard({ port, clock: systemClock, confirm, timeoutMs: 8000 }, never), {
      code: "PAIRING_FAILED",
      message: /digits differ/u,
    });
    t.match(shown, /^\d{6}$/u);
    await board.said(/^pairing-failed$/u);
    await t.rejects(host.open(board), { code: "LINK_NOT_PAIRED" });
    t.equal(await board.end(), 0, board.errors);
  });

  t.test("cannot choose its nonce after the host's", async (t) => {
    await using board = await BoardProcess.start({ args: ["-r", "0"] });
    const attacker = middle("cheat");
    board.tell("pair");
    await using port = portThrough(await openPort(board.path, { baudRate: 115_200 }, never), attacker);
    const pairing = pairBoard({ port, clock: systemClock, confirm: async () => true, timeoutMs: 8000 }, never);
    await t.rejects(pairing, { code: "PAIRING_FAILED", message: /commitment/u });
  });

  t.test(
    "at a session is refused: with its own keys, with weak keys, with other limits than the board said",
    async (t) => {
      await using rig = await pair();
      const { board, host } = rig;
      await (await host.open(board))[Symbol.asyncDispose]();
      const replace = (from: number, bytes: Uint8Array, type: number) =>
        handshakes((fields) => {
          if (fields[0] !== type) return [fields];
          const changed = Uint8Array.from(fields);
          changed.set(bytes, from);
          return [changed];
        });
      const root = await readFile(join(host.folder, "link.json"), "utf8");
      const noRoot = JSON.stringify({ ...(JSON.parse(root) as object), root: undefined });
      const attacks: [string, (bytes: Uint8Array) => Uint8Array][] = [
        ["its own ephemeral key", replace(9, publicKeyOf(randomBytes(32)), FrameType.renewed)],
        ["a weak key", replace(9, new Uint8Array(32), FrameType.renewed)],
        ["a larger window", replace(8, Uint8Array.of(9), FrameType.renewed)],
      ];
      for (const [what, toHost] of attacks) {
        await writeFile(join(host.folder, "link.json"), noRoot);
        await t.rejects(host.open(board, {}, { toHost }), { code: "LINK_WRONG_KEY" }, what);
        t.equal(await readFile(join(host.folder, "link.json"), "utf8"), noRoot, "nothing is pinned anew");
      }
      await (await host.open(board))[Symbol.asyncDispose]();
      t.equal(await board.end(), 0, board.errors);
    },
  );

  t.test("cannot talk the host into clear text, and its clear frames are nothing to either side", async (t) => {
    await using rig = await pair();
    const { board, host } = rig;
    const clear = withCrc(Uint8Array.of(FrameType.clear, 0x78, 0, 0, 0x83, 0x01, 0x09, 0x80));
    const openedClear = handshakes((fields) =>
      fields[0] === FrameType.resumed || fields[0] === FrameType.renewed
        ? [Buffer.concat([Uint8Array.of(FrameType.openedClear), fields.subarray(1, 9), new Uint8Array(16)])]
        : [fields],
    );
    const outcome = await host.open(board, { openTimeoutMs: 900 }, { toHost: openedClear }).catch(codeOf);
    t.equal(outcome, "TIMED_OUT");
    let inject = false;
    const withClear = frames((frame) => (inject ? [clear, frame] : [frame]));
    const driver = await host.open(board, {}, { toHost: withClear, toBoard: withClear });
    await whileRunning(driver, async () => {
      inject = true;
      await driver.call("self-test", {}, never);
      board.tell("burst 10");
      await until(() => host.values("number").length === 10, "readings");
      t.ok(((await board.counters())["refused"] ?? 0) > 0, "the board refused them");
      t.ok((driver.counters?.()["refusedFrames"] ?? 0) > 0, "the host too");
    });
    t.equal(await board.end(), 0, board.errors);
  });
});

t.test("Keys that nobody agreed on open nothing: a handshake that fails leaves none behind", async (t) => {
  await using rig = await pair();
  const { board, host } = rig;
  let resume: Uint8Array | undefined;
  const note = frames((frame) => {
    if (frame[0] === FrameType.resume) resume = frame;
    return [frame];
  });
  await (await host.open(board))[Symbol.asyncDispose]();
  await (await host.open(board, {}, { toBoard: note }))[Symbol.asyncDispose]();
  await using port = await openPort(board.path, { baudRate: 115_200 }, never);
  const before = await board.counters();
  const renew = withCrc(
    Buffer.concat([
      Uint8Array.of(FrameType.renew),
      (resume ?? new Uint8Array()).subarray(1, 11),
      randomBytes(16),
      new Uint8Array(32),
    ]),
  );
  const packet = Buffer.concat([Uint8Array.of(0x78, 0, 0), encodeCbor([2, 1, "relay", { on: true }, 1000])]);
  const sealed = (key: Uint8Array): Uint8Array =>
    Buffer.concat([Uint8Array.of(FrameType.sealed), uint32(1), sealBox(packet, 1, key)]);
  // A recorded RESUME makes the board wait for its third frame; a RENEW with a weak key then fails in the middle.
  for (const frame of [resume ?? new Uint8Array(), renew, sealed(new Uint8Array(32))])
    await port.write(toWire(frame), never);
  await new Promise((resolve) => setTimeout(resolve, 200));
  const after = await board.counters();
  t.equal(after["commands"], before["commands"]);
  t.ok((after["refused"] ?? 0) > (before["refused"] ?? 0));
  t.equal(await board.end(), 0, board.errors);
});

t.test("KNOCKs that somebody else sends do not make the two sides open session after session", async (t) => {
  await using rig = await pair();
  const { board, host } = rig;
  const knock = withCrc(Uint8Array.of(FrameType.knock, 1, 9, 9, 9, 9, 16));
  const driver = await host.open(board, {}, { toHost: frames((frame) => [knock, frame]) });
  await whileRunning(driver, async () => {
    board.tell("burst 2000");
    await until(() => host.values("number").length === 2000, "readings");
    for (let times = 0; times < 20; times += 1) await driver.call("self-test", {}, never);
  });
  t.ok(host.logged.filter(({ message }) => message === "the board knocks").length > 50, "they came");
  // One more for each time that this machine is too busy to answer within 150 ms.
  t.ok(host.sessions.length < 6, `${host.sessions.length} sessions`);
});

t.test("Another board in the place of the pinned one", async (t) => {
  t.test(
    "after a re-flash that erased its keys is refused as not paired, and so is one paired elsewhere",
    async (t) => {
      await using rig = await pair();
      const { board, host } = rig;
      await (await host.open(board))[Symbol.asyncDispose]();
      const before = await readFile(join(host.folder, "link.json"), "utf8");
      await board.kill();
      await rm(join(board.folder, "store.bin"));
      await using flashed = await BoardProcess.start({ args: ["-r", "0"], folder: board.folder });
      await t.rejects(host.open(flashed), { code: "LINK_NOT_PAIRED", message: /atedge link pair/u });
      await using other = await Host.create();
      await other.pair(flashed);
      await t.rejects(host.open(flashed), { code: "LINK_WRONG_KEY" });
      t.equal(await readFile(join(host.folder, "link.json"), "utf8"), before, "the pin stays");
      await (await other.open(flashed))[Symbol.asyncDispose]();
    },
  );

  t.test("that speaks another version is refused as such", async (t) => {
    await using rig = await pair();
    const { board, host } = rig;
    const newer = handshakes((fields) => [fields[0] === FrameType.renew ? fields.with(1, 2) : fields]);
    await t.rejects(host.open(board, {}, { toBoard: newer }), { code: "LINK_VERSION" });
  });
});

t.test("A provisioning key", async (t) => {
  const key = randomBytes(32);
  const file = join(t.testdir({ key: key.toString("hex") }), "key");
  const start = (): Promise<BoardProcess> => BoardProcess.start({ args: ["-r", "0", "-k", file] });

  t.test("pairs without a person", async (t) => {
    await using board = await start();
    await using host = await Host.create();
    t.equal(await host.pair(board, { key }), undefined, "no digits");
    await (await host.open(board))[Symbol.asyncDispose]();
    t.equal(await board.end(), 0, board.errors);
  });

  t.test("that is another one is refused, and a board that has one does not pair by digits", async (t) => {
    await using board = await start();
    await using host = await Host.create();
    await t.rejects(host.pair(board, { key: randomBytes(32) }), {
      code: "PAIRING_FAILED",
      message: /provisioning key/u,
    });
    await using port = await openPort(board.path, { baudRate: 115_200 }, never);
    board.tell("pair");
    const byDigits = pairBoard({ port, clock: systemClock, confirm: async () => true, timeoutMs: 300 }, never);
    await t.rejects(byDigits, { code: "PAIRING_FAILED", message: /not open for pairing/u });
    t.notOk(board.lines.includes("paired"));
  });

  t.test("is of no use while the board is not open for pairing", async (t) => {
    await using board = await start();
    await using port = await openPort(board.path, { baudRate: 115_200 }, never);
    const pairing = pairBoard(
      { port, clock: systemClock, provisioningKey: key, confirm: async () => true, timeoutMs: 300 },
      never,
    );
    await t.rejects(pairing, { code: "PAIRING_FAILED", message: /not open/u });
  });
});
