/**
 * Memory of the agent with the serial, MQTT and host drivers at work, and the size of the bundle. Limits: 68 MB of RSS
 * and 1 MB of JavaScript (issues 2 and 5) for what `atedge run` may load; the whole product is printed beside it. A bare Node process of the same run is printed beside it.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Children } from "../../demo/children.js";
import { parseObject, setUpSite } from "../../demo/site.js";

const dist = join(process.cwd(), "dist");
const SECONDS = 30;
const STATIC_IMPORT = /(?:from|import)"\.\/(?<name>[\w-]+\.js)"/gu;
const ANY_IMPORT = /"\.\/(?<name>[\w-]+\.js)"/gu;

delete process.env["NODE_OPTIONS"];
await printBundle();
await printMemory();

async function printBundle(): Promise<void> {
  const names = (await readdir(dist)).filter((name) => name.endsWith(".js") && !name.startsWith("demo-"));
  const files = new Map(
    await Promise.all(names.map(async (name) => [name, await readFile(join(dist, name))] as const)),
  );
  const megabytes = (some: Iterable<string>): string =>
    ([...some].reduce((sum, name) => sum + (files.get(name)?.length ?? 0), 0) / 1e6).toFixed(2);
  const agent = new Set<string>();
  reach("atedge.js", STATIC_IMPORT);
  for (const name of names.filter((each) => each.startsWith("main-"))) reach(name, ANY_IMPORT);
  process.stdout.write(
    `bundle of the agent, without addons  ${megabytes(agent)} MB in ${agent.size} files (limit 1 MB)\n`,
  );
  process.stdout.write(`all commands, the platform too  ${megabytes(files.keys())} MB in ${files.size} files\n`);

  function reach(name: string, imports: RegExp): void {
    const text = files.get(name)?.toString("utf8");
    if (text === undefined || agent.has(name)) return;
    agent.add(name);
    for (const { groups } of text.matchAll(imports)) reach(groups?.["name"] ?? "", imports);
  }
}

async function printMemory(): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), "atedge-footprint-"));
  const children = new Children(dist, folder, (error) => {
    throw error;
  });
  try {
    const { port } = await children.startUntil("broker", { program: "demo-broker.js", args: [] }, (line) => {
      const port = parseObject(line)?.["port"];
      return typeof port === "number" ? { port } : undefined;
    });
    const board = await children.startUntil("board", { program: "demo-board.js", args: ["--rate", "5"] }, (line) => {
      const path = parseObject(line)?.["path"];
      return typeof path === "string" ? path : undefined;
    });
    const brokerUrl = `mqtt://127.0.0.1:${port}`;
    children.start("sensor", { program: "demo-mqtt-sensor.js", args: ["--url", brokerUrl, "--rate", "5"] });
    const site = await setUpSite({ folder, children, boardPath: board, brokerUrl });
    children.start("agent", { program: "atedge.js", args: ["run", "--config", site.config] });
    const watch = ["watch", "@greenhouse/north", ...site.asReader, "--keep", join(folder, "kept.db"), "--json"];
    let readings = 0;
    children.start("watch", { program: "atedge.js", args: watch, onLine: () => (readings += 1) });
    await sleep(SECONDS * 1000);
    const agent = children.pid("agent") ?? 0;
    process.stdout.write(
      `agent after ${SECONDS} s      ${await memory(agent)} (limit 68 MB), ${readings} lines at the watcher\n`,
    );
    process.stdout.write(`bare node              ${await bareNode()}\n`);
  } finally {
    await children.stop();
    await rm(folder, { recursive: true, force: true });
  }
}

async function bareNode(): Promise<string> {
  const child = spawn(process.execPath, ["-e", "setInterval(() => {}, 1000)"], { stdio: "ignore" });
  await sleep(1000);
  const text = await memory(child.pid ?? 0);
  child.kill();
  await once(child, "close");
  return text;
}

async function memory(pid: number): Promise<string> {
  const status = await readFile(`/proc/${pid}/status`, "utf8");
  const mb = (name: string): string => {
    const kb = new RegExp(`^${name}:\\s+(\\d+) kB$`, "mu").exec(status)?.[1];
    return (Number(kb) / 1024).toFixed(1);
  };
  return `${mb("VmRSS")} MB RSS, of which ${mb("RssAnon")} MB anonymous`;
}
