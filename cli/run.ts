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
      await runAgent({ configFile: config, version: VERSION }, interruption());
    });
}
