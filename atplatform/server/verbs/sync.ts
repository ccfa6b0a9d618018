import { keyTypeOf, partsOf } from "../../protocol/at-key.js";
import { formatSyncEntry, syncFrom } from "../../protocol/verbs/sync-from.js";
import { enrollmentOf, showsInSync } from "../authorise.js";
import { compileClientRegex, type ClientRegex } from "../client-regex.js";
import { data } from "../reply.js";
import type { Enrollment } from "../store/enrollment-store.js";
import type { Change } from "../store/key-store.js";
import { verb } from "../verb.js";

/**
 * `sync:from`: the newest change of every key after a commit id. Filtered first, paged after: an empty page tells Dart
 * clients that there is no more (spec 3.12).
 */
export const syncVerb = verb(syncFrom, true, ({ commitId, limit, regex }, { session }, services) => {
  const { keys, settings, enrollments, clock } = services;
  const enrollment = enrollmentOf(session, enrollments, clock.now());
  const pattern = regex === undefined ? undefined : compileClientRegex(regex);
  const maxEntries = Math.max(1, Math.min(limit, settings.syncPageEntries));
  const entries: string[] = [];
  let bytes = 0;
  for (const change of keys.changesAfter(commitId)) {
    if (!isSynced(change, pattern) || !isVisible(change, enrollment)) continue;
    const entry = toEntry(change);
    bytes += Buffer.byteLength(entry);
    if (entries.length > 0 && bytes > settings.syncPageBytes) break;
    entries.push(entry);
    if (entries.length >= maxEntries) break;
  }
  return data(`[${entries.join(",")}]`);
});

/** What a client needs whatever it filters for: public keys and the keys that it shares with others. */
export function isAlwaysSynced(name: string): boolean {
  if (name.startsWith("public:publickey") || (name.startsWith("public:") && !name.includes("."))) return true;
  return name.includes("shared_key") && keyTypeOf(name) === "reserved";
}

export function isSynced({ name, operation, record }: Change, pattern: ClientRegex | undefined): boolean {
  if (operation !== "-" && !record) return false;
  if (partsOf(name).type === "invalid") return false;
  return pattern === undefined || isAlwaysSynced(name) || pattern.test(name);
}

export const isVisible = ({ name }: Change, enrollment: Enrollment | "none" | undefined): boolean =>
  enrollment === "none" || (enrollment !== undefined && showsInSync(enrollment, name));

const toEntry = ({ commitId, name, operation, record }: Change): string =>
  operation === "-" || !record
    ? formatSyncEntry({ key: name, value: null, metadata: null, commitId, operation })
    : formatSyncEntry({ key: name, value: record.value, metadata: record.metadata, commitId, operation });
