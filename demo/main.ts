/**
 * The whole thing on one machine: `npm run demo` until Ctrl-C, `npm run demo -- --once` to do it all, check it and exit.
 * Every part is a process of its own.
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { fileURLToPath } from "node:url";
import { codeOf, EdgeError } from "../core/errors.js";
import { untilAborted } from "../core/scope.js";
import { Children, DemoFailed } from "./children.js";
import { Screen } from "./screen.js";
import { DEVICE, OWNER, parseObject, residentMb, setUpSite, type Site } from "./site.js";
import { Watched } from "./watched.js";

const USAGE = `usage: npm run demo [-- --once] [--keep-files]

  --once        do it all, check what was seen, print a summary, exit (0: all seen, 1: not)
  --keep-files  leave the demo's folder (logs, databases, keys) behind and say where it is
`;

const dist = fileURLToPath(new URL(".", import.meta.url));
const DRIVERS = ["host", "board", "bench"];
const PATIENCE_MS = 30_000;

interface Options {
  readonly once: boolean;
  readonly keepFiles: boolean;
}

async function main({ once, keepFiles }: Options): Promise<number> {
  const stop = new AbortController();
  for (const name of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.once(name, () => stop.abort("stopped"));
  const folder = await makeFolder();
  const screen = new Screen(process.stdout);
  const children = new Children(dist, folder, (error) => stop.abort(error));
  let passed = true;
  try {
    const site = await untilAborted(start(folder, children, screen), stop.signal);
    const watched = watch(site, children, screen);
    screen.start();
    passed = await untilAborted(show(site, children, screen, watched, once), stop.signal);
    if (!once) {
      screen.step("\nIt goes on. Ctrl-C ends it.\n");
      await untilAborted(new Promise<never>(() => {}), stop.signal);
    }
  } catch (error) {
    if (error !== "stopped") throw error;
  } finally {
    screen.stop();
    await children.stop();
    if (keepFiles) process.stdout.write(`The demo's files are in ${folder}\n`);
    else await rm(folder, { recursive: true, force: true });
  }
  return passed ? 0 : 1;
}

async function makeFolder(): Promise<string> {
  try {
    return await mkdtemp(join(tmpdir(), "atedge-demo-"));
  } catch (cause) {
    const text = `cannot write in ${tmpdir()} (${codeOf(cause)}): set TMPDIR to a folder where you may write`;
    throw new DemoFailed(text, { cause });
  }
}

async function start(folder: string, children: Children, screen: Screen): Promise<Site> {
  screen.step("Starting an MQTT broker, a microcontroller on a pty, an MQTT sensor, and the platform …");
  const { port } = await children.startUntil("broker", { program: "demo-broker.js", args: [] }, (line) => {
    const port = parseObject(line)?.["port"];
    return typeof port === "number" ? { port } : undefined;
  });
  const brokerUrl = `mqtt://127.0.0.1:${port}`;
  const boardPath = await children.startUntil("board", { program: "demo-board.js", args: ["--rate", "2"] }, (line) => {
    const path = parseObject(line)?.["path"];
    return typeof path === "string" ? path : undefined;
  });
  children.start("sensor", { program: "demo-mqtt-sensor.js", args: ["--url", brokerUrl, "--rate", "2"] });
  const site = await setUpSite({ folder, children, boardPath, brokerUrl, onStep: (text) => screen.step(text) });
  children.start("agent", { program: "atedge.js", args: ["run", "--config", site.config] });
  screen.step(`The agent of ${OWNER} reads ${boardPath} (serial), ${brokerUrl} (MQTT) and this machine.`);
  return site;
}

function watch(site: Site, children: Children, screen: Screen): Watched {
  const watched = new Watched((reading) => screen.reading(reading));
  const args = ["watch", `${OWNER}/${DEVICE}`, ...site.asReader, "--keep", join(site.folder, "kept.db"), "--json"];
  children.start("watch", { program: "atedge.js", args, onLine: (line) => watched.take(line) });
  screen.step(`@grower watches ${OWNER}/${DEVICE} from another process. What it sees in clear:\n`);
  return watched;
}

/** The story: readings from all drivers, a relay over serial, a lamp over MQTT. */
async function show(site: Site, children: Children, screen: Screen, watched: Watched, once: boolean): Promise<boolean> {
  for (const driver of DRIVERS)
    await patiently(
      watched.sees((reading) => reading.driver === driver),
      `a reading of ${driver}`,
    );
  const call = async (...command: string[]): Promise<string> => {
    screen.step(
      `\n$ atedge call ${OWNER}/${DEVICE} ${command.map((part) => (part.startsWith("{") ? `'${part}'` : part)).join(" ")}`,
    );
    const output = await children.run("call", "atedge.js", [
      "call",
      `${OWNER}/${DEVICE}`,
      ...command,
      ...site.asReader,
    ]);
    screen.step(`  answered: ${output.trim()}`);
    return output;
  };
  // Asked for before the call: the reading may be here before the answer is.
  const relayOn = watched.sees(({ name, value }) => name === "board/relay" && value === true);
  await call("board", "relay", '{"on":true}');
  const relay = await patiently(relayOn, "the relay on");
  screen.step(`  and the next reading says ${relay.name} = ${String(relay.value)}`);
  const lampOn = watched.sees(({ name, value }) => name === "bench/lamp.1" && value === "ON");
  await call("bench", "lamp", '{"state":"ON"}');
  const lamp = await patiently(lampOn, "the lamp on");
  screen.step(`  and the next reading says ${lamp.name} = ${String(lamp.value)}\n`);
  if (!once) return true;

  await patiently(watched.hasSeen(100), "100 readings");
  const agentMb = await residentMb(children.pid("agent") ?? 0);
  const { readings, gaps, p50Ms, p99Ms } = watched.summary();
  screen.stop();
  screen.step(
    [
      "\nSummary",
      `  readings delivered    ${readings}, from ${DRIVERS.length} drivers, ${gaps} gaps`,
      `  driver to watcher     p50 ${p50Ms} ms, p99 ${p99Ms} ms`,
      `  agent memory (RSS)    ${agentMb?.toFixed(1) ?? "?"} MB`,
      "  commands              2 sent, 2 answered, both seen in the readings",
      "All that was to be seen was seen.",
    ].join("\n"),
  );
  return true;
}

async function patiently<T>(work: Promise<T>, what: string): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new DemoFailed(`waited ${PATIENCE_MS / 1000} s for ${what} in vain`)), PATIENCE_MS);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}

function parseOptions(): Options | undefined {
  try {
    const { values } = parseArgs({
      options: {
        once: { type: "boolean", default: false },
        "keep-files": { type: "boolean", default: false },
        help: { type: "boolean", short: "h", default: false },
      },
    });
    if (!values.help) return { once: values.once, keepFiles: values["keep-files"] };
    process.stdout.write(USAGE);
  } catch (error) {
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n${USAGE}`);
    process.exitCode = 2;
  }
  return undefined;
}

const options = parseOptions();
if (options) {
  try {
    process.exitCode = await main(options);
  } catch (error) {
    const known = error instanceof EdgeError || codeOf(error) !== undefined;
    process.stderr.write(
      `demo: ${known && error instanceof Error ? error.message : String(error instanceof Error ? error.stack : error)}\n`,
    );
    process.exitCode = 1;
  }
}
