import { CommandScanner } from "../command-scanner.js";
import type { VerbCodec } from "../verb-codec.js";

export interface Info {
  /** Uptime as a number rather than in words. */
  readonly brief: boolean;
}

/** `info[:brief]`: version and uptime of an atServer. */
export const info: VerbCodec<Info> = {
  usage: "info",

  format: ({ brief }) => (brief ? "info:brief" : "info"),

  parse(line) {
    const scanner = new CommandScanner(line, info.usage);
    scanner.expect("info");
    const brief = scanner.skip(":brief");
    scanner.end();
    return { brief };
  },
};
