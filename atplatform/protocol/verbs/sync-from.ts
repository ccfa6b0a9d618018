import { CommandScanner, parseInt10, parseUint } from "../command-scanner.js";
import { arrayOf, integerIn, membersOf, parseJson, required, textIn } from "../json.js";
import { metadataStrings, parseMetadata, type Metadata } from "../metadata.js";
import { field, integer, oneLine, type VerbCodec } from "../verb-codec.js";

export interface SyncFrom {
  /** The last commit id that is known; -1: none. */
  readonly commitId: number;
  readonly limit: number;
  /** Searched for in the full name. */
  readonly regex?: string;
}

/** `sync:from:<commitId>:limit:<n>[:<regex>]`: what changed since. */
export const syncFrom: VerbCodec<SyncFrom> = {
  usage: "syntax sync:from:1:limit:10:.wavi",

  format({ commitId, limit, regex }) {
    const range = `${integer("commitId", commitId, -1)}:limit:${integer("limit", limit)}`;
    return oneLine(`sync:from:${range}${regex === undefined ? "" : `:${field("regex", regex, /^./u)}`}`);
  },

  parse(line) {
    const scanner = new CommandScanner(line, syncFrom.usage);
    scanner.expect("sync:from:");
    const commitId = parseInt10(scanner.word()) ?? scanner.refuse();
    if (commitId < -1) scanner.refuse();
    scanner.expect(":limit:");
    const limit = parseUint(scanner.word()) ?? scanner.refuse();
    if (scanner.isDone()) return { commitId, limit };
    scanner.expect(":");
    const regex = scanner.rest();
    if (regex === "") scanner.refuse();
    return { commitId, limit, regex };
  },
};

/** `*` value and metadata, `+` value, `#` metadata, `-` deleted. */
export type CommitOperation = "*" | "+" | "#" | "-";

export interface SyncEntry {
  readonly key: string;
  /** `null` for a deletion, and after `update:meta` of what did not exist. */
  readonly value: string | null;
  readonly metadata: Metadata | null;
  readonly commitId: number;
  readonly operation: CommitOperation;
}

/** One element of the reply; an atServer counts its bytes before it adds it. */
export const formatSyncEntry = ({ key, value, metadata, commitId, operation }: SyncEntry): string =>
  JSON.stringify({ atKey: key, value, metadata: metadata && metadataStrings(metadata), commitId, operation });

/** @throws {SyntaxInvalid} */
export const parseSyncEntries = (text: string): readonly SyncEntry[] =>
  arrayOf(parseJson(text, "sync"), "sync").map((entry, index) => {
    const members = membersOf(entry, `sync[${index}]`);
    const operation = textIn(members, "operation");
    const value = members.get("value");
    const metadata = members.get("metadata");
    return {
      key: required(textIn(members, "atKey"), `sync[${index}].atKey`),
      value: typeof value === "string" ? value : null,
      metadata: typeof metadata === "object" && metadata !== null ? parseMetadata(metadata) : null,
      commitId: required(integerIn(members, "commitId"), `sync[${index}].commitId`),
      operation: required(
        OPERATIONS.find((known) => known === operation),
        `sync[${index}].operation`,
      ),
    };
  });

const OPERATIONS: readonly CommitOperation[] = ["*", "+", "#", "-"];
