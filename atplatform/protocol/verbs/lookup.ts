import { normaliseKeyName } from "../at-key.js";
import { parseAtSign, type AtSign } from "../at-sign.js";
import { CommandScanner } from "../command-scanner.js";
import type { RecordPart } from "../key-grammar.js";
import { badSyntax, field, oneLine, type VerbCodec } from "../verb-codec.js";

export interface Lookup {
  readonly part: RecordPart;
  /** Ask the owner's atServer even when there is a copy. */
  readonly bypassCache: boolean;
  /** The name without scope and owner, e.g. `phone.wavi`. */
  readonly entity: string;
  readonly owner: AtSign;
}

/** `lookup:[bypassCache:true:][meta:|all:]phone.wavi@bob`: reads what the owner shares with whoever asks. */
export const lookup: VerbCodec<Lookup> = {
  usage: "e.g lookup:location@bob",
  format: (command) => formatLookup("lookup", command, /^(?!(?:bypassCache|meta|all):)[^:\s]\S*$/iu),
  parse: (line) => parseLookup("lookup", line, lookup.usage),
};

export function formatLookup(
  verb: "lookup" | "plookup",
  { part, bypassCache, entity, owner }: Lookup,
  grammar: RegExp,
): string {
  const options = `${bypassCache ? "bypassCache:true:" : ""}${part === "value" ? "" : `${part}:`}`;
  return oneLine(`${verb}:${options}${field("entity", entity, grammar)}${owner}`);
}

export function parseLookup(verb: "lookup" | "plookup", line: string, usage: string): Lookup {
  const scanner = new CommandScanner(line, usage);
  scanner.expect(verb);
  const bypassCache = scanner.choiceBeforeColon(":bypassCache:", ["true", "false"]) === "true";
  const part = scanner.choiceBeforeColon(":", ["meta", "all"]) ?? "value";
  scanner.expect(":");
  const name = scanner.rest();
  const at = name.lastIndexOf("@");
  const entity = normaliseKeyName(name.slice(0, Math.max(at, 0)));
  const owner = name.slice(at + 1);
  if (at < 1 || entity === "" || entity.startsWith(":") || !/^[^:@\s]+$/u.test(owner)) throw badSyntax(usage);
  return { part, bypassCache, entity, owner: parseAtSign(owner) };
}
