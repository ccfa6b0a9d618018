import t from "tap";
import { encryptAesKey, parsePrivateKey, parsePublicKey } from "../../atplatform/crypto/rsa.js";
import { encryptText, newIv } from "../../atplatform/crypto/aes-ctr.js";
import { silentLog } from "../../core/log.js";
import { type CommandStatement } from "../../messages/command.js";
import { atKeyOf, parseAddress } from "../../messages/names.js";
import { PeerTrust, type PinStore } from "../../messages/peer-trust.js";
import { formatAnswer } from "../../messages/rpc.js";
import { seal } from "../../messages/seal.js";
import { call, type CallOptions, type CallOutcome } from "../../remote/call.js";
import { Outbound } from "../../remote/outbound.js";
import { ManualClock } from "../fixtures/manual-clock.js";
import { runTestDevice, type TestAnswer } from "../fixtures/message-device.js";
import { testKeys } from "../fixtures/vectors.js";
import { MessageWorld, until, withFlippedBit } from "../fixtures/message-world.js";

const address = parseAddress("north", "atedge");
const forever = new AbortController().signal;

/** @alice's device takes commands from @bob as an agent does, with real crypto. */
class Bench {
  readonly world = new MessageWorld();
  readonly clock = new ManualClock();
  readonly commands: CommandStatement[] = [];
  readonly alice = this.world.platformOf("@alice");
  readonly bob = this.world.platformOf("@bob");
  readonly configured = new Map<string, string>();
  answers: (statement: CommandStatement) => readonly TestAnswer[] = ({ id, args }) => [
    { type: "ack", payload: {} },
    { type: "success", payload: { id, result: args } },
  ];
  readonly #pins = new Map<string, string>();

  trustOf(us: string): PeerTrust {
    const remembered: PinStore = {
      get: (peer) => this.#pins.get(peer),
      set: (peer, fingerprint) => Promise.resolve(void this.#pins.set(peer, fingerprint)),
    };
    const records = us === "@bob" ? this.bob : this.alice;
    return new PeerTrust({ us, address, records, configured: this.configured, remembered, log: silentLog });
  }

  device(signal: AbortSignal): Promise<void> {
    const trust = this.trustOf("@alice");
    const answers = (statement: CommandStatement): readonly TestAnswer[] => {
      this.commands.push(statement);
      return this.answers(statement);
    };
    return runTestDevice({ platform: this.alice, trust, address, caller: "@bob", answers, clock: this.clock }, signal);
  }

  /** One call, with the device running unless told otherwise. */
  async call(change: Partial<CallOptions> = {}, isDeviceOn = true): Promise<CallOutcome> {
    const controller = new AbortController();
    const device = isDeviceOn ? this.device(controller.signal) : Promise.resolve();
    if (isDeviceOn) await until(() => this.world.monitorsOf("@alice") > 0, "the device");
    const trust = this.trustOf("@bob");
    const outbound = new Outbound(this.bob, "@alice", address);
    const what = { target: "vent", command: "open", args: { percent: 40 } };
    try {
      return await call(
        {
          platform: this.bob,
          trust,
          outbound,
          owner: "@alice",
          address,
          ...what,
          clock: this.clock,
          log: silentLog,
          ...change,
        },
        forever,
      );
    } finally {
      controller.abort();
      await device;
    }
  }
}

t.test("a call", async (t) => {
  t.test("carries a signed command to the device and gives its result", async (t) => {
    const bench = new Bench();
    t.strictSame(await bench.call({ id: "c-1" }), { kind: "success", result: { percent: 40 } });
    t.match(bench.commands, [
      {
        from: "@bob",
        to: "@alice",
        device: "north",
        target: "vent",
        command: "open",
        args: { percent: 40 },
        id: "c-1",
      },
    ]);
    const [statement] = bench.commands;
    t.equal((statement?.expiresAt ?? 0) - (statement?.issuedAt ?? 0), 30_000);
    t.equal(bench.world.monitorsOf("@bob"), 0, "nothing is left behind");
  });

  t.test("gives the device's reason when it does not, or could not", async (t) => {
    const bench = new Bench();
    const outcomes: readonly (readonly [TestAnswer, object])[] = [
      [
        { type: "nack", payload: { reason: "not-allowed" }, message: "no [[allow]]" },
        { kind: "refused", reason: "not-allowed", message: "no [[allow]]" },
      ],
      [
        { type: "error", payload: { reason: "failed" } },
        { kind: "failed", reason: "failed", message: "failed" },
      ],
      [
        { type: "error", payload: { reason: "unknown-outcome" } },
        { kind: "unknown", message: "unknown-outcome" },
      ],
      [
        { type: "success", payload: {} },
        { kind: "success", result: null },
      ],
    ];
    for (const [answer, outcome] of outcomes) {
      bench.answers = () => [answer];
      t.strictSame(await bench.call(), outcome);
    }
  });

  t.test("says after five seconds that the device is offline", async (t) => {
    const bench = new Bench();
    const calling = bench.call({}, false);
    await until(() => bench.clock.sleeping > 0, "the wait");
    await bench.clock.advance(4999);
    await bench.clock.advance(1);
    t.match(await calling, { kind: "offline" });
  });

  t.test("does not know the outcome when the device has it and gives no result in time", async (t) => {
    const bench = new Bench();
    bench.answers = () => [{ type: "ack", payload: {} }];
    const calling = bench.call({ timeoutMs: 10_000, ackTimeoutMs: 2_000 });
    await until(() => bench.commands.length === 1, "the command");
    await bench.clock.advance(2_000);
    await until(() => bench.clock.sleeping > 0, "the second wait");
    await bench.clock.advance(8_000);
    t.match(await calling, { kind: "unknown", message: /has the command/u });
  });

  t.test("tries again while its own atServer is away, with one command for the device", async (t) => {
    const bench = new Bench();
    const trust = bench.trustOf("@bob");
    await trust.keyOf("@alice", forever);
    bench.world.away = true;
    const calling = bench.call({ trust, timeoutMs: 60_000 });
    await until(() => bench.clock.sleeping > 0, "a pause");
    bench.world.away = false;
    await bench.clock.advance(500);
    t.match(await calling, { kind: "success" });
    t.equal(bench.commands.length, 1);

    bench.world.away = true;
    const failing = t.rejects(bench.call({ trust, timeoutMs: 1_000 }), { code: "PLATFORM_UNAVAILABLE" });
    for (let turn = 0; turn < 10; turn += 1) await bench.clock.advance(1000);
    await failing;
  });

  t.test("ends with the caller's reason when it is interrupted", async (t) => {
    const bench = new Bench();
    const controller = new AbortController();
    const trust = bench.trustOf("@bob");
    const outbound = new Outbound(bench.bob, "@alice", address);
    const what = { target: "vent", command: "open", args: {} };
    const calling = call(
      { platform: bench.bob, trust, outbound, owner: "@alice", address, ...what, clock: bench.clock, log: silentLog },
      controller.signal,
    );
    await until(() => bench.clock.sleeping > 0, "the wait");
    controller.abort(new Error("enough"));
    await t.rejects(calling, { message: "enough" });
  });
});

t.test("an answer", async (t) => {
  t.test("with a flipped bit, under a swapped key, or to another command does not count", async (t) => {
    const bench = new Bench();
    bench.answers = ({ id }) => [
      { type: "success", payload: { id: `${id}-other`, result: "another command's" } },
      { type: "success", payload: { id, result: "genuine" } },
    ];
    const mallory = Buffer.alloc(32, 9);
    const sharedKeyEnc = encryptAesKey(mallory, parsePublicKey(bench.world.account("@bob").publicText));
    bench.world.carry = (carried) => {
      if (carried.to !== "@bob") return [carried];
      const reqId = Number(/\d+/u.exec(carried.key)?.[0]);
      const iv = newIv();
      const forged = formatAnswer({ reqId, respType: "success", payload: { result: "forged" }, message: null });
      const value = encryptText(seal(forged, atKeyOf("@bob", carried.key, "@alice"), mallory), mallory, iv);
      return [withFlippedBit(carried, 90), { ...carried, iv, value, sharedKeyEnc }, carried];
    };
    t.strictSame(await bench.call(), { kind: "success", result: "genuine" });
  });

  t.test("of a device whose owner's key has changed is not waited for", async (t) => {
    const bench = new Bench();
    bench.configured.set("@alice", `sha256:${"0".repeat(64)}`);
    await t.rejects(bench.call({}, false), { code: "PEER_KEY_CHANGED" });
    t.equal(bench.world.taken.length, 0, "and nothing was sent");
  });
});

t.test("a device does not take a command that is signed with another key than the pinned", async (t) => {
  const bench = new Bench();
  const other = { ...bench.bob, privateKey: parsePrivateKey(testKeys.alice.pkam.privateKey) };
  const statements = bench.device(forever);
  await until(() => bench.world.monitorsOf("@alice") > 0, "the device");
  // The proof of the AES key is good, only the command is signed by someone else.
  const outbound = new Outbound(bench.bob, "@alice", address);
  const trust = bench.trustOf("@bob");
  const what = { target: "vent", command: "open", args: {} };
  const calling = call(
    { platform: other, trust, outbound, owner: "@alice", address, ...what, clock: bench.clock, log: silentLog },
    forever,
  );
  await t.rejects(statements, { code: "COMMAND_REJECTED" });
  await bench.clock.advance(5000);
  t.match(await calling, { kind: "offline" });
  t.strictSame(bench.commands, []);
});
