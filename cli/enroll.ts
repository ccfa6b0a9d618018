import type { Command } from "commander";
import { parseDuration } from "./duration.js";

interface Options {
  readonly device: string;
  readonly ns: string;
  readonly app: string;
  readonly passcodeFile: string;
  readonly keys: string;
  readonly passphraseFile?: string;
  readonly directory: string;
  readonly ca?: string;
  /** Milliseconds, all three. */
  readonly expires?: number;
  readonly wait: number;
  readonly poll: number;
  readonly json?: boolean;
}

const HELP = `
The keys are made on this machine. They may do what ends in <device>.<ns>, and nothing else of the atSign.
Waits until the owner approves. When it ends before, the same command goes on with the same request.

Examples:
  owner$ atedge otp --as @greenhouse
  board$ atedge enroll @greenhouse --device north --passcode-file - --keys /var/lib/atedge/keys/@greenhouse_key.atKeys
  owner$ atedge approve --as @greenhouse --fingerprint sha256:…   (what the board shows)`;

export function register(program: Command): void {
  program
    .command("enroll <atsign>")
    .description("make this board one of an atSign's devices: its owner gives a passcode and approves")
    .requiredOption("--device <name>", "name of this board under the atSign, such as north")
    .requiredOption("--passcode-file <file>", "file with the passcode of `atedge otp`; - reads standard input")
    .requiredOption("--keys <file>", "where the keys go; an existing file is not overwritten")
    .option("--passphrase-file <file>", "seal the key file with the passphrase in this file")
    .option("--ns <namespace>", "application namespace", "atedge")
    .option("--app <name>", "name of the application in the list of enrolments", "atedge")
    .option("--directory <host:port>", "the atDirectory", "root.atsign.org:64")
    .option("--ca <file>", "PEM file with a further certificate authority to trust")
    .option(
      "--expires <duration>",
      "end of the enrolment after its approval, such as 365d (default: never)",
      parseDuration,
    )
    .option("--wait <duration>", "how long to wait for the approval (default: 1h)", parseDuration, 3_600_000)
    .option("--poll <duration>", "how often to look for it (default: 10s)", parseDuration, 10_000)
    .option("--json", "print JSON, one object a line")
    .addHelpText("after", HELP)
    .action(async (name: string, { keys, passphraseFile, ca, json, expires, wait, poll, ...rest }: Options) => {
      const { enrollBoard } = await import("./enroll-board.js");
      await enrollBoard(name, {
        ...rest,
        keyFile: keys,
        passphraseFile,
        caFile: ca,
        expiresInMs: expires,
        waitMs: wait,
        pollMs: poll,
        json: json === true,
      });
    });
}
