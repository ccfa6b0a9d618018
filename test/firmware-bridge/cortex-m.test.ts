import { execFile, spawn } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { promisify } from "node:util";
import t from "tap";
import * as v from "valibot";
import { systemClock } from "../../core/clock.js";
import { openPort } from "../../drivers/serial/open-port.js";
import { linkSchema } from "../../firmware-bridge/link/config.js";
import { openLinkDriver } from "../../firmware-bridge/link/link-driver.js";
import { saveLinkRecord } from "../../firmware-bridge/link/link-record.js";
import { pairBoard } from "../../firmware-bridge/link/pair-board.js";
import { buildFirmware } from "./board-process.js";
import { Host, never, until, whileRunning } from "./link-rig.js";
import { byteFaults, frameFaults, seeded } from "./wire-faults.js";

const MESSAGES = Number(process.env["ATEDGE_CORTEX_MESSAGES"] ?? 10_000);

/** The bare-metal example in QEMU: its UART is a pty, its flash a folder. */
async function startBoard(folder: string, target: "cortex-m" | "cortex-m-sodium" = "cortex-m") {
  const kernel = await buildFirmware(target, `${target}.elf`);
  const child = spawn(
    "qemu-system-arm",
    [
      "-M",
      "lm3s6965evb",
      "-kernel",
      kernel,
      "-display",
      "none",
      "-monitor",
      "none",
      "-serial",
      "pty",
      "-semihosting-config",
      "enable=on,target=native",
    ],
    { cwd: folder, stdio: ["ignore", "pipe", "pipe"] },
  );
  const lines: string[] = [];
  for (const input of [child.stdout, child.stderr]) createInterface({ input }).on("line", (line) => lines.push(line));
  const closed = new Promise((resolve) => child.on("close", resolve));
  const path = (): string | undefined => lines.map((line) => /redirected to (\S+)/u.exec(line)?.[1]).find(Boolean);
  await until(() => path() !== undefined && lines.includes("boot"), "QEMU to boot");
  return {
    path: path() ?? "",
    lines,
    async [Symbol.asyncDispose]() {
      child.kill("SIGKILL");
      await closed;
    },
  };
}

const configOf = (path: string) =>
  v.parse(linkSchema, {
    id: "board",
    type: "link",
    path,
    baud: 115_200,
    commandTimeoutMs: 20_000,
    openTimeoutMs: 30_000,
    keepAliveMs: 3000,
  });

async function pairByKey(
  { path, lines }: { readonly path: string; readonly lines: readonly string[] },
  host: Host,
  provisioningKey: Uint8Array,
): Promise<void> {
  await using port = await openPort(path, { baudRate: 115_200 }, never);
  const confirm = async (): Promise<boolean> => false;
  const record = await pairBoard({ port, clock: systemClock, provisioningKey, confirm, timeoutMs: 30_000 }, never);
  await saveLinkRecord(host.folder, record);
  await until(() => lines.includes("paired"), "the board");
}

t.test(
  "The small cryptography for microcontrollers gives the same bytes as libsodium, and opens nothing forged",
  async (t) => {
    const compare = await buildFirmware("compare", "crypto-compare");
    const { stdout } = await promisify(execFile)(compare, ["600"]);
    t.equal(stdout, "600 rounds are equal\n");
  },
);

t.test("A bare Cortex-M3 board with libsodium compiled from its source", async (t) => {
  const folder = await mkdtemp(join(tmpdir(), "atedge-cortex-"));
  t.teardown(() => rm(folder, { recursive: true, force: true }));
  const key = randomBytes(32);
  await writeFile(join(folder, "provision.key"), key);
  await using host = await Host.create();
  await using board = await startBoard(folder, "cortex-m-sodium");
  await pairByKey(board, host, key);
  const driver = await openLinkDriver(configOf(board.path), host.deps(), never);
  await whileRunning(driver, async () => {
    t.strictSame(await driver.call("double", { value: 10.5 }, never), 21);
    await driver.call("burst", { count: 500 }, never);
    await until(() => host.values("number").length >= 500, "all messages", 30_000);
  });
  t.ok(
    host.values("number").every((value, index) => value === index + 1),
    "each once, in order",
  );
});

t.test("A bare Cortex-M3 board", async (t) => {
  const folder = await mkdtemp(join(tmpdir(), "atedge-cortex-"));
  t.teardown(() => rm(folder, { recursive: true, force: true }));
  const key = randomBytes(32);
  await writeFile(join(folder, "provision.key"), key);
  await using host = await Host.create();
  await t.test("pairs by its provisioning key, takes commands, and delivers in order over a bad wire", async (t) => {
    await using board = await startBoard(folder);
    await pairByKey(board, host, key);
    const random = seeded(3);
    const [down, up] = [frameFaults(0.01, random), frameFaults(0.01, random)];
    const driver = await openLinkDriver(
      configOf(board.path),
      host.deps({ toBoard: down.pass, toHost: up.pass }),
      never,
    );
    await whileRunning(driver, async () => {
      t.strictSame(await driver.call("relay", { on: true }, never), { on: true });
      t.strictSame(await driver.call("double", { value: 10.5 }, never), 21);
      const text = createHash("sha512").update("text").digest("hex").repeat(5);
      t.strictSame(await driver.call("echo", { text }, never), [Buffer.from(text).toString("base64")]);
      const since = performance.now();
      await driver.call("burst", { count: MESSAGES }, never);
      await until(() => host.values("number").length >= MESSAGES, "all messages", 100_000);
      t.comment(`${MESSAGES} messages in ${Math.round(performance.now() - since)} ms`);
    });
    const numbers = host.values("number");
    t.ok(
      numbers.every((value, index) => value === index + 1),
      "each once, in order",
    );
    const times = host.readings.map(({ timeMs = 0 }) => timeMs);
    t.ok(
      times.every((time) => Math.abs(time - Date.now()) < 120_000),
      "dated by a board whose clock runs",
    );
    t.ok(
      up.counts.frames > MESSAGES && up.counts.dropped + up.counts.damaged + up.counts.merged > 0,
      "the wire was bad",
    );
  });

  await t.test("delivers in order over a wire that changes or loses 0.1 % of bytes", async (t) => {
    await using board = await startBoard(folder);
    const random = seeded(4);
    const wire = { toBoard: byteFaults(0.001, random), toHost: byteFaults(0.001, random) };
    const before = host.values("number").length;
    const driver = await openLinkDriver(configOf(board.path), host.deps(wire), never);
    await whileRunning(driver, async () => {
      await driver.call("burst", { count: MESSAGES }, never);
      await until(() => host.values("number").length >= before + MESSAGES, "all messages", 100_000);
      t.strictSame(await driver.call("double", { value: 4.5 }, never), 9);
      t.ok((driver.counters?.()["refusedFrames"] ?? 0) > 100, "the wire was bad");
    });
    const numbers = host.values("number").slice(before);
    t.ok(numbers.length >= MESSAGES, `${numbers.length} messages`);
    t.ok(
      numbers.every((value, index) => value === index + 1),
      "each once, in order",
    );
  });

  await t.test("that lost its power goes on from its stored keys", async (t) => {
    await using board = await startBoard(folder);
    const driver = await openLinkDriver(configOf(board.path), host.deps(), never);
    await whileRunning(driver, async () => {
      t.strictSame(await driver.call("relay", { on: false }, never), { on: false });
    });
    t.equal(host.sessions.at(-1), "resume");
    t.notOk(board.lines.includes("paired"));
  });
});
