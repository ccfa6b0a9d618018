/**
 * Readings a second from MQTT at QoS 1 into the durable outbox of the agent, against a bare mqtt.js subscriber that only
 * counts (issue 6: at least half of it, 1,000 messages in flight at the broker; the figure at mosquitto's default of 20
 * is printed). Each subscriber is a process of its own and drains the same backlog of a persistent session, so that no
 * publisher slows it down; ours acknowledges what the outbox has synchronised to the disk, at the default settings.
 * Needs mosquitto. Figures of one run may be compared.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { connect, connectAsync, type MqttClient } from "mqtt";
import * as v from "valibot";
import { openStore } from "../../agent/store/store.js";
import { systemClock } from "../../core/clock.js";
import { silentLog } from "../../core/log.js";
import { mqttSchema } from "../../drivers/mqtt/config.js";
import { configuredDriver } from "../../drivers/registry.js";
import { DriverSupervisor } from "../../drivers/supervisor.js";
import { openMosquitto } from "../fixtures/mqtt-mosquitto.js";

const PAYLOAD = JSON.stringify({ value: 21.5, n: 1, sensor: "north wall", unit: "Cel" });
const ROUNDS = 3;
const LIMIT = 0.5;
const CLIENT_ID = "bench";

interface Figures {
  readonly perSecond: number;
  readonly cpuMicros: number;
}

async function compare(): Promise<void> {
  delete process.env["NODE_OPTIONS"];
  for (const [inFlight, messages] of [
    [20, 4_000],
    [1000, 40_000],
  ] as const) {
    const rates = { bare: [] as Figures[], agent: [] as Figures[] };
    for (let round = 0; round < ROUNDS; round += 1) {
      for (const who of ["bare", "agent"] as const) rates[who].push(await drained(who, inFlight, messages));
    }
    const [bareRate, agentRate] = [median(rates.bare), median(rates.agent)];
    const ratio = agentRate.perSecond / bareRate.perSecond;
    const bound = inFlight === 1000 ? ` (limit ${LIMIT}: ${ratio >= LIMIT ? "kept" : "MISSED"})` : "";
    process.stdout.write(
      `mosquitto, ${String(inFlight).padStart(4)} in flight: bare mqtt.js that only counts ${text(bareRate)},` +
        ` into the outbox ${text(agentRate)}: ${ratio.toFixed(2)} of it${bound}\n`,
    );
    if (inFlight === 1000 && ratio < LIMIT) process.exitCode = 1;
  }
}

/** Queues messages for a session, and has a subscriber in a process of its own take them. */
async function drained(who: "bare" | "agent", inFlight: number, messages: number): Promise<Figures> {
  await using broker = await openMosquitto({
    lines: () => ["allow_anonymous true", `max_inflight_messages ${inFlight}`, "max_queued_messages 0"],
  });
  const session = await connectAsync(broker.url, { clientId: CLIENT_ID, clean: false });
  await session.subscribeAsync("bench/+/temperature", { qos: 1 });
  await session.endAsync();
  await fill(await connectAsync(broker.url, { writeCache: false }), messages);
  const folder = await mkdtemp(join(tmpdir(), "atedge-bench-"));
  const program = [process.argv[1] ?? "", who, broker.url, String(messages), folder];
  const child = spawn(process.execPath, program, { stdio: ["ignore", "pipe", "inherit"] });
  const closed = once(child, "close");
  const died = closed.then(() => Promise.reject(new Error(`the ${who} subscriber ended early`)));
  died.catch(() => undefined);
  const [line] = (await Promise.race([once(createInterface(child.stdout), "line"), died])) as [string];
  child.kill("SIGKILL");
  await closed;
  await rm(folder, { recursive: true, force: true });
  const { seconds, cpuMicros } = JSON.parse(line) as { seconds: number; cpuMicros: number };
  return { perSecond: messages / seconds, cpuMicros };
}

async function fill(publisher: MqttClient, messages: number): Promise<void> {
  for (let sent = 0; sent < messages; sent += 1000) {
    await Promise.all(
      Array.from({ length: Math.min(1000, messages - sent) }, (_, n) =>
        publisher.publishAsync(`bench/${n % 100}/temperature`, PAYLOAD, { qos: 1 }),
      ),
    );
  }
  await publisher.endAsync();
}

/** Tells the time from the first message to the last one that is safe, and the processor time a message. */
class Stopwatch {
  readonly #expected: number;
  #startMs = 0;
  #cpu = process.cpuUsage();
  #safe = 0;

  constructor(expected: number) {
    this.#expected = expected;
  }

  arrived(): void {
    if (this.#startMs > 0) return;
    this.#startMs = performance.now();
    this.#cpu = process.cpuUsage();
  }

  safe(count: number): void {
    this.#safe += count;
    if (this.#safe < this.#expected) return;
    const seconds = (performance.now() - this.#startMs) / 1000;
    const { user, system } = process.cpuUsage(this.#cpu);
    process.stdout.write(`${JSON.stringify({ seconds, cpuMicros: (user + system) / this.#expected })}\n`);
  }
}

function bare(url: string, expected: number): void {
  const watch = new Stopwatch(expected);
  const client = connect(url, { writeCache: false, clientId: CLIENT_ID, clean: false });
  client.on("message", () => {
    watch.arrived();
    watch.safe(1);
  });
}

async function agent(url: string, expected: number, folder: string): Promise<void> {
  const watch = new Stopwatch(expected);
  const store = await openStore({ folder, readers: ["@grower"], clock: systemClock, log: silentLog });
  const config = v.parse(mqttSchema, {
    id: "bench",
    type: "mqtt",
    url,
    clientId: CLIENT_ID,
    reading: [{ topic: "bench/+/temperature", name: "temperature.{1}", pointer: "/value", unit: "Cel" }],
  });
  const drivers = new DriverSupervisor({
    drivers: [configuredDriver(config)],
    async publish(_, readings) {
      watch.arrived();
      await store.publish(readings);
      watch.safe(readings.length);
    },
    hurry: () => void store.flush().catch(() => undefined),
    stateDir: join(folder, "drivers"),
    clock: systemClock,
    log: silentLog,
  });
  await drivers.run(new AbortController().signal);
}

const median = (figures: readonly Figures[]): Figures =>
  [...figures].sort((a, b) => a.perSecond - b.perSecond)[figures.length >> 1] ?? { perSecond: 0, cpuMicros: 0 };

const text = ({ perSecond, cpuMicros }: Figures): string =>
  `${Math.round(perSecond).toLocaleString("en")}/s (${cpuMicros.toFixed(0)} µs of processor each)`;

const [role, url = "", count = "0", folder = ""] = process.argv.slice(2);
if (role === "bare") bare(url, Number(count));
else if (role === "agent") await agent(url, Number(count), folder);
else await compare();
