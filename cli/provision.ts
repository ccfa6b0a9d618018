import type { Command } from "commander";
import { parseDuration } from "./duration.js";

export interface ProvisionArguments {
  readonly keys?: string;
  readonly state: string;
  readonly config: string;
  readonly replace?: boolean;
  /** Milliseconds, both. */
  readonly wait: number;
  readonly poll: number;
  readonly json?: boolean;
}

const HELP = `
The file is one of \`atedge fleet apply\`. The board makes its own keys, asks to be let in, and waits until the owner
approves (\`atedge fleet approve\`). Then the file is wiped: it opens nothing any more.

Examples:
  board$ sudo atedge provision /boot/firmware/atedge-provision.toml
  owner$ ssh board sudo atedge provision - < bundles/north/atedge-provision.toml`;

export function register(program: Command): void {
  program
    .command("provision <file>")
    .description("make this board the device of a provisioning file (- reads standard input)")
    .option("--keys <file>", "where the keys go (default: keys/<atSign>_key.atKeys in the state folder)")
    .option("--state <folder>", "the agent's state folder", "/var/lib/atedge")
    .option(
      "--config <file>",
      "where the configuration goes, with ca.pem beside it when the platform is one's own",
      "/etc/atedge/atedge.toml",
    )
    .option("--replace", "take the place of what this board was before: its keys and configuration are moved aside")
    .option("--wait <duration>", "how long to wait for the approval (default: 1h)", parseDuration, 3_600_000)
    .option("--poll <duration>", "how often to look for it (default: 10s)", parseDuration, 10_000)
    .option("--json", "print JSON, one object a line")
    .addHelpText("after", HELP)
    .action(async (file: string, options: ProvisionArguments) => {
      const { provision } = await import("./provision-here.js");
      await provision(file, options);
    });
}
