import type { Command } from "commander";
import { PASSPHRASE_OPTION } from "./passphrase-option.js";

/** What `watch` and `call` have in common: who we are, and how the platform is reached. */
export interface RemoteOptions {
  readonly as: string;
  readonly keys?: string;
  readonly passphraseFile?: string;
  readonly directory: string;
  readonly ca?: string;
  readonly ns: string;
  readonly key?: string;
  readonly state?: string;
  readonly json?: boolean;
  readonly verbose?: boolean;
}

export function withRemoteOptions(command: Command): Command {
  return command
    .requiredOption("--as <atSign>", "who you are")
    .option("--keys <file>", "your .atKeys file (default: ~/.atsign/keys/<atSign>_key.atKeys)")
    .option(...PASSPHRASE_OPTION)
    .option("--directory <host:port>", "the atDirectory", "root.atsign.org:64")
    .option("--ca <file>", "certificate of a platform of your own (its ca.pem)")
    .option("--ns <namespace>", "application namespace", "atedge")
    .option("--key <fingerprint>", "the owner's key, sha256:…; without it the first key seen is trusted and remembered")
    .option("--state <folder>", "where trusted keys are remembered (default: ~/.config/atedge)")
    .option("--json", "print JSON, one object a line")
    .option("--verbose", "log on standard error what happens");
}

/** Opens the session that the options describe, and the log. */
export async function openRemote(subject: string, options: RemoteOptions, signal: AbortSignal) {
  const { openLog } = await import("../agent/log.js");
  const { openSession } = await import("../remote/session.js");
  const { askedPassphrase } = await import("./passphrase.js");
  const { as, keys, passphraseFile, directory, ca, ns, key, state, verbose } = options;
  const log = openLog({ level: verbose ? "debug" : "warn" });
  const session = await openSession(
    {
      ...{ subject, as, directory, ns, log, passphrase: askedPassphrase(passphraseFile) },
      ...(keys !== undefined && { keys }),
      ...(ca !== undefined && { ca }),
      ...(key !== undefined && { key }),
      ...(state !== undefined && { state }),
    },
    signal,
  );
  return { session, log };
}

/** Aborts at Ctrl-C or SIGTERM; a second one ends the process at once, as without us. */
export function interruption(): AbortSignal {
  const controller = new AbortController();
  for (const name of ["SIGINT", "SIGTERM"] as const) process.once(name, () => controller.abort());
  return controller.signal;
}
