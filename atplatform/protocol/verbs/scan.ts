import { parseAtSign, type AtSign } from "../at-sign.js";
import { CommandScanner, parseUint } from "../command-scanner.js";
import { field, oneLine, type VerbCodec } from "../verb-codec.js";

export interface Scan {
  /** Include names that begin with `_` or `public:__`. */
  readonly showHidden: boolean;
  /** Whose keys; left out: those of the atServer that is asked. */
  readonly atSign?: AtSign;
  /** A regular expression without white space, searched for in the full name. */
  readonly regex?: string;
}

/** `scan[:showhidden:true][:@bob][:page:1] [regex]`: lists names of records. The page number is read and ignored. */
export const scan: VerbCodec<Scan> = {
  usage: "scan",

  format({ showHidden, atSign, regex }) {
    const options = `${showHidden ? ":showhidden:true" : ""}${atSign === undefined ? "" : `:${atSign}`}`;
    return oneLine(`scan${options}${regex === undefined ? "" : ` ${field("regex", regex, /^\S+$/u)}`}`);
  },

  parse(line) {
    const scanner = new CommandScanner(line, scan.usage);
    scanner.expect("scan");
    // In this verb the reference tells `showHidden` from `showhidden`, and Java and Python clients get AT0003.
    const showHidden = line.startsWith("scan:showhidden:") && scanner.option("showhidden", isBoolean)?.toLowerCase();
    const atSign = scanner.skip(":@") ? parseAtSign(scanner.expectWord()) : undefined;
    scanner.option("page", (word) => parseUint(word) !== undefined);
    const regex = scanner.skip(" ") ? scanner.rest() : undefined;
    if (regex !== undefined && !/^\S+$/u.test(regex)) scanner.refuse();
    scanner.end();
    return {
      showHidden: showHidden === "true",
      ...(atSign !== undefined && { atSign }),
      ...(regex !== undefined && { regex }),
    };
  },
};

const isBoolean = (word: string): boolean => /^(?:true|false)$/iu.test(word);
