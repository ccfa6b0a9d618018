import { execFile } from "node:child_process";
import { readFile, writeFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { promisify } from "node:util";
import t from "tap";
import { systemClock } from "../../core/clock.js";
import { codeOf } from "../../core/errors.js";
import { silentLog } from "../../core/log.js";
import { DriverSupervisor } from "../../drivers/supervisor.js";
import { driverContract } from "../contracts/driver.js";
import { bridgeOpener } from "../../firmware-bridge/registry.js";
import { openLinkDriver } from "../../firmware-bridge/link/link-driver.js";
import { loadLinkRecord, saveLinkRecord } from "../../firmware-bridge/link/link-record.js";
import { BoardProcess } from "./board-process.js";
import { Host, linkConfig, never, until, whileRunning } from "./link-rig.js";
import { byteFaults, frameFaults, seeded } from "./wire-faults.js";

const SEED = Number(process.env["ATEDGE_SEED"] ?? 20261124);

/** A board that is paired with its host already. */
async function pairedBoard(args: readonly string[] = ["-r", "0"], sanitized = true) {
  const board = await BoardProcess.start({ args, sanitized });
  const host = await Host.create();
  await host.pair(board);
  return {
    board,
    host,
    async [Symbol.asyncDispose]() {
      await board[Symbol.asyncDispose]();
      await host[Symbol.asyncDispose]();
    },
  };
}

void driverContract(t, "link", async () => {
  const { board, host, ...rest } = await pairedBoard();
  const record = await loadLinkRecord(host.folder);
  return {
    ...rest,
    async open(deps, signal) {
      if (record) await saveLinkRecord(await deps.stateDir(), record);
      return openLinkDriver(linkConfig(board), deps, signal);
    },
    stimulate: async () => board.tell("burst 1"),
    removeDevice: () => board.kill(),
    command: { name: "relay", args: { on: true }, result: { on: true } },
    silentCommand: { name: "mute", args: {} },
  };
});

t.test("A board of the C library, under the sanitizers", async (t) => {
  t.test("pairs by digits, and then does what a driver's device does", async (t) => {
    await using rig = await pairedBoard(["-r", "20"]);
    const { board, host } = rig;
    const before = Date.now();
    await whileRunning(await host.open(board), async () => {
      const driver = await host.open(board).catch(codeOf);
      t.equal(driver, "PORT_UNUSABLE", "the port is ours alone");
      await until(() => host.values("number").length >= 5, "readings");
    });
    t.equal((await readFile(join(host.folder, "link.json"))).length > 0, true);
    t.strictSame(host.values("number").slice(0, 5), [1, 2, 3, 4, 5]);
    t.strictSame(host.readings[0]?.unit, "Cel");
    for (const { timeMs = 0 } of host.readings) t.ok(timeMs >= before - 100 && timeMs <= Date.now() + 100, "dated");
    t.equal(await board.end(), 0, board.errors);
  });

  t.test("answers commands, numbers without floating point on its side, and refuses what is wrong", async (t) => {
    await using rig = await pairedBoard();
    const { board, host } = rig;
    const driver = await host.open(board);
    await whileRunning(driver, async () => {
      t.strictSame(await driver.call("relay", { on: true }, never), { on: true });
      t.strictSame(await driver.call("double", { value: -21.25 }, never), -42.5);
      t.strictSame(await driver.call("double", { value: 1.5e4 }, never), 30000);
      const long = "x".repeat(1000); // more than a frame: fragments both ways
      t.strictSame(await driver.call("echo", { text: long }, never), [Buffer.from(long).toString("base64")]);
      t.strictSame(await driver.call("self-test", {}, never), "passed");
      await t.rejects(driver.call("relay", { on: 1 }, never), {
        code: "COMMAND_REFUSED",
        message: "on: expected true or false",
      });
      await t.rejects(driver.call("relay", {}, never), { code: "COMMAND_REFUSED" });
      await t.rejects(driver.call("echo", { text: "x".repeat(4090) }, never), { code: "COMMAND_REFUSED" });
    });
    t.strictSame(driver.commands[0]?.idempotent, true);
    t.match(driver.commands[0]?.argsSchema, { required: ["on"] });
    t.equal(await board.end(), 0, board.errors);
  });

  t.test("leaves a command without answer as of unknown outcome, after its time and after a restart", async (t) => {
    await using rig = await pairedBoard();
    const { board, host } = rig;
    const driver = await host.open(board, { commandTimeoutMs: 200 });
    await whileRunning(driver, async () => {
      await t.rejects(driver.call("mute", {}, never), { code: "UNKNOWN_OUTCOME", message: /within 200 ms/u });
    });
    const patient = await host.open(board);
    await whileRunning(patient, async () => {
      const outcome = patient.call("mute", {}, never).catch(codeOf);
      await board.said(/^command mute$/u, board.lines.length);
      board.tell("reset 2");
      t.equal(await outcome, "UNKNOWN_OUTCOME");
    });
    t.equal(await board.end(), 0, board.errors);
  });

  t.test("is noticed at once when it restarts, with the reason, and goes on under new keys", async (t) => {
    await using rig = await pairedBoard();
    const { board, host } = rig;
    const driver = await host.open(board);
    await whileRunning(driver, async () => {
      board.tell("burst 20");
      await until(() => host.values("number").length === 20, "20 readings");
      const since = performance.now();
      board.tell("reset 2");
      await until(() => host.values("restart").length === 1, "the restart");
      t.ok(performance.now() - since < 1500, `noticed within ${Math.round(performance.now() - since)} ms`);
      board.tell("burst 5");
      await until(() => host.values("number").length === 25, "5 more readings");
      t.strictSame(await driver.call("relay", { on: true }, never), { on: true });
    });
    t.strictSame(host.values("restart"), ["watchdog"]);
    t.strictSame(host.sessions, ["renew", "resume"]);
    t.equal(await board.end(), 0, board.errors);
  });

  t.test("meets a host that restarted, in three frames and without key agreement", async (t) => {
    await using rig = await pairedBoard();
    const { board, host } = rig;
    await (await host.open(board))[Symbol.asyncDispose]();
    const types: number[] = [];
    const note = (bytes: Uint8Array): Uint8Array => {
      // Without COBS: no frame here has a zero byte among its first two.
      for (const frame of Buffer.from(bytes).toString("latin1").split("\0")) if (frame) types.push(frame.charCodeAt(1));
      return bytes;
    };
    await (await host.open(board, {}, { toBoard: note, toHost: note }))[Symbol.asyncDispose]();
    t.strictSame(types.filter((type) => type !== 0x10).slice(0, 3), [0x20, 0x30, 0x50]);
    t.notOk(types.includes(0x21), "no RENEW");
    t.strictSame(host.sessions, ["renew", "resume"]);
  });

  t.test("is found again when one side's store is older than the other's", async (t) => {
    await using rig = await pairedBoard();
    const { board, host } = rig;
    const reopen = async () => (await host.open(board))[Symbol.asyncDispose]();
    await reopen();
    const hostBefore = await loadLinkRecord(host.folder);
    const boardBefore = await readFile(join(board.folder, "store.bin"));
    for (let times = 0; times < 3; times += 1) await reopen();
    if (hostBefore) await saveLinkRecord(host.folder, hostBefore);
    await reopen();
    t.strictSame(host.sessions.slice(1), ["resume", "resume", "resume", "resume"], "a host from a backup catches up");
    await board.kill();
    await writeFile(join(board.folder, "store.bin"), boardBefore);
    await using older = await BoardProcess.start({ args: ["-r", "0"], folder: board.folder });
    await (await host.open(older))[Symbol.asyncDispose]();
    t.equal(host.sessions.at(-1), "resume", "so does a board with an old store");
    // Too far for a small board: the host renews.
    const record = await loadLinkRecord(host.folder);
    if (record?.root) await saveLinkRecord(host.folder, { ...record, root: { ...record.root, index: 900 } });
    await (await host.open(older))[Symbol.asyncDispose]();
    t.strictSame(host.sessions.at(-1), "renew");
    t.equal(await older.end(), 0, older.errors);
  });

  t.test("stops sending while the outbox is slow, and loses nothing", async (t) => {
    await using rig = await pairedBoard();
    const { board, host } = rig;
    const held: (() => void)[] = [];
    host.publish = () => new Promise((resolve) => held.push(resolve));
    const driver = await host.open(board);
    await whileRunning(driver, async () => {
      board.tell("burst 2000");
      await until(() => held.length >= 16, "publishes that wait");
      let sent = -1;
      for (let now = 0; now !== sent; now = (await board.counters())["sent"] ?? 0) {
        sent = now;
        await new Promise((resolve) => setTimeout(resolve, 150));
      }
      t.ok(sent < 80, `the board stopped after ${sent} messages`);
      t.equal((await board.counters())["accepted"], 0, "no receipt before the outbox has it");
      host.publish = async () => undefined;
      for (const release of held.splice(0)) release();
      await until(() => host.values("number").length === 2000, "all readings");
      await until(() => host.logged.length > 0, "anything");
    });
    t.strictSame(
      host.values("number"),
      Array.from({ length: 2000 }, (_, index) => index + 1),
    );
    t.equal(await board.end(), 0, board.errors);
  });

  t.test("never has more than 256 bytes on their way to it when that is what it holds", async (t) => {
    await using rig = await pairedBoard(["-r", "0", "-f", "94", "-w", "2"]);
    const { board, host } = rig;
    // Between two looks of a slow board, 15 ms apart, its receive buffer fills.
    let buffer: Uint8Array[] = [];
    let most = 0;
    const wire = {
      toBoard: (bytes: Uint8Array) => {
        buffer.push(bytes);
        most = Math.max(most, Buffer.concat(buffer).length);
        return new Uint8Array();
      },
    };
    const driver = await openLinkDriver(
      linkConfig(board, { baud: 115_200 }),
      {
        ...host.deps(wire),
        openPort: async (path, options, signal) => {
          const { openPort } = await import("../../drivers/serial/open-port.js");
          const { portThrough } = await import("./link-rig.js");
          const port = await openPort(path, options, signal);
          const look = setInterval(() => {
            const bytes = Buffer.concat(buffer);
            buffer = [];
            if (bytes.length > 0) void port.write(bytes, signal).catch(() => undefined);
          }, 15);
          const through = portThrough(port, wire);
          return { ...through, [Symbol.asyncDispose]: () => (clearInterval(look), through[Symbol.asyncDispose]()) };
        },
      },
      never,
    );
    await whileRunning(driver, async () => {
      board.tell("burst 200");
      for (let times = 0; times < 5; times += 1) {
        await driver.call("echo", { text: "y".repeat(600) }, never);
      }
      await until(() => host.values("number").length === 200, "all readings");
    });
    t.ok(most > 150, `the buffer was in use: ${most} bytes`);
    t.ok(most <= 256, `${most} bytes at most`);
    t.equal(await board.end(), 0, board.errors);
  });

  t.test("opens a new session before its counter is used up, and loses nothing", async (t) => {
    await using rig = await pairedBoard();
    const { board, host } = rig;
    const driver = await host.open(board);
    await whileRunning(driver, async () => {
      board.tell("burst 300");
      await until(() => host.values("number").length >= 50, "some readings");
      board.tell(`counter ${2 ** 31}`);
      await until(() => host.values("number").length === 300, "all readings");
      await board.said(/^resumed$/u);
      board.tell(`counter ${2 ** 32 - 18}`);
      board.tell("burst 300");
      await until(() => host.values("number").length === 600, "all readings");
    });
    t.strictSame(
      host.values("number"),
      Array.from({ length: 600 }, (_, index) => index + 1),
    );
    t.strictSame(host.sessions.slice(0, 3), ["renew", "resume", "resume"]);
    t.strictSame(host.values("restart"), [], "nothing restarted");
    t.equal(await board.end(), 0, board.errors);
  });

  t.test("talks in clear only when both sides are told to", async (t) => {
    await using host = await Host.create();
    await using board = await BoardProcess.start({ args: ["-c", "-r", "0"] });
    await t.rejects(host.open(board), { code: "LINK_NOT_PAIRED" });
    const driver = await host.open(board, { security: "clear" });
    await whileRunning(driver, async () => {
      t.strictSame(await driver.call("relay", { on: true }, never), { on: true });
      board.tell("burst 50");
      await until(() => host.values("number").length === 50, "all readings");
      board.tell("reset 1");
      await until(() => host.values("restart").length === 1, "the restart");
      t.strictSame(await driver.call("relay", { on: false }, never), { on: false });
    });
    await host.pair(board);
    await t.rejects(host.open(board, { security: "clear" }), { code: "LINK_CLEAR_REFUSED" });
    await (await host.open(board))[Symbol.asyncDispose]();
    await using strict = await BoardProcess.start({ args: ["-r", "0"] });
    await t.rejects(host.open(strict, { security: "clear" }), { code: "LINK_CLEAR_REFUSED" });
    t.equal(await board.end(), 0, board.errors);
  });
});

t.test("Under the agent's supervisor a board that was unplugged comes back by itself", async (t) => {
  await using rig = await pairedBoard(["-r", "20"]);
  const { board, host } = rig;
  const { folder } = board;
  const config = linkConfig(board, { keepAliveMs: 300 });
  const supervisor = new DriverSupervisor({
    drivers: [{ id: basename(host.folder), type: "link", open: bridgeOpener(config) }],
    publish: async (_id, readings) => void host.readings.push(...readings),
    stateDir: dirname(host.folder),
    clock: systemClock,
    log: silentLog,
    limits: { firstWaitMs: 50, maxWaitMs: 200 },
  });
  const stop = new AbortController();
  const running = supervisor.run(stop.signal);
  const call = (on: boolean): Promise<unknown> => supervisor.call(basename(host.folder), "relay", { on }, stop.signal);
  await until(() => host.values("number").length > 3, "readings");
  t.strictSame(await call(true), { on: true });
  t.ok(supervisor.commands()[0]?.commands.some(({ name }) => name === "relay"));
  await board.kill();
  await until(() => supervisor.health()[0]?.state !== "running", "the end");
  await t.rejects(call(true), { code: /COMMAND_REFUSED|UNKNOWN_OUTCOME/u });
  const seen = host.values("number").length;
  await using again = await BoardProcess.start({ args: ["-r", "20"], folder });
  await until(() => host.values("number").length > seen + 3, "readings again");
  t.strictSame(await call(false), { on: false });
  t.match(supervisor.health()[0], { state: "running", counters: { sessions: 1 } });
  stop.abort();
  await running;
  t.equal(await again.end(), 0, again.errors);
});

t.test("A bad wire", async (t) => {
  const faults = {
    "1 % of frames damaged, dropped, doubled or merged": (random: () => number) => {
      const [down, up] = [frameFaults(0.01, random), frameFaults(0.01, random)];
      return { wire: { toBoard: down.pass, toHost: up.pass }, counts: [down.counts, up.counts] };
    },
    "0.1 % of bytes changed or lost": (random: () => number) => ({
      wire: { toBoard: byteFaults(0.001, random), toHost: byteFaults(0.001, random) },
      counts: [],
    }),
  };
  for (const [what, faulty] of Object.entries(faults)) {
    t.test(`with ${what} delivers 10,000 messages once and in order, and commands too`, async (t) => {
      await using rig = await pairedBoard();
      const { board, host } = rig;
      const { wire, counts } = faulty(seeded(SEED));
      const driver = await host.open(board, { commandTimeoutMs: 20_000 }, wire);
      await whileRunning(driver, async (running) => {
        board.tell("burst 10000");
        for (let times = 0; times < 100; times += 1) {
          t.strictSame(await driver.call("echo", { text: `n${times}` }, never), [
            Buffer.from(`n${times}`).toString("base64"),
          ]);
        }
        await until(() => host.values("number").length >= 10_000, "all readings", 60_000);
        t.strictSame(await driver.call("relay", { on: true }, never), { on: true });
        t.equal(await Promise.race([running, Promise.resolve("still running")]), "still running");
      });
      t.ok(
        host.values("number").every((value, index) => value === index + 1),
        "each once, in order",
      );
      t.equal(host.values("number").length, 10_000);
      t.strictSame(host.values("restart"), []);
      t.equal((await board.counters())["commands"], 101, "no command ran twice");
      for (const { damaged, dropped, doubled, merged } of counts)
        t.ok(damaged && dropped && doubled && merged, `seed ${SEED}`);
      t.equal(await board.end(), 0, board.errors);
    });
  }
});

t.test(
  "The library takes at most 8 kB of code and 1 kB of RAM on a Cortex-M3, cryptography and buffers apart",
  async (t) => {
    const firmware = join(process.cwd(), "firmware-bridge", "firmware");
    const build = join(process.cwd(), "node_modules", ".atedge", "firmware");
    const { stdout } = await promisify(execFile)("make", ["-s", "-C", firmware, `BUILD=${build}`, "size"]);
    const [, text, data, bss] = /^\s*(\d+)\s+(\d+)\s+(\d+).*\(TOTALS\)/mu.exec(stdout) ?? [];
    t.comment(`code ${text} bytes, RAM ${Number(data) + Number(bss)} bytes`);
    t.ok(Number(text) > 2000 && Number(text) <= 8192, `${text} bytes of code`);
    t.ok(Number(bss) > 200 && Number(data) + Number(bss) <= 1024, `${Number(data) + Number(bss)} bytes of RAM`);
  },
);
