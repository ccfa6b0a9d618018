import { CommandScanner } from "../command-scanner.js";
import { field, oneLine, type VerbCodec } from "../verb-codec.js";

export interface Cram {
  /** Lower-case hex of SHA-512 over secret and challenge. */
  readonly digest: string;
}

/** `cram:<digest>`: logs in with the secret of a fresh atServer. */
export const cram: VerbCodec<Cram> = {
  usage: "cram:<digest>",

  format: ({ digest }) => oneLine(`cram:${field("digest", digest, /^\S+$/u)}`),

  parse(line) {
    const scanner = new CommandScanner(line, cram.usage);
    scanner.expect("cram:");
    if (scanner.isDone()) scanner.refuse();
    return { digest: scanner.rest() };
  },
};
