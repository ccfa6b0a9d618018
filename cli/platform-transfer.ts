import { InvalidArgumentError, type Command } from "commander";

interface ImportOptions {
  readonly host?: string;
  readonly port?: number;
}

interface StateOptions {
  readonly state: string;
  readonly json?: boolean;
}

/** `atedge platform export`, `import` and `point`. */
export function registerTransfer(platform: Command, stateOf: (command: Command) => StateOptions): void {
  platform
    .command("export <atsign> <file>")
    .description("copy everything of an atSign into one file, also while the platform runs: backup, or move")
    .option("--move", "host it here no longer; stopped first, so that the file lacks nothing that was answered")
    .action(async (atSign: string, file: string, { move }: { readonly move?: boolean }, command: Command) => {
      const { exportAtSign } = await import("./move-at-sign.js");
      await exportAtSign(atSign, file, { ...stateOf(command), ...(move !== undefined && { move }) });
    });

  platform
    .command("import <file>")
    .description("host the atSign of an exported file, also while the platform runs")
    .option("--host <name>", "another host name than the platform's")
    .option("--port <port>", "this port and no other", parsePort)
    .action(async (file: string, options: ImportOptions, command: Command) => {
      const { importAtSign } = await import("./move-at-sign.js");
      await importAtSign(file, { ...options, ...stateOf(command) });
    });

  platform
    .command("point <atsign> <host:port>")
    .description("have the directory send clients of an atSign to where it is hosted now")
    .action(async (atSign: string, address: string, _: unknown, command: Command) => {
      const { pointAtSign } = await import("./move-at-sign.js");
      pointAtSign(atSign, address, stateOf(command));
    });
}

function parsePort(text: string): number {
  const port = Number(text);
  if (!/^\d{1,5}$/u.test(text) || port > 65_535) throw new InvalidArgumentError("expected a port from 0 to 65535");
  return port;
}
