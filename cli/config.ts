import type { Command } from "commander";

interface Options {
  readonly config: string;
  readonly json?: boolean;
}

export function register(program: Command): void {
  const config = program.command("config").description("check a configuration, or print one to start from");

  config
    .command("check")
    .description("tell every fault of a configuration file")
    .option("--config <file>", "the file", "/etc/atedge/atedge.toml")
    .option("--json", "print a JSON object")
    .action(async ({ config: file, json }: Options) => {
      const { loadConfig } = await import("../agent/config/load.js");
      const { ConfigInvalid, faultLine } = await import("../agent/config/parse.js");
      try {
        const { warnings } = await loadConfig(file);
        if (json) print(JSON.stringify({ file, faults: [], warnings }));
        else print([...warnings.map((warning) => `warning: ${faultLine(warning)}`), `${file} is good`].join("\n"));
      } catch (error) {
        if (!(error instanceof ConfigInvalid)) throw error;
        const { faults } = error;
        if (json) print(JSON.stringify({ file, faults, warnings: [] }));
        else
          print(
            `${faults.map(faultLine).join("\n")}\n${file}: ${faults.length} fault${faults.length === 1 ? "" : "s"}`,
          );
        process.exitCode = 1;
      }
    });

  config
    .command("example")
    .description("print a configuration file to start from")
    .action(async () => {
      const { exampleFile } = await import("../agent/config/reference.js");
      process.stdout.write(exampleFile());
    });
}

function print(text: string): void {
  process.stdout.write(`${text}\n`);
}
