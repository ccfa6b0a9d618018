import { badSyntax, type VerbCodec } from "../verb-codec.js";
import { formatLookup, parseLookup, type Lookup } from "./lookup.js";

/** `plookup:[bypassCache:true:][meta:|all:]name@bob`: reads public data of any atSign through one's own atServer. */
export const plookup: VerbCodec<Lookup> = {
  usage: "e.g plookup:location@bob",
  format: (command) => formatLookup("plookup", command, /^(?!(?:bypassCache|meta|all):)[^:@\s][^@\s]*$/iu),
  parse(line) {
    const command = parseLookup("plookup", line, plookup.usage);
    if (command.entity.includes("@")) throw badSyntax(plookup.usage);
    return command;
  },
};
