import { membersOf, parseJson, required, textIn } from "./json.js";
import { metadataJson, parseMetadata, type Metadata } from "./metadata.js";

/** The answer to `lookup:all:`, `plookup:all:` and `llookup:all:`. */
export interface AtRecord {
  /** Full name; begins with `cached:` when a copy was read. */
  readonly key: string;
  /** `null` after `update:meta` of what did not exist. */
  readonly value: string | null;
  readonly metadata: Metadata;
}

/** `{"key":…,"data":…,"metaData":{…}}` */
export const formatRecord = ({ key, value, metadata }: AtRecord): string =>
  JSON.stringify({ key, data: value, metaData: metadataJson(metadata) });

/** @throws {SyntaxInvalid} */
export function parseRecord(text: string): AtRecord {
  const members = membersOf(parseJson(text, "record"), "record");
  const value = members.get("data");
  const metadata = members.get("metaData");
  return {
    key: required(textIn(members, "key"), "record.key"),
    value: typeof value === "string" ? value : null,
    metadata: metadata === undefined || metadata === null ? {} : parseMetadata(metadata),
  };
}
