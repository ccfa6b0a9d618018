import { formatStats, stats, type Stat } from "../../protocol/verbs/stats.js";
import { dateText } from "../../protocol/metadata.js";
import { enrollmentOf } from "../authorise.js";
import { compileClientRegex, type ClientRegex } from "../client-regex.js";
import { invalidSyntax } from "../refusal.js";
import type { Reply } from "../reply.js";
import type { Services } from "../services.js";
import type { Session } from "../session.js";
import { VERSION } from "../settings.js";
import { verb } from "../verb.js";
import { isSynced, isVisible } from "./sync.js";

interface Asked {
  readonly services: Services;
  readonly session: Session;
  readonly pattern: ClientRegex | undefined;
}

const TOP = 5;
/** Keys with a value of their own in `stats:15`, which clients use in tests only. */
const MAX_LATEST_ENTRIES = 10_000;

/** Name and value of each statistic, by id (spec 3.22). */
const STATS: readonly (readonly [id: number, name: string, value: (asked: Asked) => unknown])[] = [
  [1, "activeInboundConnections", ({ services }) => String(services.connections.size)],
  [2, "activeOutboundConnections", ({ services }) => String(services.peers.size)],
  [3, "lastCommitID", lastCommitId],
  [4, "secondaryStorageSize", ({ services }) => services.storageBytes()],
  [5, "topAtSigns", ({ services }) => JSON.stringify(Object.fromEntries(services.visits.top("atSign", TOP)))],
  [6, "topKeys", ({ services }) => JSON.stringify(Object.fromEntries(services.visits.top("key", TOP)))],
  [7, "secondaryServerVersion", () => VERSION],
  [8, "LastLoggedInDatetime", lastLogin],
  [9, "diskSize", ({ services }) => JSON.stringify(inUnits(services.storageBytes()))],
  [10, "LastPkam", lastLogin],
  [11, "NotificationCount", ({ services }) => JSON.stringify(notificationCounts(services))],
  [12, "CommitLogCompactionStats", ({ services }) => services.compactions.textOf("AtCommitLog")],
  [13, "AccessLogCompactionStats", ({ services }) => services.compactions.textOf("AtAccessLog")],
  [14, "NotificationCompactionStats", ({ services }) => services.compactions.textOf("AtNotificationKeystore")],
  [15, "LatestCommitEntryOfEachKey", latestEntries],
];

/** `stats`: figures about the server; clients that sync read number 3. */
export const statsVerb = verb(stats, true, ({ ids, regex }, { session }, services): Reply => {
  const pattern = regex === undefined ? undefined : compileClientRegex(regex);
  const asked = { services, session, pattern };
  const chosen = ids.length === 0 ? STATS : ids.map((id) => STATS.find(([known]) => known === id) ?? unknown(id));
  const entries = chosen.map(([id, name, value]): Stat => ({ id, name, value: value(asked) }));
  return { type: "data", payload: formatStats(entries), blank: true };
});

function unknown(id: number): never {
  throw invalidSyntax(`there is no statistic ${id}`);
}

/** The text `null` when there is none. An enrolment is told of what it may sync only. */
function lastCommitId({ services, session, pattern }: Asked): string {
  const { keys, enrollments, clock } = services;
  const enrollment = enrollmentOf(session, enrollments, clock.now());
  if (pattern === undefined && enrollment === "none") return keys.lastCommitId < 0 ? "null" : String(keys.lastCommitId);
  for (const change of keys.changesNewestFirst()) {
    if (isSynced(change, pattern) && isVisible(change, enrollment)) return String(change.commitId);
  }
  return "null";
}

function lastLogin({ services: { visits } }: Asked): string {
  return visits.lastLoginMs === undefined ? "Not Available" : dateText(visits.lastLoginMs);
}

function inUnits(bytes: number): { size: string; units: string } {
  const units = ["B", "KB", "MB", "GB"];
  const power = Math.min(Math.floor(Math.log2(Math.max(bytes, 1)) / 10), units.length - 1);
  return { size: (bytes / 1024 ** power).toFixed(2), units: units[power] ?? "B" };
}

function notificationCounts({ notifications, clock }: Services): Readonly<Record<string, unknown>> {
  const [types, statuses, operations, messageTypes] = (["type", "status", "operation", "message_type"] as const).map(
    (name) => notifications.countBy(name),
  );
  const of = (counts: ReadonlyMap<string, number> | undefined, name: string): number => counts?.get(name) ?? 0;
  return {
    total: [...(types?.values() ?? [])].reduce((sum, count) => sum + count, 0),
    type: { sent: of(types, "sent"), received: of(types, "received") },
    status: { delivered: of(statuses, "delivered"), failed: of(statuses, "errored"), queued: of(statuses, "queued") },
    operations: { update: of(operations, "update"), delete: of(operations, "delete") },
    messageType: { key: of(messageTypes, "key"), text: of(messageTypes, "text") },
    createdOn: clock.now(),
  };
}

function latestEntries({ services, session, pattern }: Asked): string {
  const { keys, enrollments, clock } = services;
  const enrollment = enrollmentOf(session, enrollments, clock.now());
  const latest: Record<string, readonly [commitId: number, operation: string]> = {};
  let count = 0;
  for (const change of keys.changesNewestFirst()) {
    if (!isSynced(change, pattern) || !isVisible(change, enrollment)) continue;
    latest[change.name] = [change.commitId, change.operation];
    count += 1;
    if (count >= MAX_LATEST_ENTRIES) break;
  }
  return JSON.stringify(latest);
}
