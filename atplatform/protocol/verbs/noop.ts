import { CommandScanner, parseUint } from "../command-scanner.js";
import { CommandInvalid, integer, oneLine, type VerbCodec } from "../verb-codec.js";

export interface Noop {
  /** 0 to 5000. */
  readonly delayMs: number;
}

const MAX_DELAY_MS = 5000;

/** `noop:<ms>`: answers `ok` after a while. The heartbeat of long-lived connections. */
export const noop: VerbCodec<Noop> = {
  usage: "noop:<durationInMillis>",

  format: ({ delayMs }) => oneLine(`noop:${integer("delayMs", delayMs, 0, MAX_DELAY_MS)}`),

  parse(line) {
    const scanner = new CommandScanner(line, noop.usage);
    scanner.expect("noop:");
    const digits = scanner.rest();
    if (!/^\d{1,30}$/u.test(digits)) scanner.refuse();
    const delayMs = parseUint(digits) ?? Infinity;
    if (delayMs <= MAX_DELAY_MS) return { delayMs };
    throw new CommandInvalid(`${noop.usage} where the duration maximum is ${MAX_DELAY_MS} milliseconds`, "AT0022");
  },
};
