import type { Command } from "commander";

interface Options {
  readonly cramFile: string;
  readonly keys?: string;
  readonly directory: string;
  readonly ca?: string;
  readonly json?: boolean;
}

export function register(program: Command): void {
  program
    .command("onboard <atsign>")
    .description(
      "make an atSign one's own, on its owner's machine: keys are made here, and the registrar's secret is used up",
    )
    .requiredOption("--cram-file <file>", "file with the secret of the registrar; - reads standard input")
    .option("--keys <file>", "where the keys go (default: ~/.atsign/keys/@NAME_key.atKeys)")
    .option("--directory <host:port>", "the atDirectory", "root.atsign.org:64")
    .option("--ca <file>", "PEM file with a further certificate authority to trust")
    .option("--json", "print a JSON object")
    .action(async (name: string, { cramFile, keys, directory, ca, json }: Options) => {
      const { onboardAtSign } = await import("./onboard-at-sign.js");
      await onboardAtSign(name, { cramFile, keyFile: keys, directory, caFile: ca, json: json === true });
    });
}
