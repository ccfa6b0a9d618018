/**
 * 100,000 messages at QoS 1, published to mosquitto and then to aedes, while the built agent is killed again and again:
 * every one of them is in the agent's outbox at the end. The atPlatform is away, so that nothing leaves it.
 *
 * `npm run lab -- mqtt-kill --messages 100000 --broker mosquitto,aedes` (the defaults). A shorter form is part of
 * test/drivers/mqtt-brokers.test.ts.
 */
import { copyFile, mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { connectAsync } from "mqtt";
import { Children } from "../../demo/children.js";
import { parseObject, setUpSite, type Site } from "../../demo/site.js";
import { openMosquitto } from "../fixtures/mqtt-mosquitto.js";
import { outboxNumbers } from "../fixtures/outbox-numbers.js";
import { seededRandom } from "../fixtures/seeded-random.js";

const { values } = parseArgs({
  options: {
    messages: { type: "string", default: "100000" },
    broker: { type: "string", default: "mosquitto,aedes" },
    seed: { type: "string", default: String(Date.now() % 1_000_000) },
  },
});
const MESSAGES = Number(values.messages);
/** Published and not acknowledged by the broker at most. */
const BATCH = 100;
const random = seededRandom(Number(values.seed));

async function run(broker: string): Promise<void> {
  delete process.env["NODE_OPTIONS"];
  const folder = await mkdtemp(join(tmpdir(), "atedge-mqtt-kill-"));
  const children = new Children(join(process.cwd(), "dist"), folder, (error) => {
    throw error;
  });
  await using mosquitto =
    broker === "mosquitto"
      ? await openMosquitto({ lines: () => ["allow_anonymous true", "max_queued_messages 0"] })
      : undefined;
  try {
    const url = mosquitto?.url ?? (await startAedes(children));
    const site = await setUpSite({ folder, children, boardPath: "/dev/null", brokerUrl: url, numbered: true });
    await children.end("platform", "SIGTERM");
    const startMs = performance.now();
    const kills = await publishAndKill(url, children, site);
    await untilAllCame(folder);
    await children.end("agent", "SIGTERM");
    const found = outboxNumbers(join(folder, "agent"), "bench/n");
    const all = new Set(found);
    const missing = Array.from({ length: MESSAGES }, (_, n) => n).filter((n) => !all.has(n));
    const seconds = ((performance.now() - startMs) / 1000).toFixed(0);
    process.stdout.write(
      `${broker}: ${MESSAGES} messages, ${kills} kills, ${seconds} s, ${found.length - all.size} delivered twice,` +
        ` ${missing.length} missing (seed ${values.seed})\n`,
    );
    if (missing.length > 0 || kills < MESSAGES / 10_000) process.exitCode = 1;
  } finally {
    await children.stop();
    await rm(folder, { recursive: true, force: true });
  }
}

async function startAedes(children: Children): Promise<string> {
  const port = await children.startUntil("broker", { program: "demo-broker.js", args: [] }, (line) => {
    const ready = parseObject(line)?.["port"];
    return typeof ready === "number" ? ready : undefined;
  });
  return `mqtt://127.0.0.1:${port}`;
}

/** Publishes all messages, and kills the agent at random moments until they are. @returns how often it was killed. */
async function publishAndKill(url: string, children: Children, site: Site): Promise<number> {
  await startAgent(children, site);
  const publisher = await connectAsync(url, { writeCache: false });
  let published = 0;
  const publishing = (async () => {
    for (; published < MESSAGES; published += BATCH) {
      await Promise.all(
        Array.from({ length: Math.min(BATCH, MESSAGES - published) }, (_, index) =>
          publisher.publishAsync("bench/1/illuminance", JSON.stringify({ n: published + index }), { qos: 1 }),
        ),
      );
      // So that the kills fall all over it.
      await sleep(50);
    }
  })();
  let kills = 0;
  while (published < MESSAGES) {
    await sleep(50 + random() * 1000);
    await children.end("agent", "SIGKILL");
    kills += 1;
    await startAgent(children, site);
  }
  await publishing;
  await publisher.publishAsync("bench/1/illuminance", JSON.stringify({ n: MESSAGES }), { qos: 1 });
  await publisher.endAsync();
  return kills;
}

/** Resolves when it has subscribed: what is published before the first time is not for it. */
async function startAgent(children: Children, { folder, config }: Site): Promise<void> {
  const before = (await agentLog(folder)).length;
  children.start("agent", { program: "atedge.js", args: ["run", "--config", config] });
  while (!/"driver":"bench"[^\n]*"driver running"/u.test((await agentLog(folder)).slice(before))) await sleep(20);
}

const agentLog = (folder: string): Promise<string> => readFile(join(folder, "agent.log"), "utf8").catch(() => "");

/** Waits for the message after the last: a broker keeps the order within a session. */
async function untilAllCame(folder: string): Promise<void> {
  const copy = await mkdtemp(join(folder, "copy-"));
  for (const startMs = performance.now(); performance.now() - startMs < 300_000; await sleep(2000)) {
    for (const end of ["", "-wal"])
      await copyFile(join(folder, "agent", `outbox.db${end}`), join(copy, `outbox.db${end}`));
    if (outboxNumbers(copy, "bench/n").includes(MESSAGES)) return;
  }
  process.stdout.write("the last message never came\n");
}

for (const broker of values.broker.split(",")) await run(broker);
