/**
 * Messages a second at QoS 1 from mosquitto, each acknowledged only after a commit that takes 20 ms, at mosquitto's
 * default of 20 messages in flight and at 1,000; against a bare mqtt.js subscriber that only counts, and against
 * mqtt.js with a handler that waits for the commit. Needs mosquitto. Figures of one run may be compared.
 */
import { connectAsync, type IPublishPacket, type MqttClient } from "mqtt";
import * as v from "valibot";
import { mqttSchema } from "../../drivers/mqtt/config.js";
import { openMqtt } from "../../drivers/mqtt/mqtt-driver.js";
import { recordingDeps } from "../contracts/driver.js";
import { openMosquitto } from "../fixtures/mqtt-mosquitto.js";

const COMMIT_MS = 20;
const PAYLOAD = JSON.stringify({ value: 21.5, n: 1, sensor: "north wall", unit: "Cel" });

/** Messages that our driver had received and not acknowledged. */
let mostUnderWay = 0;

/** What a group commit does: all that came while one was under way is in the next; each takes the same time. */
function groupCommit(): () => Promise<void> {
  let waiting: (() => void)[] = [];
  let busy = false;
  const commit = (): void => {
    const batch = waiting;
    waiting = [];
    busy = batch.length > 0;
    if (busy) setTimeout(() => (batch.forEach((done) => done()), commit()), COMMIT_MS);
  };
  return () =>
    new Promise((resolve) => {
      waiting.push(resolve);
      if (!busy) commit();
    });
}

interface Subscriber extends AsyncDisposable {
  readonly received: () => number;
}

async function bare(url: string): Promise<Subscriber> {
  let count = 0;
  const client = await connectAsync(url, { writeCache: false });
  client.on("message", () => (count += 1));
  await client.subscribeAsync("bench/#", { qos: 1 });
  return { received: () => count, [Symbol.asyncDispose]: () => client.endAsync(true) };
}

async function oneAtATime(url: string): Promise<Subscriber> {
  let count = 0;
  const commit = groupCommit();
  const client = await connectAsync(url, { writeCache: false });
  client.handleMessage = (_: IPublishPacket, done: Parameters<MqttClient["handleMessage"]>[1]) => {
    void commit().then(() => {
      count += 1;
      done();
    });
  };
  await client.subscribeAsync("bench/#", { qos: 1 });
  return { received: () => count, [Symbol.asyncDispose]: () => client.endAsync(true) };
}

async function driver(url: string): Promise<Subscriber> {
  let count = 0;
  const commit = groupCommit();
  const deps = await recordingDeps();
  const config = v.parse(mqttSchema, {
    id: "bench",
    type: "mqtt",
    url,
    reading: [{ topic: "bench/+/temperature", name: "temperature.{1}", pointer: "/value", unit: "Cel" }],
  });
  const publish = async (readings: readonly unknown[]): Promise<void> => {
    await commit();
    count += readings.length;
  };
  const opened = await openMqtt(config, { ...deps, publish }, new AbortController().signal);
  mostUnderWay = 0;
  const watch = setInterval(() => (mostUnderWay = Math.max(mostUnderWay, opened.counters?.()["pending"] ?? 0)), 1);
  return {
    received: () => count,
    async [Symbol.asyncDispose]() {
      clearInterval(watch);
      await opened[Symbol.asyncDispose]();
      await deps[Symbol.asyncDispose]();
    },
  };
}

/** Messages a second that a subscriber gets through; publisher and subscriber share this process, the broker has its own. */
async function measure(
  inFlight: number,
  messages: number,
  open: (url: string) => Promise<Subscriber>,
): Promise<number> {
  await using broker = await openMosquitto({
    lines: () => ["allow_anonymous true", `max_inflight_messages ${inFlight}`, "max_queued_messages 0"],
  });
  const publisher = await connectAsync(broker.url, { writeCache: false });
  await using subscriber = await open(broker.url);
  const all = Array.from({ length: messages }, (_, n) =>
    publisher.publishAsync(`bench/${n % 100}/temperature`, PAYLOAD, { qos: 1 }),
  );
  const start = performance.now();
  while (subscriber.received() < messages) await new Promise((resolve) => setTimeout(resolve, 5));
  const seconds = (performance.now() - start) / 1000;
  await Promise.all(all);
  await publisher.endAsync(true);
  return messages / seconds;
}

const perSecond = (rate: number): string => `${Math.round(rate).toLocaleString("en")}/s`.padStart(10);

for (const [inFlight, messages] of [
  [20, 3000],
  [1000, 20_000],
] as const) {
  const bareRate = await measure(inFlight, messages, bare);
  const ours = await measure(inFlight, messages, driver);
  const waiting = await measure(inFlight, 60, oneAtATime);
  process.stdout.write(
    `mosquitto, ${String(inFlight).padStart(4)} in flight, commit of ${COMMIT_MS} ms:` +
      ` bare mqtt.js that only counts ${perSecond(bareRate)}, our driver ${perSecond(ours)}` +
      ` (${(ours / bareRate).toFixed(2)} of it, at most ${mostUnderWay} under way), mqtt.js that waits ${perSecond(waiting)}\n`,
  );
}
