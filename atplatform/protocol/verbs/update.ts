import { keyName, type AtKeyScope } from "../at-key.js";
import { parseAtSign } from "../at-sign.js";
import { CommandScanner } from "../command-scanner.js";
import { scanName, scanScope } from "../key-grammar.js";
import {
  formatMetadataOptions,
  metadataOptionsFromJson,
  scanMetadataOptions,
  type MetadataOptions,
} from "../metadata-options.js";
import { badSyntax, field, oneLine, type VerbCodec } from "../verb-codec.js";

export interface Update {
  /** Full name as stored. After `parse` its type may still be invalid: that is AT0016, not AT0003. */
  readonly key: string;
  /** At least one character, no line end, no white space at the end. */
  readonly value: string;
  readonly options: MetadataOptions;
}

const USAGE = "e.g. update:@alice:location@bob San Francisco";
const KEY = /^(?:(?:public|@[^:@\s]+):)?[^:@\s]+(?:@[^:@\s]+)?$|^privatekey:at_pkam_publickey$/u;

/** `update[:<options>]:<key> <value>`: writes a record. `update:json:{…}`, another form of the same, is read only. */
export const update: VerbCodec<Update> = {
  usage: USAGE,

  format({ key, value, options }) {
    if (value === "") throw badSyntax("update needs a value");
    return oneLine(`update${formatMetadataOptions(options)}:${field("key", key, KEY)} ${value}`);
  },

  parse(line) {
    const scanner = new CommandScanner(line, USAGE);
    scanner.expect("update");
    if (scanner.skip(":json:")) return parseJson(scanner.rest());
    const options = scanMetadataOptions(scanner);
    const key = scanner.skip(":privatekey:at_pkam_publickey")
      ? "privatekey:at_pkam_publickey"
      : scanName(scanner, scanScope(scanner));
    // The first blank ends the key, a second one belongs to the value.
    scanner.expect(" ");
    const value = scanner.rest();
    if (value === "") scanner.refuse();
    return { key, value, options };
  },
};

function parseJson(json: string): Update {
  let parsed: unknown;
  try {
    parsed = JSON.parse(json);
  } catch (cause) {
    throw badSyntax(USAGE, { cause });
  }
  if (typeof parsed !== "object" || parsed === null) throw badSyntax(USAGE);
  const members = new Map<string, unknown>(Object.entries(parsed));
  const [entity, text, sharedBy, sharedWith] = ["atKey", "value", "sharedBy", "sharedWith"].map((n) => members.get(n));
  const metadata = members.get("metadata") ?? {};
  if (typeof entity !== "string" || !/^[^:@\s]+$/u.test(entity)) throw badSyntax(USAGE);
  // As in the other form, which is trimmed.
  const value = typeof text === "string" ? text.trimEnd() : "";
  if (value === "" || /[\r\n]/u.test(value)) throw badSyntax(USAGE);
  if (typeof metadata !== "object") throw badSyntax(USAGE);
  const owner = typeof sharedBy === "string" && sharedBy !== "" ? parseAtSign(sharedBy) : undefined;
  const isPublic = "isPublic" in metadata && metadata.isPublic === true;
  const forAtSign = typeof sharedWith === "string" && sharedWith !== "" ? parseAtSign(sharedWith) : undefined;
  const scope: AtKeyScope = isPublic ? "public" : forAtSign;
  return { key: keyName({ scope, entity, owner }), value, options: metadataOptionsFromJson(metadata) };
}
