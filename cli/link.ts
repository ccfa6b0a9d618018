import type { Command } from "commander";
import type { LinkConfig } from "../firmware-bridge/link/config.js";

interface LinkOptions {
  readonly config: string;
  readonly json?: boolean;
}

interface PairOptions extends LinkOptions {
  readonly key?: string;
  readonly digits?: string;
  /** Milliseconds. */
  readonly timeout: number;
}

const NOTE = `
The board's port must be free: stop the agent first (systemctl stop atedge).`;

/** `atedge link`: a microcontroller that speaks the sealed link, at the bench. */
export function register(program: Command): void {
  const link = program.command("link").description("pair with a microcontroller, look at it, talk to it");
  const command = (name: string, description: string): Command =>
    link
      .command(`${name} <driver>`)
      .description(description)
      .option("--config <file>", "the agent's configuration, where the driver is", "/etc/atedge/atedge.toml")
      .addHelpText("after", NOTE);

  command("pair", "make the board and this device know each other's key; once")
    .option("--key <file>", "the board's provisioning key, 64 hexadecimal digits; then nobody is asked")
    .option("--digits <digits>", "what the board shows, instead of being asked")
    .option("--timeout <seconds>", "how long to wait for the board", (text) => Number(text) * 1000, 60_000)
    .option("--json", "print a JSON object")
    .action(pair);
  command("status", "tell what the board is, and how the line is")
    .option("--json", "print a JSON object")
    .action(status);
  command("log", "print what the board says and its readings, until Ctrl-C")
    .option("--json", "print JSON, one object a line")
    .action(log);
  command("console", 'send commands, a line each: NAME {"json":"args"}')
    .option("--json", "print JSON, one object a line")
    .action(openConsole);
}

async function pair(id: string, options: PairOptions): Promise<void> {
  const { openPort } = await import("../drivers/serial/open-port.js");
  const { pairBoard } = await import("../firmware-bridge/link/pair-board.js");
  const { saveLinkRecord, fingerprintOf } = await import("../firmware-bridge/link/link-record.js");
  const { systemClock } = await import("../core/clock.js");
  const { interruption } = await import("./remote-options.js");
  const { config, folder } = await driverOf(id, options.config);
  const signal = interruption();
  const provisioningKey = options.key === undefined ? undefined : await readKey(options.key);
  await using port = await openPort(config.path, { baudRate: config.baud }, signal);
  process.stderr.write("Open the board for pairing now (its button, or a fresh board).\n");
  const confirm = (ours: string): Promise<boolean> => sameDigits(ours, options.digits, signal);
  const record = await pairBoard(
    { port, clock: systemClock, provisioningKey, confirm, timeoutMs: options.timeout },
    signal,
  );
  await saveLinkRecord(folder, record);
  const key = fingerprintOf(record.boardKey);
  print(options.json, { driver: id, paired: true, key }, `paired with ${id}, key ${key}`);
}

async function sameDigits(ours: string, theirs: string | undefined, signal: AbortSignal): Promise<boolean> {
  if (theirs !== undefined) return theirs.replaceAll(" ", "") === ours;
  const { createInterface } = await import("node:readline/promises");
  const lines = createInterface({ input: process.stdin, output: process.stderr });
  try {
    const answer = await lines.question(`The board must show ${ours.slice(0, 3)} ${ours.slice(3)}. Does it? [y/N] `, {
      signal,
    });
    process.stderr.write("Say the same on the board.\n");
    return /^y(?:es)?$/iu.test(answer.trim());
  } finally {
    lines.close();
  }
}

async function readKey(path: string): Promise<Uint8Array> {
  const { readFile } = await import("node:fs/promises");
  const { ArgumentInvalid } = await import("../firmware-bridge/link/link-errors.js");
  const text = (await readFile(path, "utf8")).trim();
  if (!/^[0-9a-fA-F]{64}$/u.test(text)) throw new ArgumentInvalid(`${path}: expected 64 hexadecimal digits`);
  return Buffer.from(text, "hex");
}

async function status(id: string, options: LinkOptions): Promise<void> {
  await using bench = await openBench(id, options.config);
  const { version, hardware, resetReason, uptimeMs, commands } = bench.board.info;
  const { KNOCK_REASONS } = await import("../firmware-bridge/link/frames.js");
  const reset = KNOCK_REASONS[resetReason] ?? String(resetReason);
  const names = commands.map(({ name }) => name);
  const text = [
    `${id}: ${hardware}, version ${version}, up ${Math.round(uptimeMs / 1000)} s since ${reset}`,
    bench.key === undefined ? "in clear" : `sealed, key ${bench.key}`,
    `commands: ${names.join(", ") || "none"}`,
    `line: ${Object.entries(bench.board.counters)
      .map(([name, count]) => `${name} ${count}`)
      .join(", ")}`,
  ].join("\n");
  print(
    options.json,
    { driver: id, hardware, version, uptimeMs, reset, key: bench.key, commands: names, line: bench.board.counters },
    text,
  );
}

async function log(id: string, options: LinkOptions): Promise<void> {
  await using bench = await openBench(id, options.config, (fields, text) => print(options.json, fields, text));
  await bench.board.run(bench.signal);
}

async function openConsole(id: string, options: LinkOptions): Promise<void> {
  await using bench = await openBench(id, options.config, (fields, text) => print(options.json, fields, text));
  const { createInterface } = await import("node:readline");
  const { codeOf } = await import("../core/errors.js");
  const lines = createInterface({ input: process.stdin });
  bench.signal.addEventListener("abort", () => lines.close(), { once: true });
  for await (const line of lines) {
    const [, name, args = "{}"] = /^\s*(\S+)\s*(\{.*\})?\s*$/u.exec(line) ?? [];
    if (name === undefined) continue;
    try {
      const result = await bench.board.call(
        name,
        JSON.parse(args) as Record<string, unknown>,
        bench.config.commandTimeoutMs,
        bench.signal,
      );
      print(options.json, { command: name, result }, JSON.stringify(result));
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      print(options.json, { command: name, error: codeOf(error) ?? "SYNTAX_INVALID", message }, `! ${message}`);
    }
  }
}

/** The board of a driver, opened without the agent. What it says and its readings go to `tell`. */
async function openBench(
  id: string,
  configFile: string,
  tell: (fields: object, text: string) => void = () => undefined,
) {
  const { openPort } = await import("../drivers/serial/open-port.js");
  const { openBoard } = await import("../firmware-bridge/link/board.js");
  const { fingerprintOf, loadLinkRecord, saveLinkRecord } = await import("../firmware-bridge/link/link-record.js");
  const { LinkRefused } = await import("../firmware-bridge/link/link-errors.js");
  const { systemClock } = await import("../core/clock.js");
  const { silentLog } = await import("../core/log.js");
  const { interruption } = await import("./remote-options.js");
  const { config, folder } = await driverOf(id, configFile);
  const signal = interruption();
  const record = config.security === "sealed" ? await loadLinkRecord(folder) : undefined;
  if (config.security === "sealed" && !record)
    throw new LinkRefused("LINK_NOT_PAIRED", `${id} is not paired; run \`atedge link pair ${id}\``);
  const say = (fields: Readonly<Record<string, unknown>>, message: string): void => {
    if (message === "the board says") tell({ log: fields["text"] }, `# ${String(fields["text"])}`);
    else if (message === "the board restarted")
      tell({ restart: fields["reset"] }, `# restarted: ${String(fields["reset"])}`);
  };
  const board = await openBoard(
    {
      port: await openPort(config.path, { baudRate: config.baud }, signal),
      baud: config.baud,
      keepAliveMs: config.keepAliveMs,
      openTimeoutMs: config.openTimeoutMs,
      record,
      save: (next) => saveLinkRecord(folder, next),
      publish: async (readings) => {
        for (const { name, value, unit } of readings)
          tell({ name, value, unit }, `${name} = ${value}${unit ? ` ${unit}` : ""}`);
      },
      clock: systemClock,
      log: { ...silentLog, debug: say, info: say, warn: say, error: say },
    },
    signal,
  );
  const key = record && fingerprintOf(record.boardKey);
  return { board, config, key, signal, [Symbol.asyncDispose]: () => board[Symbol.asyncDispose]() };
}

/** The driver's table in the agent's configuration, and the folder of its state. */
async function driverOf(
  id: string,
  configFile: string,
): Promise<{ readonly config: LinkConfig; readonly folder: string }> {
  const { mkdir, readFile } = await import("node:fs/promises");
  const path = await import("node:path");
  const { parse } = await import("smol-toml");
  const { linkConfigOf } = await import("../firmware-bridge/link/config.js");
  const { config, stateDir } = linkConfigOf(parse(await readFile(configFile, "utf8")), id);
  const folder = path.join(path.resolve(path.dirname(configFile), stateDir), "drivers", id);
  await mkdir(folder, { recursive: true, mode: 0o700 });
  return { config, folder };
}

function print(json: boolean | undefined, fields: object, text: string): void {
  process.stdout.write(`${json ? JSON.stringify(fields) : text}\n`);
}
