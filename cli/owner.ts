import type { Command } from "commander";
import type { AtClient } from "../atplatform/client/at-client.js";
import { PASSPHRASE_OPTION } from "./passphrase-option.js";

/** What the commands of the owner's machine have in common. */
export interface OwnerOptions {
  readonly as: string;
  readonly keys?: string;
  readonly passphraseFile?: string;
  readonly directory: string;
  readonly ca?: string;
  readonly json?: boolean;
}

export function withOwnerOptions(command: Command): Command {
  return command
    .requiredOption("--as <atSign>", "whose enrolments: an atSign that was onboarded here")
    .option("--keys <file>", "its .atKeys file (default: ~/.atsign/keys/<atSign>_key.atKeys)")
    .option(...PASSPHRASE_OPTION)
    .option("--directory <host:port>", "the atDirectory", "root.atsign.org:64")
    .option("--ca <file>", "certificate of a platform of your own (its ca.pem)")
    .option("--json", "print JSON, one object a line");
}

/** Runs `work` as the owner. Failures say what to do next. */
export async function asOwner(
  { as, keys: keyFile, passphraseFile, directory, ca }: OwnerOptions,
  work: (client: AtClient, signal: AbortSignal) => Promise<void>,
): Promise<void> {
  const { openAtClient } = await import("../atplatform/client/at-client.js");
  const { atKeysPath } = await import("../atplatform/crypto/at-keys-file.js");
  const { parseAtSign } = await import("../atplatform/protocol/at-sign.js");
  const { parseDirectoryAddress } = await import("../atplatform/transport/directory.js");
  const { loadKeys } = await import("../agent/keys/load-keys.js");
  const { codeOf } = await import("../core/errors.js");
  const { askedPassphrase } = await import("./passphrase.js");
  const { readCa } = await import("./read-ca.js");
  const { interruption } = await import("./remote-options.js");
  const { nextStepToReach, withNextStep } = await import("./next-step.js");

  const signal = interruption();
  const atSign = parseAtSign(as);
  const file = keyFile ?? atKeysPath(atSign);
  const keys = await loadKeys(file, {
    whenAbsent: `name the key file of ${atSign} with --keys FILE; \`atedge onboard ${atSign}\` makes one`,
    passphrase: askedPassphrase(passphraseFile, file),
  });
  const options = { atSign, keys, directory: parseDirectoryAddress(directory), ...(await readCa(ca)) };
  try {
    await using client = await openAtClient(options, signal);
    await work(client, signal);
  } catch (error) {
    const refused = ["AT0401", "AT0025", "AT0027", "AT0028", "AT0029"].includes(codeOf(error) ?? "");
    const nextStep = refused ? `the atServer does not take these keys: are they those of ${atSign}?` : undefined;
    throw withNextStep(error, nextStep ?? nextStepToReach(error, atSign));
  }
}
