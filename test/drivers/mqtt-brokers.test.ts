import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import t from "tap";
import * as v from "valibot";
import { systemClock } from "../../core/clock.js";
import type { Reading } from "../../core/driver.js";
import { silentLog, type Log } from "../../core/log.js";
import { mqttSchema } from "../../drivers/mqtt/config.js";
import { openMqtt } from "../../drivers/mqtt/mqtt-driver.js";
import { configuredDriver } from "../../drivers/registry.js";
import { DriverSupervisor } from "../../drivers/supervisor.js";
import { eventually, recordingDeps } from "../contracts/driver.js";
import { bundleProgram, type BundledProgram } from "../fixtures/bundled-program.js";
import { openAedes } from "../fixtures/mqtt-brokers.js";
import { openMosquitto } from "../fixtures/mqtt-mosquitto.js";
import { outboxNumbers } from "../fixtures/outbox-numbers.js";
import { seededRandom } from "../fixtures/seeded-random.js";

const never = new AbortController().signal;
const numbers = { id: "bench", type: "mqtt", reading: [{ topic: "numbers/#", pointer: "/n", name: "n" }] };

interface Supervised extends AsyncDisposable {
  readonly supervisor: DriverSupervisor;
  readonly values: Set<Reading["value"]>;
  state(): string;
}

async function supervised(
  keys: Record<string, unknown>,
  { log = silentLog, publish = async () => undefined }: { log?: Log; publish?: () => Promise<void> } = {},
): Promise<Supervised> {
  const stateDir = await mkdtemp(join(tmpdir(), "atedge-mqtt-"));
  const values = new Set<Reading["value"]>();
  const supervisor = new DriverSupervisor({
    drivers: [configuredDriver(v.parse(mqttSchema, { ...numbers, ...keys }))],
    async publish(_, readings) {
      await publish();
      for (const { value } of readings) values.add(value);
    },
    stateDir,
    clock: systemClock,
    log,
    limits: { firstWaitMs: 10, maxWaitMs: 50 },
  });
  const stop = new AbortController();
  const running = supervisor.run(stop.signal);
  return {
    supervisor,
    values,
    state: () => supervisor.health()[0]?.state ?? "none",
    async [Symbol.asyncDispose]() {
      stop.abort();
      await running;
      await rm(stateDir, { recursive: true, force: true });
    },
  };
}

for (const version of ["3.1.1", "5"]) {
  void t.test(
    `MQTT ${version} with mosquitto: the broker may restart, and keeps our session while we are away`,
    async (t) => {
      await using broker = await openMosquitto({ persistent: true });
      let n = 0;
      const publish = async (count: number): Promise<void> => {
        for (let last = n + count; n < last;) await broker.publish(`numbers/${n}`, JSON.stringify({ n: n++ }));
      };
      const keys = { url: broker.url, version, clientId: "atedge-session" };
      {
        await using s = await supervised(keys);
        await eventually(() => s.state() === "running", "the first connection");
        await publish(20);
        await eventually(() => s.values.size === 20, "20 messages");
        await broker.kill();
        await eventually(() => s.state() !== "running", "the loss");
        await broker.start();
        await eventually(() => s.state() === "running", "the broker's return");
        await publish(20);
        await eventually(() => s.values.size === 40, "40 messages");
      }
      await publish(20);
      await using s = await supervised(keys);
      await eventually(() => s.values.size === 20, "what came while we were away");
      t.strictSame(
        [...s.values],
        Array.from({ length: 20 }, (_, index) => 40 + index),
        "in order",
      );
    },
  );
}

void t.test("what was not safe when the connection broke is delivered again", async (t) => {
  await using broker = await openAedes();
  let commits = 0;
  // Nothing becomes safe on the first connection; acknowledgements of an old one never go to a new one.
  const publish = (): Promise<void> => (++commits <= 5 ? new Promise(() => undefined) : Promise.resolve());
  await using s = await supervised({ url: broker.url, clientId: "again" }, { publish });
  await eventually(() => s.state() === "running", "the connection");
  for (let n = 0; n < 5; n += 1) {
    await broker.publish("numbers", JSON.stringify({ n }));
    await eventually(() => commits === n + 1, `message ${n}`);
  }
  await broker.cut();
  await broker.listen();
  await eventually(() => s.values.size === 5, "all five again");
  t.strictSame([...s.values].sort(), [0, 1, 2, 3, 4]);
});

for (const [name, open] of [
  ["mosquitto", () => openMosquitto({ lines: () => ["allow_anonymous true", "max_queued_messages 0"] })],
  ["aedes", openAedes],
] as const) {
  void t.test(`killed at any moment, all that was acknowledged to ${name} is in the outbox`, async (t) => {
    const seed = Number(process.env["ATEDGE_SEED"] ?? Date.now() % 1_000_000);
    t.comment(`seed ${seed} (ATEDGE_SEED=${seed} repeats it)`);
    const random = seededRandom(seed);
    await using broker = await open();
    await using program = await bundleProgram("test/fixtures/mqtt-consumer.ts");
    const folder = await mkdtemp(join(tmpdir(), "atedge-kill-"));
    let sent = 0;
    for (let kills = 0; kills < 5; kills += 1) {
      await using consumer = await startConsumer(program, broker.url, folder);
      const sending = Promise.all(
        Array.from({ length: 400 }, () => broker.publish("numbers/a", JSON.stringify({ n: sent++ }))),
      );
      // Somewhere between delivery and acknowledgement: some of this round are safe, some are not.
      await consumer.untilSafe(1 + Math.floor(random() * 300));
      await consumer.end("SIGKILL");
      await sending;
    }
    await using last = await startConsumer(program, broker.url, folder);
    await broker.publish("numbers/a", JSON.stringify({ n: sent++ }));
    const missing = (): number[] => {
      const all = new Set(outboxNumbers(folder, "n"));
      return Array.from({ length: sent }, (_, n) => n).filter((n) => !all.has(n));
    };
    await last.untilSilent(1000);
    await last.end("SIGTERM");
    t.equal(sent, 2001);
    t.strictSame(missing(), [], `none of ${sent} is missing`);
    await rm(folder, { recursive: true, force: true });
  });
}

interface Consumer extends AsyncDisposable {
  untilSafe(count: number): Promise<void>;
  /** Nothing became safe for so long. */
  untilSilent(ms: number): Promise<void>;
  end(signal: NodeJS.Signals): Promise<void>;
}

/** `test/fixtures/mqtt-consumer.ts`, when it has subscribed. */
async function startConsumer({ path }: BundledProgram, url: string, folder: string): Promise<Consumer> {
  // The tests' own loader has no business in it.
  const env = { ...process.env, NODE_OPTIONS: "" };
  const child = spawn(process.execPath, [path, url, folder], { env, stdio: ["ignore", "pipe", "inherit"] });
  const closed = once(child, "close");
  let running = false;
  let safe = 0;
  let heardMs = Date.now();
  createInterface(child.stdout).on("line", (line) => {
    heardMs = Date.now();
    if (line === "running") running = true;
    else safe = Number(line);
  });
  await eventually(() => running, "the consumer's subscription");
  const end = async (signal: NodeJS.Signals): Promise<void> => {
    child.kill(signal);
    await closed;
  };
  return {
    untilSafe: (count) => eventually(() => safe >= count, `${count} readings that are safe`),
    untilSilent: (ms) => eventually(() => Date.now() - heardMs > ms, "silence"),
    end,
    [Symbol.asyncDispose]: () => end("SIGKILL"),
  };
}

void t.test("wrong credentials give one clear line and a named failure, right ones work", async (t) => {
  const login = { username: "bench", password: "correct horse" };
  await using broker = await openMosquitto({
    login,
    lines: (dir) => {
      execFileSync("mosquitto_passwd", ["-b", "-c", join(dir, "passwd"), login.username, login.password]);
      return [`password_file ${dir}/passwd`, "allow_anonymous false"];
    },
  });
  const passwordFile = join(broker.dir, "password");
  const lines: string[] = [];
  const note = (fields: unknown, message: string): void => void lines.push(`${message} ${JSON.stringify(fields)}`);
  const log: Log = { debug: note, info: note, warn: note, error: note, child: () => log };
  for (const version of ["3.1.1", "5"]) {
    lines.length = 0;
    await writeFile(passwordFile, "wrong secret\n");
    {
      await using s = await supervised({ url: broker.url, version, username: "bench", passwordFile }, { log });
      await eventually(() => (s.supervisor.health()[0]?.counters["failed"] ?? 0) >= 5, "five tries");
      t.match(s.supervisor.health(), [{ lastErrorCode: "BROKER_REFUSED" }]);
    }
    t.equal(lines.length, 1, "one line for five tries");
    t.match(lines[0], /refuses us.*check username, passwordFile/u);
    t.notMatch(lines[0], /wrong secret/u);
    await writeFile(passwordFile, `${login.password}\n`);
    await using s = await supervised({ url: broker.url, version, username: "bench", passwordFile });
    await eventually(() => s.state() === "running", "the login");
  }
});

void t.test("TLS with an own CA and a client certificate", async (t) => {
  await using broker = await openMosquitto({ lines: tlsLines });
  const file = (name: string): string => join(broker.dir, name);
  const url = `mqtts://localhost:${broker.port}`;
  const tls = { ca: file("ca.pem"), cert: file("client.pem"), key: file("client.key") };
  await using deps = await recordingDeps();
  const open = async (keys: Record<string, unknown>): Promise<void> => {
    const driver = await openMqtt(v.parse(mqttSchema, { ...numbers, url, ...keys }), deps, AbortSignal.timeout(20_000));
    await driver[Symbol.asyncDispose]();
  };
  await open({ ...tls, version: "3.1.1" });
  await open({ ...tls, version: "5" });
  await t.rejects(open({ ...tls, ca: undefined }), { code: "DEVICE_GONE" }, "an unknown CA");
  await t.rejects(open({ ...tls, serverName: "elsewhere" }), { code: "DEVICE_GONE" }, "another name");
  await t.rejects(open({ ca: tls.ca }), { code: "DEVICE_GONE" }, "no client certificate");
  await t.rejects(open({ ...tls, ca: file("nowhere.pem") }), { message: /cannot be read \(ENOENT\)/u });
});

function tlsLines(dir: string): string[] {
  const openssl = (...args: string[]): Buffer => execFileSync("openssl", args, { cwd: dir, stdio: "pipe" });
  const newKey = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"];
  openssl("req", "-x509", ...newKey, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=atedge test CA");
  for (const name of ["server", "client"]) {
    const subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"];
    openssl(
      "req",
      "-x509",
      "-CA",
      "ca.pem",
      "-CAkey",
      "ca.key",
      ...newKey,
      "-keyout",
      `${name}.key`,
      "-out",
      `${name}.pem`,
      ...subject,
    );
  }
  return [
    `cafile ${dir}/ca.pem`,
    `certfile ${dir}/server.pem`,
    `keyfile ${dir}/server.key`,
    "require_certificate true",
    "allow_anonymous true",
  ];
}

void t.test("a command waits for the lamp's state and is uncertain without it", async (t) => {
  await using broker = await openAedes();
  broker.onMessage("lamp/set", (payload) => void broker.publish("lamp/state", payload.toLowerCase()));
  await using deps = await recordingDeps();
  const config = v.parse(mqttSchema, {
    id: "lamp",
    type: "mqtt",
    url: broker.url,
    command: [
      {
        name: "set",
        topic: "lamp/set",
        payload: '{"State":"{state}"}',
        args: { state: { type: "string" } },
        answerTopic: "lamp/state",
        answerPointer: "/state",
      },
      { name: "send", topic: "lamp/{which}/set", payload: "{which}", args: { which: { type: "string" } } },
      { name: "deaf", topic: "deaf/set", answerTopic: "deaf/state", timeoutMs: 50 },
    ],
  });
  const driver = await openMqtt(config, deps, never);
  t.equal(await driver.call("set", { state: "ON" }, never), "on");
  t.strictSame(await driver.call("send", { which: "a" }, never), { sent: true });
  await t.rejects(driver.call("deaf", {}, never), { code: "UNKNOWN_OUTCOME" });
  await t.rejects(driver.call("send", { which: "#" }, never), { code: "COMMAND_REFUSED" });
  await driver[Symbol.asyncDispose]();
});
