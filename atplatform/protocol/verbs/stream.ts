import { CommandScanner } from "../command-scanner.js";
import type { VerbCodec } from "../verb-codec.js";

export interface Stream {
  readonly action: "init" | "receive" | "done" | "resume";
}

/** The file transfer of old: read so that it can be refused; no client of today sends it. */
export const stream: Pick<VerbCodec<Stream>, "usage" | "parse"> = {
  usage: "stream is not supported",

  parse(line) {
    const scanner = new CommandScanner(line, stream.usage);
    scanner.expect("stream");
    return { action: scanner.choice(":", ["init", "receive", "done", "resume"]) ?? scanner.refuse() };
  },
};
