/**
 * Memory of the agent with one driver of each kind at work, over the agent without any, in one run. GPIO is not among
 * them, since machines for tests have no chip; its tools are processes of their own.
 */
import { copyFile, chmod, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Children } from "../../demo/children.js";
import { parseObject, residentMb, setUpSite } from "../../demo/site.js";
import { emptyTables, openModbusTcp } from "../fixtures/pty-modbus-server.js";

const dist = join(process.cwd(), "dist");
const SECONDS = Number(process.env["SECONDS"] ?? 12);

delete process.env["NODE_OPTIONS"];
const folder = await mkdtemp(join(tmpdir(), "atedge-bench-drivers-"));
const children = new Children(dist, folder, (error) => {
  throw error;
});
try {
  await run();
} finally {
  await children.stop();
  await rm(folder, { recursive: true, force: true });
}

async function run(): Promise<void> {
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
  const tables = emptyTables();
  for (let address = 0; address < 10; address += 1) tables.holding.set(address, address);
  await using modbus = await openModbusTcp(tables);
  const programs = join(folder, "exec");
  await mkdir(programs, { mode: 0o755 });
  await copyFile("examples/exec/uptime.sh", join(programs, "uptime.sh"));
  await chmod(join(programs, "uptime.sh"), 0o755);
  await writeFile(join(folder, "kitchen.csv"), "t (Cel)\n20\n21\n22\n");

  const site = await setUpSite({ folder, children, boardPath: board, brokerUrl });
  const [head = ""] = (await readFile(site.config, "utf8")).split("[[driver]]");
  const kinds: Readonly<Record<string, string>> = {
    "no driver": "",
    simulated: 'type = "simulated"\nintervalMs = 200',
    replay: 'type = "simulated"\nshape = "replay"\nfile = "kitchen.csv"\nintervalMs = 200',
    host: 'type = "host"\nintervalMs = 1000',
    sysfs: 'type = "sysfs"\nintervalMs = 1000',
    exec: `type = "exec"\nfolder = "exec"\nprogram = "uptime.sh"`,
    serial: `type = "serial"\npath = "${board}"`,
    mqtt: `type = "mqtt"\nurl = "${brokerUrl}"\n[[driver.reading]]\ntopic = "#"\nname = "x"\npointer = "/value"`,
    modbus: `type = "modbus"\nhost = "127.0.0.1"\nport = ${String(modbus.keys["port"])}\n[[driver.reading]]\nname = "x"\naddress = 1`,
    "no driver, again": "",
  };
  let bare = 0;
  for (const [kind, keys] of Object.entries(kinds)) {
    await writeFile(site.config, `${head}${keys === "" ? "" : `[[driver]]\nid = "x"\n${keys}\n`}`);
    children.start("agent", { program: "atedge.js", args: ["run", "--config", site.config] });
    await sleep(SECONDS * 1000);
    const mb = await residentMb(children.pid("agent") ?? 0);
    if (mb === undefined) throw new Error(`the agent with ${kind} has ended`);
    if (kind === "no driver") bare = mb;
    const over = keys === "" ? "" : `, ${(mb - bare).toFixed(1).padStart(5)} MB over the agent without a driver`;
    process.stdout.write(`${kind.padEnd(17)} ${mb.toFixed(1)} MB RSS${over}\n`);
    await children.end("agent", "SIGTERM");
    const log = await readFile(join(folder, "agent.log"), "utf8");
    if (keys !== "" && !log.includes('driver running"'))
      throw new Error(`${kind} was never open:\n${log.slice(-2000)}`);
    await rm(join(folder, "agent.log"));
  }
}
