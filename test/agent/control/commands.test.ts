import { randomBytes } from "node:crypto";
import t from "tap";
import { MAX_RATE, MAX_REQUESTS_A_CALLER } from "../../../agent/control/command-desk.js";
import { CommandRefused, CommandUncertain } from "../../../core/command-errors.js";
import { TimedOut } from "../../../core/errors.js";
import { signText } from "../../../messages/envelope.js";
import { fingerprintOf } from "../../../messages/pins.js";
import type { MemoryStore } from "../../fixtures/control/device.js";
import { type Asking, Device, GROWER, nextReqId, STRANGER } from "../../fixtures/control/device.js";
import { makeParty } from "../../fixtures/parties.js";

const ALLOWED = [{ commands: ["lamp/*", "vent/set"] }];
const minutes = (n: number): number => n * 60_000;

t.test("a command of a caller that the policy names", async (t) => {
  t.test("is acknowledged, recorded, carried out, and answered with its result", async (t) => {
    const device = new Device(ALLOWED);
    await device.receive(device.request({ reqId: 1234, statement: { id: "a", args: { on: true } } }));
    t.same(device.drivers.calls, [{ target: "lamp", command: "set", args: { on: true } }]);
    t.same(device.store.answers, [
      { to: "@grower", reqId: 1234, type: "ack", payload: {}, message: null, sealed: true },
      {
        to: "@grower",
        reqId: 1234,
        type: "success",
        payload: { id: "a", result: { on: true } },
        message: null,
        sealed: true,
      },
    ]);
    t.match(device.store.find("@grower", "a"), { target: "lamp", command: "set", outcome: { type: "success" } });
  });

  t.test("is in the ledger before anything moves", async (t) => {
    const device = new Device(ALLOWED);
    device.drivers.behave = async () => t.match(device.store.find("@grower", "a"), { outcome: undefined });
    await device.receive(device.request({ statement: { id: "a" } }));
    t.equal(device.drivers.calls.length, 1);
  });

  t.test("runs after those of the same caller that came before it, one at a time a target", async (t) => {
    const device = new Device(ALLOWED);
    let running = 0;
    device.drivers.behave = async () => {
      running += 1;
      t.equal(running, 1);
      await new Promise(setImmediate);
      running -= 1;
    };
    const ids = ["1", "2", "3", "4", "5"];
    await device.receive(...ids.map((n) => device.request({ statement: { command: "pulse", args: { n } } })));
    t.same(
      device.drivers.calls.map(({ args }) => args),
      ids.map((n) => ({ n })),
    );
  });

  t.test("does not wait for another target that is slow", async (t) => {
    const device = new Device(ALLOWED);
    let release = (): void => {};
    const slow = new Promise<void>((resolve) => (release = resolve));
    device.drivers.behave = async ({ target }) => {
      if (target === "lamp") await slow;
      else release();
    };
    await device.receive(device.request(), device.request({ statement: { target: "vent" } }));
    t.equal(device.taken().length, 2);
  });

  t.test("that the driver refuses is answered with nack and its reason, since nothing moved", async (t) => {
    const device = new Device(ALLOWED);
    device.drivers.behave = async () => Promise.reject(new CommandRefused("the lid is open"));
    await device.receive(device.request({ statement: { id: "a" } }));
    t.match(device.taken(), [{ type: "nack", payload: { id: "a", reason: "refused" }, message: "the lid is open" }]);
  });

  t.test("whose outcome the driver cannot tell is answered so, with the state that it reads back", async (t) => {
    const device = new Device(ALLOWED);
    device.drivers.behave = async ({ command }) => {
      if (command === "get") return { on: false };
      throw new CommandUncertain("no answer", { cause: new TimedOut("30 s") });
    };
    await device.receive(device.request({ statement: { id: "a" } }));
    t.match(device.taken(), [{ type: "error", payload: { id: "a", reason: "deadline", state: { on: false } } }]);
  });

  t.test("whose result is too large or no JSON is answered as failed", async (t) => {
    const device = new Device(ALLOWED);
    const cycle: Record<string, unknown> = {};
    cycle.cycle = cycle;
    for (const result of ["x".repeat(200_000), cycle, 1n]) {
      device.drivers.behave = async () => result;
      await device.receive(device.request());
      t.match(device.taken(), [{ type: "error", payload: { reason: "failed" } }]);
    }
  });
});

t.test("a command is refused with a reason of its own, and nothing reaches the driver:", async (t) => {
  const now = Date.UTC(2026, 0, 1);
  const statement = (change: Asking["statement"]): Partial<Asking> => ({ statement: change });
  const table: [name: string, reason: string, asking: Partial<Asking>, spoil?: (device: Device) => void][] = [
    ["one that is not encrypted", "bad-seal", { isEncrypted: false }],
    [
      "one that cannot be decrypted",
      "bad-seal",
      { notification: { decrypt: async () => Promise.reject(new CommandRefused("x")) } },
    ],
    [
      "one sealed for another key",
      "bad-seal",
      { notification: { atKey: "@greenhouse:request.1.cmd.__rpcs.south.atedge@grower" } },
    ],
    [
      "one whose text was changed on the way",
      "bad-seal",
      { text: '{"reqId":1,"payload":{},"mac":"' + "A".repeat(43) + '="}' },
    ],
    [
      "plain AtRpc, neither sealed nor signed",
      "unsigned",
      { unsealed: true, envelope: { target: "lamp", command: "set" } },
    ],
    [
      "one that is sealed and not signed",
      "unsigned",
      { envelope: { target: "lamp", command: "set", args: { on: true } } },
    ],
    ["one signed by somebody else", "bad-signature", { signer: STRANGER }],
    [
      "one encrypted with an AES key that its caller does not vouch for",
      "key-not-proven",
      { sealWith: randomBytes(32) },
    ],
    ["one of a caller who has published no proof", "key-not-proven", {}, (d) => d.records.proofs.clear()],
    [
      "one encrypted with an AES key that the atServer has swapped, proof and all",
      "key-not-proven",
      { sealWith: STRANGER.aesKey },
      (d) => {
        d.records.publish({ ...STRANGER, atSign: GROWER.atSign });
        d.records.publicKeys.set(GROWER.atSign, GROWER.publicText);
      },
    ],
    [
      "one of a caller whose public key is not the one first seen",
      "key-changed",
      {},
      (d) => void d.pins.set("@grower", `sha256:${"0".repeat(64)}`),
    ],
    ["one with another reqId inside than in the key", "malformed", { reqId: 77, bodyReqId: 78 }],
    [
      "one signed, but no command",
      "wrong-type",
      { envelope: { ...signText('{"typ":"atedge-key/1"}', GROWER.privateKey) } },
    ],
    ["one signed in another name", "wrong-caller", statement({ from: "@stranger" })],
    ["one signed for another atSign", "wrong-recipient", statement({ to: "@barn" })],
    ["one signed for another device", "wrong-device", statement({ device: "south" })],
    ["one that has expired", "expired", statement({ issuedAt: now - 60_000, expiresAt: now - 1 })],
    ["one issued in the future", "not-yet-valid", statement({ issuedAt: now + 60_000, expiresAt: now + 90_000 })],
    ["one that would live for a week", "too-long-lived", statement({ expiresAt: now + 7 * 86_400_000 })],
    ["one issued before the ledger began", "before-ledger", {}, (d) => void (d.store.ledgerBornAtMs = now + 1)],
    ["one for a target that is not allowed", "not-allowed", statement({ target: "door", command: "open" })],
    ["one for a command that is not allowed", "not-allowed", statement({ target: "vent", command: "pulse" })],
    ["one for a command that the driver does not have", "unknown-command", statement({ command: "explode" })],
    ["one without a required argument", "bad-args", statement({ args: {} })],
    ["one with an argument of another type", "bad-args", statement({ args: { on: "yes" } })],
    ["one with an unknown argument", "bad-args", statement({ args: { on: true, off: true } })],
    ["one for a device that is away", "driver-down", {}, (d) => void (d.drivers.up = false)],
    ["one while the time is not known", "no-time", {}, (d) => void (d.timeKnown = false)],
    [
      "one that is not idempotent, while the ledger cannot be written",
      "no-ledger",
      statement({ command: "pulse" }),
      (d) => void (d.store.writable = false),
    ],
  ];
  for (const [name, reason, asking, spoil] of table) {
    t.test(name, async (t) => {
      const device = new Device(ALLOWED);
      spoil?.(device);
      await device.receive(device.request(asking));
      t.same(device.drivers.calls, []);
      t.match(device.taken(), [{ to: "@grower", type: "nack", payload: { reason } }]);
      t.equal(device.desk.counters.get(`refused.${reason}`), 1);
      t.same(device.store.unfinished(), []);
    });
  }

  t.test("one for a target that no driver has", async (t) => {
    const device = new Device([{ commands: ["*/*"] }]);
    await device.receive(device.request({ statement: { target: "door", command: "open" } }));
    t.match(device.taken(), [{ payload: { reason: "unknown-target" } }]);
  });

  t.test("one of a caller whose public key is not the configured one", async (t) => {
    const device = new Device([{ key: fingerprintOf(STRANGER.publicText) }]);
    await device.receive(device.request());
    t.match(device.taken(), [{ payload: { reason: "key-changed" } }]);
    t.ok(device.log.lines.some(({ level, message }) => level === "error" && message === "command refused"));
  });

  t.test("one of a caller who has new keys since the last command", async (t) => {
    const device = new Device(ALLOWED);
    await device.receive(device.request());
    t.match(device.taken(), [{ type: "success" }]);
    const renewed = { ...makeParty("@grower"), aesKey: GROWER.aesKey };
    device.records.publish(renewed);
    device.drivers.calls.length = 0;
    await device.receive(device.request({ by: renewed }));
    t.match(device.taken(), [{ payload: { reason: "key-changed" } }]);
    t.same(device.drivers.calls, []);
  });

  t.test("one too many in the queue of a target, and of a caller", async (t) => {
    const device = new Device(ALLOWED);
    let release = (): void => {};
    const open = new Promise<void>((resolve) => (release = resolve));
    device.drivers.behave = async () => open;
    for (let n = 0; n < 2 * MAX_REQUESTS_A_CALLER; n++) device.desk.receive(device.request());
    release();
    await device.group.join();
    const answers = device.taken();
    t.equal(answers.length, 2 * MAX_REQUESTS_A_CALLER);
    const refused = answers.filter(({ payload }) => payload.reason === "busy");
    t.equal(device.desk.counters.get("refused.busy"), refused.length);
    t.ok(refused.length >= MAX_REQUESTS_A_CALLER);
    t.equal(device.drivers.calls.length, answers.length - refused.length);
  });

  t.test("one that has expired before its turn came", async (t) => {
    const device = new Device(ALLOWED);
    device.drivers.behave = async () => device.clock.advance(minutes(1));
    await device.receive(device.request(), device.request());
    t.equal(device.drivers.calls.length, 1);
    t.match(device.taken(), [{ type: "success" }, { payload: { reason: "expired" } }]);
  });
});

t.test("an atSign that no [[allow]] names gets silence and is counted; it fills neither log nor memory", async (t) => {
  const device = new Device(ALLOWED);
  const decrypt = async (): Promise<never> => {
    throw new Error("policy comes before decryption");
  };
  for (let n = 0; n < 50; n++) device.desk.receive(device.request({ by: STRANGER, notification: { decrypt } }));
  await device.group.join();
  t.same(device.store.answers, []);
  t.same(device.drivers.calls, []);
  t.equal(device.desk.counters.get("unnamed"), 50);
  t.equal(device.log.lines.length, 1);
  await device.clock.advance(minutes(2));
  await device.receive(device.request({ by: STRANGER, notification: { decrypt } }));
  t.match(device.log.lines.at(-1), { level: "warn", fields: { from: "@stranger", suppressed: 49 } });
});

t.test("names are exact: one that only begins or ends like a named one is a stranger", async (t) => {
  const device = new Device(ALLOWED);
  for (const name of ["@growers", "@gro", "@thegrower"]) {
    await device.receive(device.request({ by: { ...GROWER, atSign: makeParty(name).atSign } }));
  }
  t.equal(device.desk.counters.get("unnamed"), 3);
  t.same(device.store.answers, []);
});

t.test("a flood of requests in the name of a caller costs a bounded number of answers", async (t) => {
  const device = new Device(ALLOWED);
  const request = device.request();
  for (let n = 0; n < 3 * MAX_RATE.max; n++) await device.receive(request);
  t.equal(device.taken().length, MAX_RATE.max);
  t.equal(device.drivers.calls.length, 1);
  t.equal(device.desk.counters.get("flood"), 2 * MAX_RATE.max);
  await device.clock.advance(MAX_RATE.perMs);
  await device.receive(request);
  t.equal(device.taken().length, 1);
});

t.test("what is no request to this device is passed over", async (t) => {
  const device = new Device(ALLOWED);
  const key = "request.7.cmd.__rpcs.south.atedge";
  const zeros = "request.007.cmd.__rpcs.north.atedge";
  for (const notification of [
    { key },
    { key: zeros },
    { key: "receipt.north.atedge" },
    { operation: "delete" as const },
  ]) {
    await device.receive(device.request({ notification }));
  }
  t.same(device.store.answers, []);
});

t.test("without a ledger only a command that may run twice runs", async (t) => {
  const device = new Device(ALLOWED);
  device.store.writable = false;
  await device.receive(
    device.request({ statement: { command: "set" } }),
    device.request({ statement: { command: "pulse", args: {} } }),
  );
  t.same(device.drivers.calls, [{ target: "lamp", command: "set", args: { on: true } }]);
  t.match(device.taken(), [{ type: "success" }, { payload: { reason: "no-ledger" } }]);
});

t.test("the same command again", async (t) => {
  t.test("gets the stored answer under its new number, and moves nothing", async (t) => {
    const device = new Device(ALLOWED);
    await device.receive(device.request({ statement: { id: "a", command: "pulse", args: {} } }));
    const first = device.taken();
    const reqId = nextReqId();
    await device.receive(device.request({ reqId, statement: { id: "a", command: "pulse", args: {} } }));
    t.equal(device.drivers.calls.length, 1);
    t.same(device.taken(), [{ ...first[0], reqId }]);
    t.equal(device.desk.counters.get("repeats"), 1);
  });

  t.test("gets the stored answer also after it has expired", async (t) => {
    const device = new Device(ALLOWED);
    const request = device.request({ statement: { id: "a" } });
    await device.receive(request);
    const first = device.taken();
    await device.clock.advance(minutes(10));
    await device.receive(request);
    t.same(device.taken(), first);
    t.equal(device.drivers.calls.length, 1);
  });

  t.test("gets the stored answer also from another run of the agent", async (t) => {
    const device = new Device(ALLOWED);
    const request = device.request({ statement: { id: "a" } });
    await device.receive(request);
    const first = device.taken();
    const later = new Device(ALLOWED, device.store);
    await later.receive(request);
    t.same(later.taken(), first);
    t.same(later.drivers.calls, []);
  });

  t.test("while it is under way gets its answer when that one is done", async (t) => {
    const device = new Device(ALLOWED);
    const asking = { statement: { id: "a", command: "pulse", args: {} } };
    await device.receive(device.request(asking), device.request(asking), device.request(asking));
    t.equal(device.drivers.calls.length, 1);
    const answers = device.taken();
    t.equal(new Set(answers.map(({ reqId }) => reqId)).size, 3);
    t.ok(answers.every(({ type, payload }) => type === "success" && payload.id === "a"));
  });

  t.test("is another one when its arguments differ, and then is refused", async (t) => {
    const device = new Device(ALLOWED);
    await device.receive(
      device.request({ statement: { id: "a", args: { on: true } } }),
      device.request({ statement: { id: "a", args: { on: false } } }),
    );
    await device.receive(device.request({ statement: { id: "a", args: { on: false } } }));
    t.same(
      device
        .taken()
        .map(({ type, payload }) => payload.reason ?? type)
        .sort(),
      ["id-reused", "id-reused", "success"],
    );
    t.equal(device.drivers.calls.length, 1);
  });

  t.test("of another caller is that caller's own", async (t) => {
    const device = new Device([...ALLOWED, { atsign: STRANGER.atSign, commands: ["lamp/*"] }]);
    const statement = { id: "a", command: "pulse", args: {} };
    await device.receive(device.request({ statement }), device.request({ by: STRANGER, statement }));
    t.equal(device.drivers.calls.length, 2);
  });
});

t.test("a crash between acceptance and the end", async (t) => {
  /** Runs a command in an agent that is gone as soon as the ledger has it. */
  async function crashed(): Promise<{ store: MemoryStore; request: ReturnType<Device["request"]> }> {
    const device = new Device(ALLOWED);
    const request = device.request({ reqId: 4711, statement: { id: "a", command: "set" } });
    device.drivers.behave = async () => new Promise(() => {}); // never comes back
    const accepted = new Promise<void>((resolve) => (device.store.afterAccept = resolve));
    device.desk.receive(request);
    await accepted;
    device.store.afterAccept = () => {};
    device.store.answers.length = 0;
    return { store: device.store, request };
  }

  t.test(
    "is answered at the next start as an unknown outcome, with the state that the driver reads back",
    async (t) => {
      const { store } = await crashed();
      const device = new Device(ALLOWED, store);
      device.drivers.behave = async () => ({ on: true });
      device.desk.settleUnfinished();
      await device.group.join();
      t.same(
        device.drivers.calls.map(({ command }) => command),
        ["get"],
      );
      t.match(device.taken(), [
        {
          to: "@grower",
          reqId: 4711,
          type: "error",
          payload: { id: "a", reason: "unknown-outcome", state: { on: true } },
        },
      ]);
      t.same(store.unfinished(), []);
    },
  );

  t.test("leaves a command that does not run when it comes again", async (t) => {
    const { store, request } = await crashed();
    const device = new Device(ALLOWED, store);
    await device.receive(request);
    t.same(
      device.drivers.calls.map(({ command }) => command),
      ["get"],
    );
    await device.receive(request);
    const answers = device.taken();
    t.equal(answers.length, 2);
    t.ok(answers.every(({ type, payload }) => type === "error" && payload.reason === "unknown-outcome"));
  });
});

t.test("when the agent stops, a command under way ends as uncertain and its outcome is kept", async (t) => {
  const device = new Device(ALLOWED);
  device.drivers.behave = (_, signal) =>
    new Promise((_resolve, reject) => {
      signal.addEventListener("abort", () => reject(new CommandUncertain("stopping")), { once: true });
    });
  const accepted = new Promise<void>((resolve) => (device.store.afterAccept = resolve));
  device.desk.receive(device.request({ statement: { id: "a" } }));
  await accepted;
  await new Promise(setImmediate);
  await device.group[Symbol.asyncDispose]();
  t.match(device.taken(), [{ type: "error", payload: { id: "a", reason: "unknown-outcome" } }]);
  t.match(device.store.find("@grower", "a"), { outcome: { type: "error" } });
});

t.test("a caller with unsigned = true", async (t) => {
  const allow = [{ commands: ["lamp/*"], unsigned: true }];
  const plain = { unsealed: true, envelope: { target: "lamp", command: "set", args: { on: true } } };

  t.test("may send plain AtRpc", async (t) => {
    const device = new Device(allow);
    device.records.proofs.clear();
    await device.receive(device.request({ ...plain, reqId: device.clock.now() * 1000 }));
    t.match(device.taken(), [{ type: "success", payload: { result: { on: true } } }]);
  });

  t.test("may still sign, and then every check is made", async (t) => {
    const device = new Device(allow);
    await device.receive(device.request({ signer: STRANGER }));
    t.match(device.taken(), [{ payload: { reason: "bad-signature" } }]);
    await device.receive(device.request());
    t.match(device.taken(), [{ type: "success" }]);
  });

  const nowMs = Date.UTC(2026, 0, 1);
  const table: [name: string, reason: string, asking: Partial<Asking>][] = [
    ["whose number is a time of 31 s ago", "expired", { reqId: (nowMs - 31_000) * 1000 }],
    [
      "that our atServer has had for 31 s",
      "expired",
      { reqId: nowMs * 1000, notification: { epochMillis: nowMs - 31_000 } },
    ],
    ["whose number is a time to come", "not-yet-valid", { reqId: (nowMs + 31_000) * 1000 }],
    ["without a target", "malformed", { envelope: { command: "set" } }],
    ["that is no JSON", "malformed", { text: "lamp on" }],
    ["for what is not allowed", "not-allowed", { envelope: { target: "vent", command: "set" } }],
  ];
  for (const [name, reason, asking] of table) {
    t.test(`is refused a plain request ${name}`, async (t) => {
      const device = new Device(allow);
      await device.receive(device.request({ ...plain, reqId: nowMs * 1000, ...asking }));
      t.match(device.taken(), [{ type: "nack", payload: { reason } }]);
      t.same(device.drivers.calls, []);
    });
  }

  t.test("cannot have a request of the same number carried out twice", async (t) => {
    const device = new Device(allow);
    const request = { ...plain, reqId: device.clock.now() * 1000, envelope: { target: "lamp", command: "pulse" } };
    await device.receive(device.request(request));
    await device.receive(device.request(request));
    t.equal(device.drivers.calls.length, 1);
    t.equal(device.taken().length, 2);
  });
});

t.test("a command that its caller gives up", async (t) => {
  /** A desk whose target `agent` takes `cancel`. */
  function cancellable(): Device {
    const cancel = { name: "cancel", idempotent: true };
    const device: Device = new Device([{ commands: ["lamp/*"] }], undefined, {
      commands: [cancel],
      call: async (_, { id }, { caller }) => ({ underWay: device.desk.cancel(caller, String(id)) }),
    });
    return device;
  }
  const cancelling = (id: string): Partial<Asking> => ({
    statement: { target: "agent", command: "cancel", args: { id } },
  });

  t.test("while it waits is not begun", async (t) => {
    const device = cancellable();
    let release = (): void => {};
    device.drivers.behave = async () => new Promise<void>((resolve) => (release = resolve));
    device.desk.receive(device.request({ statement: { id: "a" } }));
    device.desk.receive(device.request({ statement: { id: "b" } }));
    while (device.drivers.calls.length === 0) await new Promise(setImmediate);
    device.desk.receive(device.request(cancelling("b")));
    while (!device.store.answers.some(({ payload }) => payload.reason === "cancelled")) await new Promise(setImmediate);
    release();
    await device.group.join();
    t.equal(device.drivers.calls.length, 1);
    t.equal(device.store.find("@grower", "b"), undefined, "and may be sent again");
    t.ok(device.audited.some(({ decision, reason }) => decision === "refused" && reason === "cancelled"));
  });

  t.test("while it runs is told so, and nobody claims to know what became of it", async (t) => {
    const device = cancellable();
    device.drivers.behave = async ({ command }, signal) => {
      if (command === "get") return { on: false };
      return new Promise((_, reject) => {
        signal.addEventListener("abort", () => reject(new CommandUncertain("stopped", { cause: signal.reason })));
      });
    };
    device.desk.receive(device.request({ statement: { id: "a" } }));
    while (device.drivers.calls.length === 0) await new Promise(setImmediate);
    await device.receive(device.request(cancelling("a")), device.request(cancelling("gone")));
    const answers = device.taken();
    t.match(
      answers.filter(({ payload }) => payload.id === "a"),
      [{ type: "error", payload: { reason: "cancelled", state: { on: false } } }],
    );
    t.same(
      answers.flatMap(({ payload }) => (payload.result === undefined ? [] : [payload.result])).sort(),
      [{ underWay: true }, { underWay: false }].sort(),
    );
    t.match(device.store.find("@grower", "a"), { outcome: { type: "error", payload: { reason: "cancelled" } } });
  });

  t.test("is its own: another's is not touched", async (t) => {
    const device = cancellable();
    let release = (): void => {};
    device.drivers.behave = async () => new Promise<void>((resolve) => (release = resolve));
    device.desk.receive(device.request({ statement: { id: "a" } }));
    while (device.drivers.calls.length === 0) await new Promise(setImmediate);
    t.notOk(device.desk.cancel("@stranger", "a"));
    release();
    await device.group.join();
    t.match(device.taken(), [{ type: "success" }]);
  });
});
