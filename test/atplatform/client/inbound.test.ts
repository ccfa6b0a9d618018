import t from "tap";
import type { ReceivedNotification } from "../../../atplatform/client/at-client.js";
import { parseAtSign } from "../../../atplatform/protocol/at-sign.js";
import { type Notify, notify } from "../../../atplatform/protocol/verbs/notify.js";
import { TestPlatform } from "../../fixtures/at-platform.js";
import { alice, bob, clientOf, welcoming } from "../../fixtures/at-server-script.js";
import { ManualClock } from "../../fixtures/manual-clock.js";
import type { ScriptedPeer } from "../../fixtures/scripted-server.js";
import { openScripted } from "../../fixtures/scripted-server.js";

const never = new AbortController().signal;
/** With a clock that is moved, real I/O must not be late by it. */
const untimed = { connectTimeoutMs: 1e9, commandTimeoutMs: 1e9 };

/** In steps so small that what is on the wire meanwhile arrives: both ends are in this process. */
async function pass(clock: ManualClock, ms: number): Promise<void> {
  for (let passed = 0; passed < ms; passed += 250) await clock.advance(250);
}

async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await new Promise((resolve) => setImmediate(resolve));
}

/** An atServer that answers everything; what goes to monitors is the test's to say. */
class Script {
  readonly monitors: { readonly line: string; readonly peer: ScriptedPeer; gone: boolean }[] = [];
  readonly notified: Notify[] = [];
  onNotify: (command: Notify) => string | undefined = () => undefined;
  onMonitor: (peer: ScriptedPeer, count: number) => Promise<void> = () => Promise.resolve();

  readonly play = async (peer: ScriptedPeer): Promise<void> => {
    await peer.send("@");
    const reply = welcoming(bob, (line) => {
      if (!line.startsWith("notify:")) return undefined;
      const command = notify.parse(line);
      this.notified.push(command);
      return this.onNotify(command) ?? command.id;
    });
    for (let line = await peer.line(); line !== undefined; line = await peer.line()) {
      const answer = reply(line);
      if (answer !== undefined) await peer.send(answer);
      if (!line.startsWith("monitor")) continue;
      this.monitors.push({ line, peer, gone: false });
      await this.onMonitor(peer, this.monitors.length);
    }
    for (const monitor of this.monitors) if (monitor.peer === peer) monitor.gone = true;
  };
}

interface Wire {
  readonly id: string;
  readonly epochMillis: number;
  readonly from?: string;
  readonly key?: string;
}

const wire = ({ id, epochMillis, from = alice, key = "x.demo" }: Wire): string =>
  `notification: ${JSON.stringify({ id, from, to: bob, key: `@bob:${key}${from}`, value: null, operation: "update", epochMillis, messageType: "MessageType.key", isEncrypted: false, metadata: null })}\n`;

const stats = (epochMillis: number): string =>
  `notification: ${JSON.stringify({ id: "-1", from: bob, to: bob, key: "statsNotification.@bob", value: "7", operation: "update", epochMillis, messageType: "MessageType.key", isEncrypted: false, metadata: null })}\n`;

async function take(source: AsyncIterator<ReceivedNotification, void>, count: number): Promise<string[]> {
  const ids: string[] = [];
  while (ids.length < count) {
    const { value, done } = await source.next();
    if (done) break;
    ids.push(value.id);
  }
  return ids;
}

t.test("proof that notifications arrive (client.md, 3.5)", async (t) => {
  t.test("is one to ourselves after 45 s without any, which the application does not see", async (t) => {
    const [clock, script] = [new ManualClock(), new Script()];
    await using server = await openScripted(script.play);
    await using client = await clientOf(server, { clock, ...untimed });
    const source = client.subscribe({ regex: "x\\.demo@", probeNamespace: "north.demo" }, never);
    const first = take(source, 1);
    await until(() => script.monitors.length === 1);
    const [monitor] = script.monitors;
    if (!monitor) throw new Error("there is none");
    script.onNotify = ({ id = "", key }) => void monitor.peer.send(wire({ id, epochMillis: 1_000, from: bob, key }));
    await pass(clock, 44_000);
    t.same(script.notified, []);
    t.match(client.health.subscriptions, [{ inbound: { silentMs: 44_000, probes: 0, silent: 0 } }]);
    await pass(clock, 1_000);
    await until(() => client.health.subscriptions[0]?.inbound.silentMs === 0);
    const [probe] = script.notified;
    t.match(probe, { to: bob, owner: bob, key: /^probe\.[0-9a-f]{32}\.north\.demo$/u, ttlnMs: 10_000 });
    const regex = new RegExp(monitor.line.slice("monitor ".length), "u");
    t.ok(regex.test(`@bob:${probe?.key}@bob`), "the monitor was asked to show it");
    t.ok(regex.test("@bob:x.demo@alice"));
    t.notOk(regex.test("@bob:y.demo@alice"));
    t.notMatch(monitor.line, /[:A-Z]/u, "so that it means the same to every server, without strict");
    await pass(clock, 30_000);
    await monitor.peer.send(wire({ id: "1", epochMillis: 2_000 }));
    t.same(await first, ["1"]);
    t.match(client.health.subscriptions, [{ connections: 1, received: 1, inbound: { probes: 1, silent: 0 } }]);
    await source.return();
  });

  t.test("is not needed while stats notifications come", async (t) => {
    const [clock, script] = [new ManualClock(), new Script()];
    await using server = await openScripted(script.play);
    await using client = await clientOf(server, { clock, ...untimed });
    const source = client.subscribe({ probeNamespace: "demo" }, never);
    const first = source.next();
    await until(() => script.monitors.length === 1);
    for (let at = 1; at <= 12; at += 1) {
      await script.monitors[0]?.peer.send(stats(at));
      await pass(clock, 15_000);
    }
    t.same(script.notified, []);
    t.match(client.health.subscriptions, [{ connections: 1, inbound: { probes: 0, silent: 0 } }]);
    await script.monitors[0]?.peer.send(wire({ id: "1", epochMillis: 99 }));
    await first;
    await source.return();
  });

  t.test("fails when nothing comes within the deadline, and the connection is replaced", async (t) => {
    for (const probeNamespace of ["demo", undefined]) {
      const [clock, script] = [new ManualClock(), new Script()];
      // Answers `noop` all the time; without a namespace, what had come and comes no more must do.
      script.onMonitor = (peer, count) =>
        peer.send(count > 1 ? wire({ id: "1", epochMillis: 2_000 }) : probeNamespace ? "" : stats(1_000));
      await using server = await openScripted(script.play);
      await using client = await clientOf(server, { clock, ...untimed });
      const source = client.subscribe({ ...(probeNamespace && { probeNamespace }) }, never);
      const state = { done: false };
      const first = take(source, 1).finally(() => (state.done = true));
      while (!state.done) await pass(clock, 250);
      t.same(await first, ["1"]);
      t.ok(clock.monotonicMs() >= (probeNamespace ? 55_000 : 45_000));
      t.equal(script.notified.length, probeNamespace ? 1 : 0);
      await until(() => script.monitors[0]?.gone === true);
      t.match(client.health.subscriptions, [
        { connections: 2, lastErrorCode: "INBOUND_SILENT", inbound: { silent: 1 } },
      ]);
      await source.return();
    }
  });

  t.test("says nothing about the monitor when it could not be sent", async (t) => {
    const [clock, script] = [new ManualClock(), new Script()];
    script.onNotify = () => "error:AT0009-not authorized to notify key";
    await using server = await openScripted(script.play);
    await using client = await clientOf(server, { clock, ...untimed });
    const source = client.subscribe({ probeNamespace: "of.others" }, never);
    const first = source.next();
    await until(() => script.monitors.length === 1);
    await pass(clock, 45_000);
    await until(() => client.health.subscriptions[0]?.inbound.probeErrorCode === "AT0009");
    t.equal(script.notified.length, 1);
    await pass(clock, 45_000);
    await until(() => script.notified.length === 2);
    t.match(client.health.subscriptions, [
      { connections: 1, inbound: { probes: 0, silent: 0, probeErrorCode: "AT0009" } },
    ]);
    await script.monitors[0]?.peer.send(wire({ id: "1", epochMillis: 99 }));
    await first;
    await source.return();
  });

  t.test("comes back from a real atServer that sends no stats notifications", async (t) => {
    const clock = new ManualClock();
    await using platform = await TestPlatform.open(t.testdir(), { statsNotificationMs: -1 });
    await using sender = await platform.client("@alice");
    await using client = await platform.client("@bob", { clock, ...untimed });
    const source = client.subscribe({ regex: "x\\.demo@", probeNamespace: "demo" }, never);
    const first = take(source, 1);
    await until(() => client.health.subscriptions[0]?.state === "live");
    for (let round = 1; round <= 2; round += 1) {
      await pass(clock, 45_000);
      await until(() => client.health.subscriptions[0]?.inbound.probes === round);
      await until(() => (client.health.subscriptions[0]?.inbound.silentMs ?? Infinity) < 45_000);
    }
    await pass(clock, 10_000);
    const id = await sender.notify({ to: parseAtSign("@bob"), key: "x.demo", value: "v", ttlnMs: 60_000 }, never);
    t.same(await first, [id]);
    t.match(client.health.subscriptions, [{ connections: 1, received: 1, inbound: { probes: 2, silent: 0 } }]);
    await source.return();
  });
});

t.test("what did not come by itself (client.md, 7.6)", async (t) => {
  const lost = wire({ id: "lost", epochMillis: 1_000_001 });
  const shown = wire({ id: "shown", epochMillis: 1_000_002 });

  t.test("is asked for soon after a burst, and every ten minutes", async (t) => {
    for (const burst of [true, false]) {
      const [clock, script] = [new ManualClock(), new Script()];
      script.onMonitor = (peer, count) =>
        peer.send(count === 1 ? wire({ id: "0", epochMillis: 999_000 }) + shown + (burst ? shown : "") : lost + shown);
      await using server = await openScripted(script.play);
      await using client = await clientOf(server, { clock, ...untimed });
      const source = client.subscribe({ regex: "demo@", since: "live", catchUp: true }, never);
      t.same(await take(source, 2), ["0", "shown"]);
      const third = take(source, 1);
      await pass(clock, burst ? 29_000 : 599_000);
      t.equal(script.monitors.length, 1);
      await pass(clock, 1_000);
      t.same(await third, ["lost"]);
      t.same(
        script.monitors.map(({ line }) => line),
        ["monitor demo@", "monitor:998999 demo@"],
        "from the first one on, as none has been asked for before",
      );
      while (!script.monitors[1]?.gone) await pass(clock, 250);
      t.match(client.health.subscriptions, [
        { state: "live", connections: 1, received: 3, recovered: 1, repeats: burst ? 1 : 0 },
      ]);
      await script.monitors[0]?.peer.send(lost + wire({ id: "2", epochMillis: 1_100_000 }));
      t.same(await take(source, 1), ["2"], "what was found does not come twice");
      await source.return();
    }
  });

  t.test("is not asked for when that is turned off, which it is without an enrolment", async (t) => {
    for (const options of [{ catchUp: false }, {}]) {
      const [clock, script] = [new ManualClock(), new Script()];
      script.onMonitor = (peer) => peer.send(shown + shown);
      await using server = await openScripted(script.play);
      await using client = await clientOf(server, { clock, ...untimed });
      const source = client.subscribe(options, never);
      await take(source, 1);
      const next = source.next();
      await pass(clock, 700_000);
      t.equal(script.monitors.length, 1);
      await script.monitors[0]?.peer.send(wire({ id: "2", epochMillis: 1_100_000 }));
      await next;
      await source.return();
    }
  });
});
