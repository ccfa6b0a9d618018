import { parseAtSign, type AtSign } from "../at-sign.js";
import { CommandScanner } from "../command-scanner.js";
import { scanOwner } from "../key-grammar.js";
import { scanMetadataOptions, formatMetadataOptions, type MetadataOptions } from "../metadata-options.js";
import { badSyntax, field, oneLine, WORD, type VerbCodec } from "../verb-codec.js";

export interface NotifyAll {
  readonly operation: "update" | "delete";
  readonly messageType: "key" | "text";
  readonly options: Pick<MetadataOptions, "ttlMs" | "ttbMs" | "ttrSeconds" | "ccd">;
  /** Distinct. */
  readonly to: readonly AtSign[];
  /** `phone.wavi`, or a text without blanks. */
  readonly key: string;
  readonly owner?: AtSign;
  readonly value?: string;
}

const NAME = /^@?[^@\s]+$/u;

/** `notify:all:[<options>:]@bob,@carol:phone.wavi@alice[:<value>]`. Its reply has a blank after `data:`. */
export const notifyAll: VerbCodec<NotifyAll> = {
  usage: "e.g notify:all:@alice,@bob:key1@colin",

  format({ operation, messageType, options, to, key, owner, value }) {
    if (to.length === 0) throw badSyntax("notify:all needs a receiver");
    if (value === "") throw badSyntax("an empty value cannot be sent");
    const { ttlMs, ttbMs, ttrSeconds, ccd } = options;
    const known = formatMetadataOptions({
      ...(ttlMs !== undefined && { ttlMs }),
      ...(ttbMs !== undefined && { ttbMs }),
      ...(ttrSeconds !== undefined && { ttrSeconds }),
      ...(ccd !== undefined && { ccd }),
    });
    const what = `${field("key", key, WORD)}${owner ?? ""}${value === undefined ? "" : `:${value}`}`;
    return oneLine(`notify:all:${operation}:messageType:${messageType}${known}:${to.join(",")}:${what}`);
  },

  parse(line) {
    const scanner = new CommandScanner(line, notifyAll.usage);
    scanner.expect("notify:all");
    const operation = scanner.choiceBeforeColon(":", ["update", "delete"]) ?? "update";
    const messageType = scanner.choiceBeforeColon(":messageType:", ["key", "text"]) ?? "key";
    const { ttlMs, ttbMs, ttrSeconds, ccd, ...others } = scanMetadataOptions(scanner);
    if (Object.keys(others).length > 0) scanner.refuse();
    scanner.expect(":");
    const list = scanner.until(":") || scanner.refuse();
    const to = [...new Set(list.split(",").map((name) => (NAME.test(name) ? parseAtSign(name) : scanner.refuse())))];
    const key = scanner.expectWord();
    const owner = scanOwner(scanner);
    const value = scanner.skip(":") ? scanner.rest() : undefined;
    if (value === "") scanner.refuse();
    scanner.end();
    return {
      operation,
      messageType,
      options: {
        ...(ttlMs !== undefined && { ttlMs }),
        ...(ttbMs !== undefined && { ttbMs }),
        ...(ttrSeconds !== undefined && { ttrSeconds }),
        ...(ccd !== undefined && { ccd }),
      },
      to,
      key,
      ...(owner !== undefined && { owner }),
      ...(value !== undefined && { value }),
    };
  },
};
