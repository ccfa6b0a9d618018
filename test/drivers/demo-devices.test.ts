import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t, { type Test } from "tap";
import { parseAccount } from "../../demo/account.js";
import { openPort } from "../../drivers/serial/open-port.js";
import { openSerial } from "../../drivers/serial/serial-driver.js";
import { serialSchema } from "../../drivers/serial/config.js";
import * as v from "valibot";
import { eventually, recordingDeps } from "../contracts/driver.js";

/** A demo program as the demo starts it; its first line on standard output. */
async function start(
  t: Test,
  name: string,
  args: readonly string[],
): Promise<{ child: ChildProcess; first: Record<string, unknown> }> {
  const file = new URL(`../../demo/${name}.ts`, import.meta.url).pathname;
  const child = spawn(process.execPath, [...process.execArgv, file, ...args], { stdio: ["pipe", "pipe", "inherit"] });
  t.teardown(() => child.kill("SIGKILL"));
  const [chunk] = (await once(child.stdout, "data")) as [Buffer];
  return { child, first: JSON.parse(chunk.toString().split("\n")[0] ?? "") as Record<string, unknown> };
}

async function ended(child: ChildProcess): Promise<unknown> {
  if (child.exitCode !== null || child.signalCode !== null) return child.exitCode;
  const [code] = (await once(child, "exit")) as [unknown];
  return code;
}

void t.test("the simulated board", async (t) => {
  const dir = await mkdtemp(join(tmpdir(), "atedge-board-"));
  t.teardown(() => rm(dir, { recursive: true, force: true }));
  const account = join(dir, "account");

  await t.test("numbers its readings, keeps account of what is acknowledged and switches its relay", async (t) => {
    const board = await start(t, "board", ["--rate", "100", "--numbered", "--account", account]);
    await using deps = await recordingDeps();
    const stop = new AbortController();
    const config = v.parse(serialSchema, {
      id: "board",
      type: "serial",
      path: board.first["path"],
      ack: "ack {n}",
      reading: [
        { pointer: "/n", name: "n" },
        { pointer: "/relay", name: "relay" },
      ],
      command: [{ name: "relay", args: { on: { type: "boolean" } }, answerPointer: "/relay" }],
    });
    const driver = await openSerial(config, deps, stop.signal);
    const running = driver.run(stop.signal);
    await deps.until(40);
    t.equal(await driver.call("relay", { on: true }, stop.signal), true);
    await eventually(() => deps.readings.some(({ name, value }) => name === "relay" && value === true), "the relay");
    stop.abort();
    await running;
    await driver[Symbol.asyncDispose]();
    board.child.kill("SIGTERM");
    t.equal(await ended(board.child), 0);
    const { sent, acked } = parseAccount(await readFile(account, "utf8"));
    const got = new Set(deps.readings.filter(({ name }) => name === "n").map(({ value }) => value));
    t.ok(acked.size >= 10 && sent.size >= acked.size);
    t.strictSame(
      [...acked].filter((n) => !got.has(n)),
      [],
      "all that is acknowledged was published",
    );
  });

  await t.test("stays through opening and closing, never waits for a reader, and ends with its parent", async (t) => {
    const board = await start(t, "board", ["--rate", "1000"]);
    const path = String(board.first["path"]);
    const never = new AbortController().signal;
    for (let round = 0; round < 3; round += 1) {
      const port = await openPort(path, { baudRate: 115_200 }, never);
      for await (const chunk of port.read(never)) if (chunk.length > 0) break;
      await port[Symbol.asyncDispose]();
      await new Promise((resolve) => setTimeout(resolve, 200)); // Its line fills up meanwhile.
    }
    board.child.stdin?.end();
    t.equal(await ended(board.child), 0);
  });
});

void t.test("the MQTT sensor counts what the broker acknowledged, and its lamp answers with its state", async (t) => {
  const dir = await mkdtemp(join(tmpdir(), "atedge-sensor-"));
  t.teardown(() => rm(dir, { recursive: true, force: true }));
  const account = join(dir, "account");
  const broker = await start(t, "broker", []);
  const url = `mqtt://127.0.0.1:${String(broker.first["port"])}`;
  const sensor = await start(t, "mqtt-sensor", ["--url", url, "--rate", "100", "--numbered", "--account", account]);
  const { connectAsync } = await import("mqtt");
  const client = await connectAsync(url);
  const numbers = new Set<number>();
  const lamp: string[] = [];
  client.on("message", (topic, payload) => {
    if (topic.endsWith("/lamp")) lamp.push(payload.toString());
    else numbers.add((JSON.parse(payload.toString()) as { n: number }).n);
  });
  await client.subscribeAsync(["bench/1/illuminance", "bench/1/lamp"], { qos: 1 });
  await client.publishAsync("bench/1/lamp/set", "ON", { qos: 1 });
  await eventually(() => numbers.size >= 20 && lamp.includes('{"state":"ON"}'), "20 readings and the lamp");
  sensor.child.kill("SIGTERM");
  t.equal(await ended(sensor.child), 0);
  const { acked } = parseAccount(await readFile(account, "utf8"));
  const first = Math.min(...numbers);
  t.ok(acked.size >= 20);
  await eventually(() => [...acked].every((n) => n < first || numbers.has(n)), "all that is acknowledged");
  await client.endAsync(true);
  broker.child.kill("SIGTERM");
  t.equal(await ended(broker.child), 0);
});
