import t from "tap";
import { monitor } from "../../agent/monitor.js";
import type { AtClient } from "../../atplatform/client/at-client.js";
import { openRpcClient } from "../../atplatform/client/rpc-client.js";
import { serveRpc } from "../../atplatform/client/rpc-server.js";
import type { ResumePoint } from "../../atplatform/client/seen-window.js";
import { notify, type Notify } from "../../atplatform/protocol/verbs/notify.js";
import { TaskGroup, untilAborted } from "../../core/scope.js";
import { platformOf } from "../../remote/at-client-platform.js";
import { alice, bob, bobKeys, clientOf, welcoming } from "../fixtures/at-server-script.js";
import { ManualClock } from "../fixtures/manual-clock.js";
import { openScripted, type ScriptedPeer } from "../fixtures/scripted-server.js";

const address = { device: "north", ns: "atedge" };
/** With a clock that is moved, real I/O must not be late by it. */
const untimed = { connectTimeoutMs: 1e9 };

const receipt = (id: string): string =>
  `notification: ${JSON.stringify({ id, from: alice, to: bob, key: `@bob:receipt.north.atedge${alice}`, value: null, operation: "update", epochMillis: 5_000, messageType: "MessageType.key", isEncrypted: false, metadata: null })}\n`;

async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await new Promise((resolve) => setImmediate(resolve));
}

/** In steps so small that what is on the wire meanwhile arrives: both ends are in this process. */
async function passUntil(clock: ManualClock, holds: () => boolean): Promise<number> {
  const startMs = clock.monotonicMs();
  while (!holds()) {
    await clock.advance(250);
    await new Promise((resolve) => setImmediate(resolve));
  }
  return clock.monotonicMs() - startMs;
}

const lastErrorOf = ({ health }: AtClient): string | undefined => health.subscriptions[0]?.lastErrorCode;

/** An atServer whose first monitor connection never shows a notification, and may not even answer `noop`. */
function halfOpen(options: { readonly isMute: boolean }) {
  const monitors: string[] = [];
  const notified: Notify[] = [];
  const play = async (peer: ScriptedPeer): Promise<void> => {
    await peer.send("@");
    const reply = welcoming(bob, (line) => {
      if (!line.startsWith("notify:")) return undefined;
      const command = notify.parse(line);
      notified.push(command);
      return command.id;
    });
    let isMute = false;
    await peer.answer((line) => {
      if (isMute) return undefined;
      if (!line.startsWith("monitor")) return reply(line);
      monitors.push(line);
      if (monitors.length > 1) return receipt("1");
      isMute = options.isMute;
      return undefined;
    });
  };
  return { monitors, notified, play };
}

t.test("the agent's monitor connection, half open", async (t) => {
  t.test("is replaced when it answers but shows nothing, not even a notification to ourselves", async (t) => {
    const [clock, script] = [new ManualClock(), halfOpen({ isMute: false })];
    await using server = await openScripted(script.play);
    await using client = await clientOf(server, { clock, ...untimed, commandTimeoutMs: 1e9 });
    await using group = new TaskGroup(new AbortController().signal);
    const received: string[] = [];
    let saved: ResumePoint | undefined;
    const resume = {
      load: () => Promise.resolve(undefined),
      save: (point: ResumePoint) => Promise.resolve(void (saved = point)),
    };
    const receive = ({ id }: { readonly id: string }): Promise<void> => Promise.resolve(void received.push(id));
    group.start((signal) => monitor({ client, address, resume, clock, receive }, signal));
    await until(() => script.monitors.length === 1);
    const silentMs = await passUntil(clock, () => clock.monotonicMs() >= 45_000);
    await until(() => client.health.subscriptions[0]?.inbound.probes === 1); // on a connection that is made for it
    const tookMs = silentMs + (await passUntil(clock, () => lastErrorOf(client) !== undefined));
    await passUntil(clock, () => received.length > 0);
    t.same(received, ["1"], "what came meanwhile is asked for by the next connection");
    t.equal(tookMs, 55_000, "45 s of silence, 10 s for the probe");
    t.match(script.notified, [{ to: bob, owner: bob, key: /^probe\.[0-9a-f]{32}\.north\.atedge$/u }]);
    t.equal(script.notified.length, 1);
    const [{ key } = { key: "" }] = script.notified;
    const [first = ""] = script.monitors;
    t.match(`@bob:${key}@bob`, new RegExp(first.replace(/^monitor:0 /u, ""), "u"), "the probe would have been shown");
    t.match(client.health.subscriptions, [{ connections: 2, lastErrorCode: "INBOUND_SILENT", inbound: { silent: 1 } }]);
    await group[Symbol.asyncDispose]();
    t.match(saved, { epochMillis: 5_000 });
  });

  t.test("is replaced within 20 s when nothing comes back at all", async (t) => {
    const [clock, script] = [new ManualClock(), halfOpen({ isMute: true })];
    await using server = await openScripted(script.play);
    await using client = await clientOf(server, { clock, ...untimed, commandTimeoutMs: 1e9 });
    await using group = new TaskGroup(new AbortController().signal);
    const received: string[] = [];
    const resume = { load: () => Promise.resolve(undefined), save: () => Promise.resolve() };
    const receive = ({ id }: { readonly id: string }): Promise<void> => Promise.resolve(void received.push(id));
    group.start((signal) => monitor({ client, address, resume, clock, receive }, signal));
    await until(() => script.monitors.length === 1);
    const tookMs = await passUntil(clock, () => lastErrorOf(client) !== undefined);
    await passUntil(clock, () => received.length > 0);
    t.same(received, ["1"]);
    t.ok(tookMs >= 20_000 && tookMs < 25_000, `${tookMs} ms: a heartbeat after 15 s, 5 s for its answer`);
  });
});

t.test(
  "whoever watches, calls or serves has the same proof, in the namespace of the device or the service",
  async (t) => {
    const rpc = { baseNamespace: "demo", domain: "math" };
    const cases: Readonly<
      Record<string, (client: AtClient, signal: AbortSignal, clock: ManualClock) => Promise<unknown>>
    > = {
      "north\\.atedge": async (client, signal) => {
        for await (const each of platformOf(client, bobKeys, address).notifications({ regex: "telemetry" }, signal)) {
          t.equal(each.from, alice);
          return;
        }
      },
      "demo (server)": (client, signal, clock) =>
        serveRpc({ client, ...rpc, clock, allow: () => true, handle: () => Promise.resolve({ success: {} }) }, signal),
      "demo (client)": async (client, signal, clock) => {
        await using service = await openRpcClient({ client, server: alice, ...rpc, clock }, signal);
        await untilAborted(
          service.listening.then(() => new Promise(() => undefined)),
          signal,
        );
      },
    };
    for (const [name, use] of Object.entries(cases)) {
      const [clock, script] = [new ManualClock(), halfOpen({ isMute: false })];
      await using server = await openScripted(script.play);
      await using client = await clientOf(server, { clock, ...untimed, commandTimeoutMs: 1e9 });
      const stop = new AbortController();
      const used = use(client, stop.signal, clock).catch(() => undefined);
      await passUntil(clock, () => script.monitors.length > 1);
      const probe = script.notified.find(({ key }) => key.startsWith("probe."));
      t.match(probe?.key, new RegExp(`^probe\\.[0-9a-f]{32}\\.${name.split(" ")[0] ?? ""}$`, "u"), name);
      stop.abort();
      await used;
    }
  },
);
