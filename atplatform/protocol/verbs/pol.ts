import { CommandScanner } from "../command-scanner.js";
import type { VerbCodec } from "../verb-codec.js";

/** `pol`: an atServer asks another to check the proof it has published. No arguments. */
export const pol: VerbCodec<Readonly<Record<string, never>>> = {
  usage: "syntax pol e.g pol",

  format: () => "pol",

  parse(line) {
    const scanner = new CommandScanner(line, pol.usage);
    scanner.expect("pol");
    scanner.end();
    return {};
  },
};
