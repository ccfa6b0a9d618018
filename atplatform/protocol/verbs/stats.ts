import { CommandScanner, parseUint } from "../command-scanner.js";
import { arrayOf, membersOf, parseJson, required, textIn } from "../json.js";
import { badSyntax, field, integer, oneLine, type VerbCodec } from "../verb-codec.js";

export interface Stats {
  /** In the order asked for, without repeats; empty: all. */
  readonly ids: readonly number[];
  /** Only with id 3 or 15 alone. */
  readonly regex?: string;
}

/** `stats[:3[,7…]][:regex]`. Its reply has a blank after `data:`. */
export const stats: VerbCodec<Stats> = {
  usage: "stats:1,2,3",

  format({ ids, regex }) {
    const list = ids.map((id) => integer("id", id, 1)).join(",");
    if (regex !== undefined && list !== "3" && list !== "15") throw badSyntax("only stats 3 and 15 take an expression");
    return oneLine(`stats${list && `:${list}`}${regex === undefined ? "" : `:${field("regex", regex, /^./u)}`}`);
  },

  parse(line) {
    const scanner = new CommandScanner(line, stats.usage);
    scanner.expect("stats");
    if (scanner.isDone()) return { ids: [] };
    scanner.expect(":");
    const list = scanner.word();
    const ids = [...new Set(list.split(",").map((id) => parseUint(id) ?? scanner.refuse()))];
    if (list.startsWith("0")) scanner.refuse();
    if (scanner.isDone()) return { ids };
    scanner.expect(":");
    const regex = scanner.rest();
    if (regex === "" || (list !== "3" && list !== "15")) scanner.refuse();
    return { ids, regex };
  },
};

export interface Stat {
  readonly id: number;
  readonly name: string;
  /** The id of the last commit comes as text, or as the text `null`. */
  readonly value: unknown;
}

/** Objects joined by a comma and a blank, as the reference does. */
export const formatStats = (entries: readonly Stat[]): string =>
  `[${entries.map(({ id, name, value }) => JSON.stringify({ id: String(id), name, value })).join(", ")}]`;

/** @throws {SyntaxInvalid} */
export const parseStats = (text: string): readonly Stat[] =>
  arrayOf(parseJson(text.trim(), "stats"), "stats").map((entry, index) => {
    const members = membersOf(entry, `stats[${index}]`);
    return {
      id: required(parseUint(textIn(members, "id") ?? ""), `stats[${index}].id`),
      name: textIn(members, "name") ?? "",
      value: members.get("value"),
    };
  });
