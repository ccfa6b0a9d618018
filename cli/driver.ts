import type { Command } from "commander";
import type { TryEvent } from "../agent/try-driver.js";

interface TestOptions {
  readonly seconds?: string;
  readonly command?: string;
  readonly args: string;
  readonly json?: boolean;
}

interface DiscoverOptions {
  readonly host: readonly string[];
  readonly json?: boolean;
}

export function register(program: Command): void {
  const driver = program.commands.find((command) => command.name() === "driver") ?? program.command("driver");
  driver.description("try a driver out, find devices, switch drivers of a running agent");

  driver
    .command("test")
    .description("run one driver of a configuration alone and print what it gives, until Ctrl-C")
    .argument("<config>", "the configuration, such as /etc/atedge/atedge.toml")
    .argument("<id>", "the driver's id")
    .option("--seconds <n>", "end after so long")
    .option("--command <name>", "call this command once the driver is open, print the answer and end")
    .option("--args <json>", "its arguments", "{}")
    .option("--json", "print a JSON object a line")
    .action(test);

  driver
    .command("discover")
    .description("list serial ports and MQTT brokers, as configuration to paste")
    .option("--host <host...>", "where to look for brokers, HOST or HOST:PORT", ["localhost"])
    .option("--json", "print a JSON object")
    .action(find);
}

async function test(config: string, id: string, options: TestOptions): Promise<void> {
  const { tryDriver } = await import("../agent/try-driver.js");
  const { interruption } = await import("./remote-options.js");
  const seconds = options.seconds === undefined ? undefined : await parseSeconds(options.seconds);
  const command =
    options.command === undefined ? undefined : { name: options.command, args: await parseArgs(options.args) };
  const tell = (event: TryEvent): void => print(options.json ? JSON.stringify(event) : textOf(id, event));
  const succeeded = await tryDriver({ configFile: config, id, seconds, command, tell }, interruption());
  if (!succeeded) process.exitCode = 1;
}

async function find({ host, json }: DiscoverOptions): Promise<void> {
  const { discover } = await import("../drivers/discover/discover.js");
  const { discoveredToml } = await import("../drivers/discover/discovered-toml.js");
  const { interruption } = await import("./remote-options.js");
  const found = await discover(host, interruption());
  if (json) return print(JSON.stringify(found));
  const { ports, brokers } = found;
  const count = (n: number, what: string): string => `${n === 0 ? "no" : n} ${what}${n === 1 ? "" : "s"}`;
  print(`# ${count(ports.length, "serial port")}, ${count(brokers.length, "MQTT broker")} on ${host.join(", ")}`);
  print(`\n${discoveredToml(found)}`.trimEnd());
}

function textOf(id: string, event: TryEvent): string {
  switch (event.event) {
    case "note":
      return `# ${event.text}`;
    case "state":
      return `${id}: ${event.state}${event.reason === undefined ? "" : ` (${event.code ?? ""}): ${event.reason}`}`;
    case "declared": {
      const readings = event.readings?.map(
        ({ name, unit, type }) => `${name}${unit ? ` ${unit}` : ""}${type ? ` (${type})` : ""}`,
      );
      const commands = event.commands.map(({ name, argsSchema, idempotent }) => {
        const properties = argsSchema?.["properties"];
        return `${name} ${JSON.stringify(properties ?? {})}${idempotent ? ", idempotent" : ""}`;
      });
      return [
        `  readings: ${readings ? readings.join(", ") || "none" : "whatever the device says"}`,
        ...(commands.length === 0 ? ["  commands: none"] : commands.map((text) => `  command ${text}`)),
      ].join("\n");
    }
    case "reading": {
      const time = new Date(event.timeMs).toISOString().slice(11, 23);
      return `${time} ${event.name} = ${JSON.stringify(event.value)}${event.unit ? ` ${event.unit}` : ""}`;
    }
    case "answer":
      return `${event.command}: ${JSON.stringify(event.result)}`;
    case "failed":
      return `${event.command} failed (${event.code}): ${event.message}`;
    case "log": {
      return `# ${event.message} ${JSON.stringify({ ...event, event: undefined, message: undefined })}`;
    }
    case "end":
      return `# ${Object.entries(event.counters)
        .map(([name, count]) => `${name} ${count}`)
        .join(", ")}`;
  }
}

async function parseSeconds(text: string): Promise<number> {
  const { ArgumentInvalid } = await import("./next-step.js");
  const seconds = Number(text);
  if (!(seconds > 0 && seconds <= 86_400)) throw new ArgumentInvalid("--seconds: expected a number up to 86400");
  return seconds;
}

async function parseArgs(text: string): Promise<Record<string, unknown>> {
  const { ArgumentInvalid } = await import("./next-step.js");
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    value = undefined;
  }
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  throw new ArgumentInvalid('--args: expected a JSON object such as {"on":true}');
}

function print(text: string): void {
  process.stdout.write(`${text}\n`);
}
