/**
 * What readings cost over their whole life, with the built agent at its default settings (issue 5):
 *
 * - bytes written to disk a reading, at 50 readings/s and class `power-cut`: reading, message, receipt, trim. At most
 *   1/4 of one commit a reading with the default window of 200 ms, at most 1/7 with one of 1 s;
 * - bytes on the wire a reading at 0.1, 1 and 50 readings/s, both ways, TCP and IP headers included, against MQTT QoS 1
 *   over TLS one by one: at most half of it at 50; and where the two are even;
 * - what an idle agent sends and receives in a day, and its processor time.
 *
 * All run side by side for the same time. Needs mosquitto, openssl and ss. `--seconds 180` is the default.
 */
import { fork } from "node:child_process";
import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { connectAsync } from "mqtt";
import { AgentSites, cpuSeconds, metricsOf, writtenBytes } from "../fixtures/bench/agent-sites.js";
import { SocketBytes } from "../fixtures/bench/socket-bytes.js";
import { openTlsMosquitto } from "../fixtures/bench/tls-mosquitto.js";
import { freePort } from "../fixtures/mqtt-mosquitto.js";

const WARM_UP_MS = 30_000;
const LOOK_EVERY_MS = 2_000;

interface Measured {
  readonly readings: number;
  readonly wireBytes: number;
  readonly diskBytes: number;
  readonly cpuSeconds: number;
}

/** Something that gives readings, in a process that can be looked into. */
interface Subject {
  readonly name: string;
  readonly pid: number;
  readonly readings: () => Promise<number>;
}

const simulated = (perSecond: number): string =>
  perSecond === 0
    ? ""
    : `[[driver]]\nid = "sim"\ntype = "simulated"\nshape = "walk"\nname = "temperature"\nunit = "Cel"\nintervalMs = ${1000 / perSecond}`;

async function main(seconds: number): Promise<void> {
  await using sites = await AgentSites.open();
  await using broker = await openTlsMosquitto();
  const agent = async (name: string, perSecond: number, outbox = ""): Promise<Subject> => {
    const atSign = `@${name}`;
    const port = await freePort();
    await sites.add({ atSign, head: `metricsPort = ${port}`, toml: `${outbox}\n${simulated(perSecond)}` });
    sites.startWatch(atSign);
    const pid = sites.startAgent(atSign);
    return { name, pid, readings: async () => (await metricsOf(port)).get("store.accepted") ?? 0 };
  };
  const subjects = {
    idle: await agent("idle", 0),
    slow: await agent("slow", 0.1),
    one: await agent("one", 1),
    fifty: await agent("fifty", 50),
    fiftyEach: await agent("fiftyeach", 50, "[outbox]\ncommitIntervalMs = 0"),
    fiftySecond: await agent("fiftysecond", 50, "[outbox]\ncommitIntervalMs = 1000"),
    mqttIdle: await publisher(broker, 0),
    mqttSlow: await publisher(broker, 0.1),
    mqttOne: await publisher(broker, 1),
    mqttFifty: await publisher(broker, 50),
  };
  await sleep(WARM_UP_MS);
  const names = Object.keys(subjects) as (keyof typeof subjects)[];
  const measured = await Promise.all(names.map((name) => measure(subjects[name], seconds)));
  const of = (name: keyof typeof subjects): Measured => {
    const found = measured[names.indexOf(name)];
    if (!found) throw new Error(name);
    return found;
  };
  printDisk(of("fiftyEach"), of("fifty"), of("fiftySecond"));
  printWire(
    [
      [0.1, of("slow"), of("mqttSlow")],
      [1, of("one"), of("mqttOne")],
      [50, of("fifty"), of("mqttFifty")],
    ],
    of("idle"),
    of("mqttIdle"),
    seconds,
  );
  const share = (one: Measured): string => `${((one.cpuSeconds / seconds) * 100).toFixed(2)} %`;
  say(`processor: idle ${share(of("idle"))} of one, at 1 reading/s ${share(of("one"))}, at 50 ${share(of("fifty"))}`);
}

async function measure({ pid, readings }: Subject, seconds: number): Promise<Measured> {
  const sockets = new SocketBytes(pid);
  const look = async (): Promise<Measured> => {
    await sockets.look();
    const [count, diskBytes, cpu] = await Promise.all([readings(), writtenBytes(pid), cpuSeconds(pid)]);
    return { readings: count, wireBytes: sockets.total, diskBytes, cpuSeconds: cpu };
  };
  const before = await look();
  for (const endMs = performance.now() + seconds * 1000; performance.now() < endMs;) {
    await sleep(LOOK_EVERY_MS);
    await sockets.look();
  }
  const after = await look();
  return {
    readings: after.readings - before.readings,
    wireBytes: after.wireBytes - before.wireBytes,
    diskBytes: after.diskBytes - before.diskBytes,
    cpuSeconds: after.cpuSeconds - before.cpuSeconds,
  };
}

function printDisk(each: Measured, window: Measured, second: Measured): void {
  const bytes = ({ diskBytes, readings }: Measured): number => diskBytes / readings;
  say(`disk, 50 readings/s, a commit each:        ${bytes(each).toFixed(0)} bytes a reading`);
  for (const [name, one, limit] of [
    ["window of 200 ms (default)", window, 4],
    ["window of 1 s", second, 7],
  ] as const) {
    const part = bytes(each) / bytes(one);
    judge(part >= limit, `disk, ${name}: ${bytes(one).toFixed(0)} bytes a reading, 1/${part.toFixed(1)}`, `1/${limit}`);
  }
}

type Rate = readonly [perSecond: number, ours: Measured, mqtt: Measured];

function printWire(rates: readonly Rate[], idle: Measured, mqttIdle: Measured, seconds: number): void {
  for (const [perSecond, ours, mqtt] of rates) {
    const [a, b] = [ours.wireBytes / ours.readings, mqtt.wireBytes / mqtt.readings];
    const text = `wire, ${perSecond} readings/s: ${a.toFixed(0)} bytes a reading, MQTT one by one ${b.toFixed(0)}: ${(a / b).toFixed(2)} of it`;
    if (perSecond === 50) judge(a / b <= 0.5, text, "0.5");
    else say(text);
  }
  const perDay = ({ wireBytes }: Measured): string => `${((wireBytes / seconds) * 0.0864).toFixed(2)} MB`;
  say(`wire, idle: ${perDay(idle)} a day, MQTT ${perDay(mqttIdle)}`);
  say(`wire, even at ${evenAt([[0, idle, mqttIdle], ...rates], seconds)}`);
}

/** Between the two measured rates where ours begins to cost less, on a straight line. */
function evenAt(rates: readonly Rate[], seconds: number): string {
  const excess = ([, ours, mqtt]: Rate): number => (ours.wireBytes - mqtt.wireBytes) / seconds;
  for (const [index, upper] of rates.entries()) {
    const lower = rates[index - 1];
    if (!lower || excess(lower) <= 0 || excess(upper) > 0) continue;
    const share = excess(lower) / (excess(lower) - excess(upper));
    return `about ${(lower[0] + share * (upper[0] - lower[0])).toFixed(1)} readings/s`;
  }
  return "none of the measured rates";
}

const say = (text: string): void => void process.stdout.write(`${text}\n`);

function judge(isKept: boolean, text: string, limit: string): void {
  say(`${text} (limit ${limit}: ${isKept ? "kept" : "MISSED"})`);
  if (!isKept) process.exitCode = 1;
}

async function publisher({ url, caFile }: { url: string; caFile: string }, perSecond: number): Promise<Subject> {
  const child = fork(process.argv[1] ?? "", ["--publish", String(perSecond), "--url", url, "--ca", caFile]);
  process.once("exit", () => child.kill());
  await once(child, "message");
  const readings = async (): Promise<number> => {
    const answer = once(child, "message");
    child.send("count");
    return Number((await answer)[0]);
  };
  return { name: `mqtt ${perSecond}`, pid: child.pid ?? 0, readings };
}

/** In a process of its own: one reading after the other, each with its time, as a sensor would. */
async function publish(perSecond: number, url: string, ca: string): Promise<void> {
  const { readFile } = await import("node:fs/promises");
  const client = await connectAsync(url, { ca: await readFile(ca), writeCache: false });
  let count = 0;
  process.on("message", () => process.send?.(count));
  process.on("disconnect", () => process.exit());
  process.send?.("ready");
  if (perSecond === 0) return;
  setInterval(() => {
    const value = Number((20 + Math.random()).toFixed(2));
    const payload = JSON.stringify({ n: "temperature", u: "Cel", v: value, t: Date.now() / 1000 });
    void client.publishAsync("fifty/north/temperature", payload, { qos: 1 }).then(() => (count += 1));
  }, 1000 / perSecond);
}

const { values } = parseArgs({
  options: {
    seconds: { type: "string", default: "180" },
    publish: { type: "string" },
    url: { type: "string", default: "" },
    ca: { type: "string", default: "" },
  },
});
if (values.publish !== undefined) await publish(Number(values.publish), values.url, values.ca);
else {
  await main(Number(values.seconds));
  process.exit();
}
