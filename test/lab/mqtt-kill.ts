/**
 * 100,000 messages at QoS 1, published to mosquitto and then to aedes, while the built agent is killed again and again:
 * every one that it acknowledged, as seen on the wire, is in its outbox at the end. The atPlatform is away, so that nothing leaves it.
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
import { setUpSite, type Site } from "../../demo/site.js";
import { openAedes } from "../fixtures/mqtt-brokers.js";
import { openMosquitto } from "../fixtures/mqtt-mosquitto.js";
import { openMqttTap } from "../fixtures/mqtt-tap.js";
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
const POLL_MS = 3000;
const random = seededRandom(Number(values.seed));

async function run(broker: string): Promise<void> {
  delete process.env["NODE_OPTIONS"];
  const folder = await mkdtemp(join(tmpdir(), "atedge-mqtt-kill-"));
  const children = new Children(join(process.cwd(), "dist"), folder, (error) => {
    throw error;
  });
  await using aedes = broker === "aedes" ? await openAedes({ concurrency: 1000 }) : undefined;
  await using mosquitto = aedes
    ? undefined
    : await openMosquitto({ lines: () => ["allow_anonymous true", "max_queued_messages 0"] });
  await using tap = await openMqttTap(aedes?.url ?? mosquitto?.url ?? "");
  try {
    const site = await setUpSite({ folder, children, boardPath: "/dev/null", brokerUrl: tap.url, numbered: true });
    await children.end("platform", "SIGTERM");
    const startMs = performance.now();
    const kills = await publishAndKill(aedes?.url ?? mosquitto?.url ?? "", children, site);
    await untilAllCame(folder);
    await children.end("agent", "SIGTERM");
    const found = outboxNumbers(join(folder, "agent"), "bench/n");
    const all = new Set(found);
    const missing = Array.from({ length: MESSAGES }, (_, n) => n).filter((n) => !all.has(n));
    // What a broker lost that it had no acknowledgement for is not the agent's loss.
    const lost = missing.filter((n) => tap.acknowledged.has(JSON.stringify({ n })));
    const seconds = ((performance.now() - startMs) / 1000).toFixed(0);
    process.stdout.write(
      `${broker}: ${MESSAGES} messages, ${kills} kills, ${seconds} s, ${found.length - all.size} delivered twice,` +
        ` ${lost.length} missing that were acknowledged, ${missing.length - lost.length} lost by the broker before` +
        ` (seed ${values.seed})\n`,
    );
    if (lost.length > 0 || kills < MESSAGES / 10_000) process.exitCode = 1;
  } finally {
    await children.stop();
    await rm(folder, { recursive: true, force: true });
  }
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

/** Waits until all have come, or none comes any more: aedes sends new messages before those that it has kept. */
async function untilAllCame(folder: string): Promise<void> {
  const copy = await mkdtemp(join(folder, "copy-"));
  let found = -1;
  for (let silentMs = 0; silentMs < 30_000; silentMs += POLL_MS) {
    for (const end of ["", "-wal"])
      await copyFile(join(folder, "agent", `outbox.db${end}`), join(copy, `outbox.db${end}`));
    const now = new Set(outboxNumbers(copy, "bench/n")).size;
    if (now === MESSAGES) return;
    if (now > found) silentMs = 0;
    found = now;
    await sleep(POLL_MS);
  }
}

for (const broker of values.broker.split(",")) await run(broker);
