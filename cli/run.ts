import type { Command } from "commander";

interface Options {
  readonly config: string;
}

export function register(program: Command): void {
  program
    .command("run")
    .description("run the agent of this device, until SIGTERM or Ctrl-C")
    .option("--config <file>", "its configuration", "/etc/atedge/atedge.toml")
    .action(async ({ config }: Options) => {
      const { runAgent } = await import("../agent/main.js");
      const { interruption } = await import("./remote-options.js");
      const { VERSION } = await import("./version.js");
      const stop = interruption();
      stop.addEventListener("abort", endInTime, { once: true });
      await runAgent({ configFile: config, version: VERSION }, stop);
    });
}

const END_WITHIN_MS = 4500;

/** What was accepted is on the disk at every moment, so a part that does not end need not be waited for. */
function endInTime(): void {
  const end = (): never => {
    process.stderr.write("atedge: a part of the agent did not end in time, it is left behind\n");
    process.exit(0);
  };
  setTimeout(end, END_WITHIN_MS).unref();
}
