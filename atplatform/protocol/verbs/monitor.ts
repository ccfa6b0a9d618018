import { CommandScanner, parseUint } from "../command-scanner.js";
import { field, integer, oneLine, type VerbCodec } from "../verb-codec.js";

export interface Monitor {
  /** Suppress stats notifications that the expression does not match; the reference atServer ignores it. */
  readonly strict: boolean;
  /** Also what the atSign tells itself: enrolment requests. */
  readonly selfNotifications: boolean;
  /** The connection goes on to carry commands, so prompts are kept. */
  readonly multiplexed: boolean;
  /** Replay what came later than this first. */
  readonly epochMillis?: number;
  /** Searched for in the key, or in the sender without `@`. */
  readonly regex?: string;
}

/** `monitor[:strict][:selfNotifications][:multiplexed][:<epochMillis>] [regex]`: asks for notifications. No reply. */
export const monitor: VerbCodec<Monitor> = {
  usage: "e.g. monitor or monitor .wavi",

  format({ strict, selfNotifications, multiplexed, epochMillis, regex }) {
    const flags = `${strict ? ":strict" : ""}${selfNotifications ? ":selfNotifications" : ""}${multiplexed ? ":multiplexed" : ""}`;
    const epoch = epochMillis === undefined ? "" : `:${integer("epochMillis", epochMillis)}`;
    return oneLine(`monitor${flags}${epoch}${regex === undefined ? "" : ` ${field("regex", regex, /^\S/u)}`}`);
  },

  parse(line) {
    const scanner = new CommandScanner(line, monitor.usage);
    scanner.expect("monitor");
    const strict = scanner.choice(":", ["strict"]) !== undefined;
    const selfNotifications = scanner.choice(":", ["selfNotifications"]) !== undefined;
    const multiplexed = scanner.choice(":", ["multiplexed"]) !== undefined;
    const epochMillis = scanner.skip(":") ? (parseUint(scanner.word()) ?? scanner.refuse()) : undefined;
    const regex = scanner.skip(" ") ? scanner.rest().trim() : undefined;
    if (regex === "") scanner.refuse();
    scanner.end();
    return {
      strict,
      selfNotifications,
      multiplexed,
      ...(epochMillis !== undefined && { epochMillis }),
      ...(regex !== undefined && { regex }),
    };
  },
};
