import { InvalidArgumentError, type Command } from "commander";
import { registerTransfer } from "./platform-transfer.js";

interface StateOptions {
  readonly state: string;
  readonly json?: boolean;
}

interface RunOptions extends Partial<StateOptions> {
  readonly host?: string;
  readonly directoryPort?: number;
  readonly portRange?: { readonly first: number; readonly last: number };
  readonly config?: string;
  readonly verbose?: boolean;
}

interface AddOptions {
  readonly cramSecretFile?: string;
  readonly host?: string;
  readonly port?: number;
}

const DEFAULT_STATE = "/var/lib/atedge-platform";

export function register(program: Command): void {
  const platform = withState(program.command("platform"))
    .description("run an atPlatform of your own: an atDirectory and an atServer for each of its atSigns")
    .option("--host <name>", "what clients are told, and what the certificate is for (default: localhost)")
    .option("--directory-port <port>", "port of the atDirectory; 0: any free one (default: 6464)", parsePort)
    .option("--port-range <first-last>", "ports of the atServers (default: any free ones)", parsePortRange)
    .option("--config <file>", "TOML file with these and more settings; options given here win")
    .option("--verbose", "log every connection")
    .action(async (options: RunOptions) => {
      const { runPlatform } = await import("./run-platform.js");
      await runPlatform(options, DEFAULT_STATE);
    });

  platform
    .command("add <atsign>")
    .description("host one more atSign, also while the platform runs; its CRAM secret is shown once")
    .option(
      "--cram-secret-file <file>",
      "take the secret from this file, or write a new one there if it does not exist",
    )
    .option("--host <name>", "another host name than the platform's")
    .option("--port <port>", "this port and no other", parsePort)
    .action(async (atSign: string, options: AddOptions, command: Command) => {
      const { addAtSign } = await import("./manage-platform.js");
      await addAtSign(atSign, { ...options, ...stateOf(command) });
    });

  platform
    .command("remove <atsign>")
    .description("host an atSign no longer; its file is put aside, not deleted")
    .action(async (atSign: string, _: unknown, command: Command) => {
      const { removeAtSign } = await import("./manage-platform.js");
      await removeAtSign(atSign, stateOf(command));
    });

  platform
    .command("list")
    .description("print the atSigns that are hosted, and where")
    .action(async (_: unknown, command: Command) => {
      const { listAtSigns } = await import("./manage-platform.js");
      listAtSigns(stateOf(command));
    });

  registerTransfer(platform, stateOf);
  for (const subcommand of platform.commands) withState(subcommand);
}

function withState(command: Command): Command {
  return command
    .option("--state <folder>", `where everything is kept (default: ${DEFAULT_STATE})`)
    .option("--json", "print JSON");
}

/** Both options may stand before or after the subcommand. */
function stateOf(command: Command): StateOptions {
  const own = command.opts<Partial<StateOptions>>();
  const above = command.parent?.opts<Partial<StateOptions>>() ?? {};
  const json = own.json ?? above.json;
  return { state: own.state ?? above.state ?? DEFAULT_STATE, ...(json !== undefined && { json }) };
}

function parsePort(text: string): number {
  const port = Number(text);
  if (!/^\d{1,5}$/u.test(text) || port > 65_535) throw new InvalidArgumentError("expected a port from 0 to 65535");
  return port;
}

function parsePortRange(text: string): { first: number; last: number } {
  const [, first = "0", last = "0"] = /^(\d{1,5})-(\d{1,5})$/u.exec(text) ?? [];
  const range = { first: Number(first), last: Number(last) };
  if (range.first < 1 || range.last < range.first || range.last > 65_535) {
    throw new InvalidArgumentError("expected two ports, e.g. 6465-6564");
  }
  return range;
}
