/**
 * 100,000 readings of backlog, drained by the built agent to a reader (issue 5): until the last one is decrypted, its
 * receipt is back and the outbox is empty. At most 95 MB of RSS meanwhile, and at least as fast as a mosquitto bridge
 * (TLS, QoS 1, persistence on) brings as many messages to another mosquitto in the same run. With one reading a message
 * as well, printed. `--readings 100000 --single 10000` are the defaults. Needs mosquitto and openssl.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { connect, connectAsync } from "mqtt";
import { openStore } from "../../agent/store/store.js";
import { systemClock } from "../../core/clock.js";
import { silentLog } from "../../core/log.js";
import { AgentSites, memoryMb, metricsOf, READER } from "../fixtures/bench/agent-sites.js";
import { openTlsMosquitto } from "../fixtures/bench/tls-mosquitto.js";
import { freePort, openMosquitto } from "../fixtures/mqtt-mosquitto.js";

const RSS_LIMIT_MB = 95;

interface Drained {
  readonly perSecond: number;
  readonly peakMb: number;
}

const payloadOf = (n: number): string =>
  JSON.stringify({ n: `temperature.${n % 5}`, u: "Cel", v: 20 + (n % 500) / 100, t: 1_790_000_000 + n });

async function main(readings: number, single: number): Promise<void> {
  const bridge = await bridged(readings);
  say(`mosquitto bridge, TLS, QoS 1, persistence:   ${rate(bridge)}`);
  const ours = await drained(readings);
  const part = ours.perSecond / bridge;
  judge(
    part >= 1,
    `agent, default settings:                      ${rate(ours.perSecond)}, ${part.toFixed(2)} of it`,
    "1",
  );
  judge(
    ours.peakMb <= RSS_LIMIT_MB,
    `agent, most RSS meanwhile:                    ${ours.peakMb.toFixed(1)} MB`,
    `${RSS_LIMIT_MB} MB`,
  );
  const one = await drained(single, "maxBatch = 1");
  say(
    `agent, one reading a message (${single}):        ${rate(one.perSecond)}, ${(one.perSecond / bridge).toFixed(3)} of the bridge`,
  );
}

/** From the agent's start to its empty outbox, without the time in which it gets ready. */
async function drained(readings: number, head = ""): Promise<Drained> {
  await using sites = await AgentSites.open();
  const atSign = "@backlog";
  const port = await freePort();
  const stateDir = await sites.add({ atSign, head: `metricsPort = ${port}\n${head}`, toml: "" });
  await fill(stateDir, readings);
  let came = 0;
  let firstMs = Infinity;
  sites.startWatch(atSign, (line) => {
    // Not parsed: this process is not to be busy.
    if (!line.includes('"type":"reading"')) return;
    if (came === 0) firstMs = performance.now();
    came += 1;
  });
  await sleep(3000);
  const pid = sites.startAgent(atSign);
  for (const startMs = performance.now(); ; await sleep(20)) {
    if (performance.now() - startMs > 600_000) throw new Error(`${came} of ${readings} readings came in ten minutes`);
    if (came < readings) continue;
    const metrics = await metricsOf(port);
    if (metrics.get(`reader.${READER}.unreceipted`) === 0) break;
  }
  const seconds = (performance.now() - firstMs) / 1000;
  const peakMb = await memoryMb(pid, "VmHWM");
  return { perSecond: readings / seconds, peakMb };
}

async function fill(folder: string, readings: number): Promise<void> {
  await using store = await openStore({ folder, readers: [READER], clock: systemClock, log: silentLog });
  const startMs = Date.now() - readings * 100;
  for (let n = 0; n < readings; n += 5000) {
    const some = Array.from({ length: Math.min(5000, readings - n) }, (_, index) => ({
      name: `temperature.${(n + index) % 5}`,
      unit: "Cel",
      value: 20 + ((n + index) % 500) / 100,
      timeMs: startMs + (n + index) * 100,
    }));
    await Promise.all([store.publish(some), store.flush()]);
  }
}

/** Messages a second from the first to the last that a subscriber of the other broker gets. */
async function bridged(messages: number): Promise<number> {
  await using far = await openTlsMosquitto(["persistence true", "max_queued_messages 0"]);
  await far.kill();
  await using near = await openMosquitto({
    persistent: true,
    lines: () => [
      "allow_anonymous true",
      "max_queued_messages 0",
      "connection far",
      `address localhost:${far.port}`,
      `bridge_cafile ${far.caFile}`,
      "topic bench/# out 1",
      "cleansession false",
      "restart_timeout 1",
      "notifications false",
    ],
  });
  const publisher = await connectAsync(near.url, { writeCache: false });
  for (let n = 0; n < messages; n += 1000) {
    const some = Array.from({ length: 1000 }, (_, index) => payloadOf(n + index));
    await Promise.all(some.map((payload) => publisher.publishAsync("bench/temperature", payload, { qos: 1 })));
  }
  await publisher.endAsync();
  let came = 0;
  let firstMs = 0;
  let lastMs = 0;
  // Before the bridge is there.
  const { readFile } = await import("node:fs/promises");
  const subscriber = connect(far.url, { ca: await readFile(far.caFile), reconnectPeriod: 10, writeCache: false });
  subscriber.on("connect", () => subscriber.subscribe("bench/#", { qos: 1 }));
  subscriber.on("message", () => {
    if (came === 0) firstMs = performance.now();
    came += 1;
    if (came === messages) lastMs = performance.now();
  });
  subscriber.on("error", () => undefined);
  await far.start();
  for (const startMs = performance.now(); lastMs === 0; await sleep(20)) {
    if (performance.now() - startMs > 300_000) throw new Error(`${came} of ${messages} messages came over the bridge`);
  }
  await subscriber.endAsync(true);
  return messages / ((lastMs - firstMs) / 1000);
}

const rate = (perSecond: number): string => `${Math.round(perSecond).toLocaleString("en")} readings/s`;
const say = (text: string): void => void process.stdout.write(`${text}\n`);

function judge(isKept: boolean, text: string, limit: string): void {
  say(`${text} (limit ${limit}: ${isKept ? "kept" : "MISSED"})`);
  if (!isKept) process.exitCode = 1;
}

const { values } = parseArgs({
  options: { readings: { type: "string", default: "100000" }, single: { type: "string", default: "10000" } },
});
await main(Number(values.readings), Number(values.single));
process.exit();
