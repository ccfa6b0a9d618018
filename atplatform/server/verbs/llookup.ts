import { formatRecord } from "../../protocol/record.js";
import { metadataJson } from "../../protocol/metadata.js";
import type { RecordPart } from "../../protocol/key-grammar.js";
import { llookup } from "../../protocol/verbs/llookup.js";
import { mayUse, notAuthorised } from "../authorise.js";
import { keyNotFound } from "../refusal.js";
import { data, json, type Reply } from "../reply.js";
import { isActive, type KeyRecord } from "../store/key-store.js";
import { verb } from "../verb.js";

/** `llookup` reads a record of this server's store by its exact name. */
export const llookupVerb = verb(llookup, true, ({ part, key }, { session }, { clock, keys, enrollments }) => {
  const nowMs = clock.now();
  const isPublic = key.startsWith("public:");
  if (!isPublic && !mayUse(session, key, "read", { enrollments, nowMs }))
    throw notAuthorised(session, `llookup key: ${key}`);
  const record = keys.get(key);
  if (!record) throw keyNotFound(key);
  return isActive(record, nowMs) ? showRecord(record, part) : data(null);
});

export function showRecord({ name, value, metadata }: KeyRecord, part: RecordPart): Reply {
  switch (part) {
    case "value":
      return data(value);
    case "meta":
      return json(metadataJson(metadata));
    case "all":
      return data(formatRecord({ key: name, value, metadata }));
  }
}
