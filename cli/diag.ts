import type { Command } from "commander";

interface DiagOptions {
  readonly config: string;
  readonly out?: string;
  readonly offline?: boolean;
}

const HELP = `
Holds versions, the configuration, what the agent says of itself, what doctor found and the newest log lines. Keys,
passwords, passphrases and what looks like them are taken out; atSigns, names and addresses stay. Look at it before you
give it away: it is JSON text.

Examples:
  sudo -u atedge atedge diag                    writes atedge-diag-<time>.json here
  atedge diag --out - | jq .doctor`;

export function register(program: Command): void {
  program
    .command("diag")
    .description("collect what somebody needs to help you, without secrets, into a file")
    .option("--config <file>", "the configuration of the agent", "/etc/atedge/atedge.toml")
    .option("--out <file>", "where it goes; - is standard output (default: atedge-diag-<time>.json)")
    .option("--offline", "without what connects to somebody")
    .addHelpText("after", HELP)
    .action(async ({ config: configFile, out, offline = false }: DiagOptions) => {
      const { diagnose } = await import("../agent/doctor/diagnosis.js");
      const { interruption } = await import("./remote-options.js");
      const { VERSION } = await import("./version.js");
      const { Progress } = await import("./progress.js");
      const progress = new Progress();
      progress.start("collecting");
      const diagnosis = await diagnose({ configFile, version: VERSION, offline }, interruption()).finally(() =>
        progress.end(),
      );
      const text = `${JSON.stringify(diagnosis, undefined, 1)}\n`;
      if (out === "-") return void process.stdout.write(text);
      const { writeFile } = await import("node:fs/promises");
      const file = out ?? `atedge-diag-${diagnosis.madeAt.replaceAll(/[:.]/gu, "")}.json`;
      await writeFile(file, text, { mode: 0o600, flag: "wx" });
      process.stdout.write(`${file}: look at it, then give it to whoever helps you\n`);
    });
}
