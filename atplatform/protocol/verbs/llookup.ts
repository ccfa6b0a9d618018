import { keyName } from "../at-key.js";
import { parseAtSign } from "../at-sign.js";
import { CommandScanner } from "../command-scanner.js";
import { scanScope, type RecordPart } from "../key-grammar.js";
import { field, oneLine, type VerbCodec } from "../verb-codec.js";

export interface Llookup {
  readonly part: RecordPart;
  /** Full name as stored, e.g. `cached:@alice:phone.wavi@bob`. */
  readonly key: string;
}

const KEY = /^(?:cached:)?(?:(?:public|private|local|@[^:@\s]+):)?[^:@\s]+@[^:@\s]+$/u;

/** `llookup[:meta|:all]:<key>`: reads a record held by one's own atServer. */
export const llookup: VerbCodec<Llookup> = {
  usage: "e.g llookup:location@bob",

  format: ({ part, key }) => oneLine(`llookup${part === "value" ? "" : `:${part}`}:${field("key", key, KEY)}`),

  parse(line) {
    const scanner = new CommandScanner(line, llookup.usage);
    scanner.expect("llookup");
    const part = scanner.choiceBeforeColon(":", ["meta", "all"]) ?? "value";
    const cached = scanner.skipBeforeColon(":cached");
    const scope = scanScope(scanner);
    scanner.expect(":");
    // Names such as `private:blocklist@alice` are read here, so the entity may contain colons.
    const entity = scanner.until("@") ?? scanner.refuse();
    if (entity.startsWith(":") || entity.trim() === "" || entity.includes("::")) scanner.refuse();
    const owner = parseAtSign(scanner.expectWord());
    scanner.end();
    return { part, key: keyName({ cached, scope, entity, owner }) };
  },
};
