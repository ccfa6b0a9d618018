import type { Command } from "commander";
import { parseDuration } from "./duration.js";

interface RotateCliOptions {
  readonly config: string;
  /** Milliseconds, all three. */
  readonly wait: number;
  readonly poll: number;
  readonly expires?: number;
  readonly json?: boolean;
}

export interface FileOptions {
  readonly keys?: string;
  readonly as?: string;
  readonly passphraseFile?: string;
  readonly oldPassphraseFile?: string;
  readonly out?: string;
  readonly json?: boolean;
}

const HELP = `
What each way of keeping keys protects when a card is stolen, and what it does not: docs/operate/keys.md.

Examples:
  board$ atedge keys rotate                                  new keys; shows a fingerprint, waits for the owner
  owner$ atedge approve --as @greenhouse --fingerprint …     lets them in, and ends the old ones when the board has changed
  owner$ atedge keys backup --as @greenhouse --out greenhouse.backup
  owner$ atedge keys restore greenhouse.backup --as @greenhouse`;

export function register(program: Command): void {
  const keys = program
    .command("keys")
    .description("key files: rotate, back up, restore, seal")
    .addHelpText("after", HELP);

  keys
    .command("rotate")
    .description("replace this board's keys: a new enrolment, the switch, and the old one is revoked")
    .option("--config <file>", "the configuration of the agent", "/etc/atedge/atedge.toml")
    .option("--expires <duration>", "end of the new enrolment after its approval, such as 365d", parseDuration)
    .option("--wait <duration>", "how long to wait for the owner (default: 1h)", parseDuration, 3_600_000)
    .option("--poll <duration>", "how often to look (default: 10s)", parseDuration, 10_000)
    .option("--json", "print JSON, one object a line")
    .action(async (options: RotateCliOptions) => {
      const { rotateBoard } = await import("./keys-rotate.js");
      await rotateBoard(options);
    });

  withFiles(keys.command("backup"), "seals the copy")
    .description("write a copy of a key file, sealed with a passphrase")
    .requiredOption("--out <file>", "where the copy goes; an existing file is not overwritten")
    .option("--old-passphrase-file <file>", "passphrase of the key file, when it is sealed itself")
    .action(async (options: FileOptions) => (await import("./keys-files.js")).backUp(options));

  withFiles(keys.command("restore <backup>"), "opens the copy")
    .description("write a key file from its sealed copy; an existing one is not overwritten")
    .action(async (backup: string, options: FileOptions) => (await import("./keys-files.js")).restore(backup, options));

  withFiles(keys.command("seal"), "seals the file")
    .description("seal a key file with a passphrase, where it is")
    .action(async (options: FileOptions) => (await import("./keys-files.js")).seal(options));

  withFiles(keys.command("unseal"), "opens the file")
    .description("take the passphrase off a key file")
    .action(async (options: FileOptions) => (await import("./keys-files.js")).unseal(options));
}

function withFiles(command: Command, does: string): Command {
  return command
    .option("--keys <file>", "the .atKeys file (default with --as: ~/.atsign/keys/<atSign>_key.atKeys)")
    .option("--as <atSign>", "whose keys they are")
    .option("--passphrase-file <file>", `file with the passphrase that ${does} (on a terminal you are asked)`)
    .option("--json", "print a JSON object");
}
