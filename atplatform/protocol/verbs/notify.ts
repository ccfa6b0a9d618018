import { parseAtSign, type AtSign } from "../at-sign.js";
import { CommandScanner, parseUint } from "../command-scanner.js";
import { scanScope } from "../key-grammar.js";
import { formatMetadataOptions, scanMetadataOptions, type MetadataOptions } from "../metadata-options.js";
import { badSyntax, field, integer, oneLine, type VerbCodec } from "../verb-codec.js";

export type Priority = "low" | "medium" | "high";

/** What is said on the wire; what is left out has the defaults of atserver.md, 3.13. */
export interface Notify {
  /** Letters, digits, `_` and `-`; the receiver sees it, too. */
  readonly id?: string;
  readonly operation: "update" | "delete";
  readonly messageType: "key" | "text";
  readonly priority?: Priority;
  /** `latest` needs a notifier. */
  readonly strategy?: "all" | "latest";
  readonly latestN?: number;
  readonly notifier?: string;
  /** How long the notification lives; 0 means not said. `options.ttlMs` is that of the record. */
  readonly ttlnMs?: number;
  readonly options: MetadataOptions;
  /** Left out: public scope, which only old peer servers send. */
  readonly to?: AtSign;
  /** `phone.wavi` or, in a text message, the text; case is kept. No `@`, no `::`; the reference wants two characters. */
  readonly key: string;
  readonly owner?: AtSign;
  /** Needs an owner: without one it would be read as a part of the key. */
  readonly value?: string;
}

const USAGE = "e.g notify:@colin:key@kevin";
const ID = /^[\w-]+$/u;
const KEY = /^(?!.*::)[^:@][^@]*$/u;

/** `notify[:<options>]:@bob:phone.wavi@alice[:<value>]`: tells another atSign, as client and as peer server. */
export const notify: VerbCodec<Notify> = {
  usage: USAGE,

  format(command) {
    const { id, operation, messageType, priority, strategy, latestN, notifier, ttlnMs } = command;
    const { options, to, key, owner, value } = command;
    if (value !== undefined && (value === "" || owner === undefined)) throw badSyntax("a value must follow an owner");
    return oneLine(
      [
        "notify",
        id === undefined ? "" : `:id:${field("id", id, ID)}`,
        `:${operation}:messageType:${messageType}`,
        priority === undefined ? "" : `:priority:${priority}`,
        strategy === undefined ? "" : `:strategy:${strategy}`,
        latestN === undefined ? "" : `:latestN:${integer("latestN", latestN)}`,
        notifier === undefined ? "" : `:notifier:${field("notifier", notifier, /^[^\s:]+$/u)}`,
        ttlnMs === undefined ? "" : `:ttln:${integer("ttlnMs", ttlnMs)}`,
        formatMetadataOptions(options),
        `:${to ?? "public"}:${field("key", key, KEY)}`,
        owner ?? "",
        value === undefined ? "" : `:${value}`,
      ].join(""),
    );
  },

  parse(line) {
    const scanner = new CommandScanner(line, USAGE);
    scanner.expect("notify");
    const id = scanner.option("id", (word) => ID.test(word));
    const operation = scanner.choice(":", ["update", "delete"]) ?? "update";
    const messageType = scanner.choice(":messageType:", ["key", "text"]) ?? "key";
    const priority = scanner.choice(":priority:", ["low", "medium", "high"]);
    const strategy = scanner.choice(":strategy:", ["all", "latest"]);
    const latestN = uint(scanner, "latestN");
    const notifier = scanner.skip(":notifier:") ? scanner.label() || scanner.refuse() : undefined;
    const ttlnMs = uint(scanner, "ttln");
    const options = scanMetadataOptions(scanner);
    const scope = scanScope(scanner) ?? scanner.refuse();
    scanner.expect(":");
    return {
      ...(id !== undefined && { id }),
      operation,
      messageType,
      ...(priority && { priority }),
      ...(strategy && { strategy }),
      ...(latestN !== undefined && { latestN }),
      ...(notifier !== undefined && { notifier }),
      ...(ttlnMs !== undefined && { ttlnMs }),
      options,
      ...(scope !== "public" && { to: scope }),
      ...(parseKeyOwnerValue(scanner.rest()) ?? scanner.refuse()),
    };
  },
};

const uint = (scanner: CommandScanner, name: string): number | undefined =>
  parseUint(scanner.option(name, (word) => parseUint(word) !== undefined) ?? "");

type KeyOwnerValue = Pick<Notify, "key" | "owner" | "value">;

/**
 * `key[@owner][:value]`, where the key may contain blanks and single colons and is as long as it can be: a text without
 * `@` is all key.
 */
function parseKeyOwnerValue(rest: string): KeyOwnerValue | undefined {
  const at = rest.indexOf("@");
  const double = rest.indexOf("::");
  const limit = Math.min(at === -1 ? rest.length : at, double === -1 ? rest.length : double);
  const longest = splitAt(rest, limit);
  if (longest) return longest;
  const colon = rest.lastIndexOf(":", limit - 1);
  return colon === -1 ? undefined : splitAt(rest, colon);
}

const OWNER = /^@([^:@\s]+)/u;

function splitAt(rest: string, keyEnd: number): KeyOwnerValue | undefined {
  const key = rest.slice(0, keyEnd);
  if (key === "" || key.startsWith(":")) return undefined;
  const bareOwner = OWNER.exec(rest.slice(keyEnd, keyEnd + 1024))?.[1];
  const ownerEnd = keyEnd + (bareOwner === undefined ? 0 : bareOwner.length + 1);
  const tail = rest.slice(ownerEnd);
  if (tail !== "" && !(tail.startsWith(":") && tail.length > 1)) return undefined;
  return {
    key,
    ...(bareOwner !== undefined && { owner: parseAtSign(bareOwner) }),
    ...(tail !== "" && { value: tail.slice(1) }),
  };
}
