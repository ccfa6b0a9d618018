import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { connectAsync, type MqttClient } from "mqtt";
import t from "tap";
import * as v from "valibot";
import type { Driver } from "../../core/driver.js";
import type { Log } from "../../core/log.js";
import { mqttSchema } from "../../drivers/mqtt/config.js";
import { openMqtt } from "../../drivers/mqtt/mqtt-driver.js";
import { openSession } from "../../drivers/mqtt/session.js";
import { eventually, recordingDeps, type RecordingDeps } from "../contracts/driver.js";
import { openAedes } from "../fixtures/mqtt-brokers.js";
import { openMosquitto } from "../fixtures/mqtt-mosquitto.js";

const never = new AbortController().signal;
const numbers = { topic: "numbers/#", pointer: "/n", name: "n" };

const open = (keys: Record<string, unknown>, deps: RecordingDeps): Promise<Driver> =>
  openMqtt(v.parse(mqttSchema, { id: "bench", type: "mqtt", ...keys }), deps, never);

interface Heard extends AsyncDisposable {
  readonly client: MqttClient;
  readonly messages: { readonly topic: string; readonly text: string; readonly retained: boolean }[];
}

/** Another client of the broker, version 5. */
async function listenTo(url: string, filter: string): Promise<Heard> {
  const client = await connectAsync(url, { protocolVersion: 5 });
  const messages: Heard["messages"] = [];
  client.on("message", (topic, payload, { retain }) => {
    messages.push({ topic, text: payload.toString("utf8"), retained: retain });
  });
  await client.subscribeAsync(filter, { qos: 1 });
  return { client, messages, [Symbol.asyncDispose]: () => client.endAsync(true) };
}

void t.test("the session's name", async (t) => {
  const stateDir = await mkdtemp(join(tmpdir(), "atedge-session-"));
  const nameOn = async (machineId: string): Promise<string> => {
    const session = await openSession({ stateDir, machineId });
    await session.willSubscribe(["a"]);
    return session.clientId;
  };
  const mine = await nameOn("one");
  t.match(mine, /^atedge-[0-9a-f]{16}$/u);
  t.equal(await nameOn("one"), mine, "is the same after a restart");
  t.ok((await openSession({ stateDir, machineId: "one" })).wasKept);
  const copied = await openSession({ stateDir, machineId: "two" });
  t.not(copied.clientId, mine, "is another one on a copied card");
  t.notOk(copied.wasKept);
  t.strictSame(copied.stale([], false), [], "where nothing is subscribed in it");
  t.equal((await openSession({ stateDir, machineId: "one", clientId: "given" })).clientId, "given");

  const path = join(stateDir, "mqtt-session.json");
  await writeFile(path, "{ half");
  t.not(await nameOn("one"), mine, "is made anew when its file cannot be read");
  const session = await openSession({ stateDir, machineId: "one" });
  await Promise.all(Array.from({ length: 100 }, (_, n) => session.willFollow(`lab/${n}`)));
  t.equal((JSON.parse(await readFile(path, "utf8")) as { followed: string[] }).followed.length, 100);
  t.strictSame(session.stale(["a"], true), [], "followed topics stay while something follows");
  t.equal(session.stale(["a"], false).length, 100, "and go when nothing does");
  await rm(stateDir, { recursive: true });
});

for (const version of ["3.1.1", "5"]) {
  void t.test(`MQTT ${version}: a topic that is configured no more is taken out of the session`, async (t) => {
    // aedes does not speak version 5.
    for (const openBroker of version === "5" ? [openMosquitto] : [openMosquitto, openAedes]) {
      await using opened = await openBroker();
      const { url } = opened;
      await using deps = await recordingDeps();
      const both = { url, version, reading: [numbers, { ...numbers, topic: "old/#" }] };
      await (await open(both, deps))[Symbol.asyncDispose]();
      await opened.publish("old/a", '{"n":1}');
      await opened.publish("numbers/a", '{"n":2}');
      const driver = await open({ url, version, reading: [numbers] }, deps);
      await opened.publish("old/a", '{"n":3}');
      await opened.publish("numbers/a", '{"n":4}');
      await deps.until(2);
      await driver[Symbol.asyncDispose]();
      t.strictSame(
        deps.readings.map(({ value }) => value),
        [2, 4],
        "and nothing else is lost",
      );
      const { messages } = driver.counters?.() ?? {};
      t.ok(messages !== undefined && messages <= 3, "what is published there afterwards does not come any more");
    }
  });

  void t.test(`MQTT ${version}: the last will is published when we are lost, and what we leave with`, async (t) => {
    await using broker = await openMosquitto();
    await using other = await listenTo(broker.url, "status/#");
    await using deps = await recordingDeps();
    const keys = { url: broker.url, version, will: { topic: "status/north", online: "here", payload: "gone" } };
    const texts = (): string[] => other.messages.map(({ text }) => text);
    const first = await open(keys, deps);
    await eventually(() => texts().length === 1, "the first message");
    await first[Symbol.asyncDispose]();
    await eventually(() => texts().length === 2, "the farewell");
    const second = await open(keys, deps);
    await eventually(() => texts().length === 3, "the second connection");
    // Another client with the same id: the broker drops us without a DISCONNECT of ours.
    const { clientId } = JSON.parse(await readFile(join(await deps.stateDir(), "mqtt-session.json"), "utf8")) as {
      clientId: string;
    };
    const thief = await connectAsync(broker.url, { clientId, protocolVersion: 5 });
    await eventually(() => texts().length === 4, "the last will");
    t.strictSame(texts(), ["here", "gone", "here", "gone"]);
    await second[Symbol.asyncDispose]();
    await thief.endAsync(true);
    await using late = await listenTo(broker.url, "status/#");
    await eventually(() => late.messages.length === 1, "the retained state");
    t.match(late.messages, [{ text: "gone", retained: true }]);
  });

  void t.test(`MQTT ${version}: a shared subscription parts the messages among its group`, async (t) => {
    await using broker = await openMosquitto();
    await using left = await recordingDeps();
    await using right = await recordingDeps();
    const keys = { url: broker.url, version, reading: [{ ...numbers, topic: "$share/agents/numbers/+" }] };
    const drivers = [await open(keys, left), await open(keys, right)];
    for (let n = 0; n < 100; n += 1) await broker.publish("numbers/a", JSON.stringify({ n }));
    await eventually(() => left.readings.length + right.readings.length === 100, "all of them");
    for (const driver of drivers) await driver[Symbol.asyncDispose]();
    t.ok(left.readings.length > 0 && right.readings.length > 0, "each had some");
    const all = [...left.readings, ...right.readings].map(({ value }) => Number(value)).sort((a, b) => a - b);
    t.strictSame(
      all,
      Array.from({ length: 100 }, (_, n) => n),
    );
  });
}

void t.test("a session that the broker has forgotten is told, once and only when there was one", async (t) => {
  await using broker = await openMosquitto();
  const lines: string[] = [];
  const note = (_: unknown, message: string): void => void lines.push(message);
  const log: Log = { debug: note, info: note, warn: note, error: note, child: () => log };
  await using deps = await recordingDeps();
  const keys = { url: broker.url, reading: [numbers] };
  await (await open(keys, { ...deps, log }))[Symbol.asyncDispose]();
  await (await open(keys, { ...deps, log }))[Symbol.asyncDispose]();
  t.strictSame(lines, []);
  await broker.kill(); // Without persistence it forgets.
  await broker.start();
  await (await open(keys, { ...deps, log }))[Symbol.asyncDispose]();
  t.strictSame(lines, ["the broker has forgotten our session, and what it kept for us"]);
});

void t.test("MQTT 5 request and response by correlation data", async (t) => {
  for (const answerTopic of [undefined, "lamp/answers"]) {
    await using broker = await openMosquitto();
    await using deps = await recordingDeps();
    const responder = await connectAsync(broker.url, { protocolVersion: 5 });
    responder.on("message", (topic, payload, { properties }) => {
      const { responseTopic = "", correlationData } = properties ?? {};
      if (topic === "lamp/deaf") return;
      // The answers to two others come first; one of them has no correlation data at all.
      responder.publish(responseTopic, "wrong", { qos: 1, properties: { correlationData: Buffer.from("other") } });
      responder.publish(responseTopic, "wrong", { qos: 1 });
      const more = { userProperties: { a: "b" }, contentType: "text/plain", messageExpiryInterval: 60 };
      const data = correlationData === undefined ? {} : { correlationData };
      responder.publish(responseTopic, `did ${payload.toString()}`, { qos: 1, properties: { ...more, ...data } });
    });
    await responder.subscribeAsync("lamp/#", { qos: 1 });
    const command = {
      name: "set",
      topic: "lamp/set",
      args: { to: { type: "string" } },
      payload: "{to}",
      correlate: true,
    };
    const deaf = { name: "deaf", topic: "lamp/deaf", correlate: true, timeoutMs: 100 };
    const keys = { url: broker.url, version: "5", command: [{ ...command, answerTopic }, deaf] };
    const driver = await open(keys, deps);
    const asked = ["on", "off"].map((to) => driver.call("set", { to }, never));
    t.strictSame(await Promise.all(asked), ["did on", "did off"], "each gets its own answer");
    await t.rejects(driver.call("deaf", {}, never), { code: "UNKNOWN_OUTCOME" });
    await driver[Symbol.asyncDispose]();
    await responder.endAsync(true);
  }
  const config = {
    id: "a",
    type: "mqtt",
    url: "mqtt://localhost",
    command: [{ name: "a", topic: "a", correlate: true }],
  };
  t.throws(() => v.parse(mqttSchema, config), { message: /expected version = "5"/u });
});

void t.test("several brokers are driven side by side, and one that is away disturbs no other", async (t) => {
  await using one = await openMosquitto();
  await using two = await openAedes();
  await using deps = await recordingDeps();
  await using others = await recordingDeps();
  const first = await open({ id: "one", url: one.url, reading: [numbers] }, deps);
  const second = await open({ id: "two", url: two.url, reading: [numbers] }, others);
  const ended = second.run(never).catch((error: unknown) => error);
  await one.publish("numbers/a", '{"n":1}');
  await two.publish("numbers/a", '{"n":2}');
  await deps.until(1);
  await others.until(1);
  await two.cut();
  t.match(await ended, { code: "DEVICE_GONE" });
  await one.publish("numbers/a", '{"n":3}');
  await deps.until(2);
  t.strictSame(
    [deps, others].map(({ readings }) => readings.map(({ value }) => value)),
    [[1, 3], [2]],
  );
  await first[Symbol.asyncDispose]();
  await second[Symbol.asyncDispose]();
});
