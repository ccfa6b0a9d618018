import { dateText } from "../../protocol/metadata.js";
import { notificationJson } from "../../protocol/notification.js";
import { notifyFetch, notifyRemove, notifyStatus } from "../../protocol/verbs/notify-by-id.js";
import { notifyList } from "../../protocol/verbs/notify-list.js";
import { mayUse, notAuthorised } from "../authorise.js";
import { compileClientRegex } from "../client-regex.js";
import { matches, toWire } from "../monitors.js";
import { Refusal } from "../refusal.js";
import { data, json } from "../reply.js";
import { peerOf } from "../session.js";
import type { StoredNotification } from "../store/notification-store.js";
import { verb } from "../verb.js";
import { mayRead } from "./monitor.js";

const DAY_MS = 24 * 60 * 60_000;

/** `notify:list`: what was received and has not expired; the text `null` when there is nothing. */
export const notifyListVerb = verb(notifyList, false, ({ fromDate, toDate, regex }, { session }, services) => {
  if (!session.authentication) return data(null);
  const { notifications, clock } = services;
  const fromMs = fromDate === undefined ? 0 : Date.parse(fromDate);
  const toMs = toDate === undefined ? Number.MAX_SAFE_INTEGER : Date.parse(toDate) + DAY_MS - 1;
  const pattern = regex === undefined ? undefined : compileClientRegex(regex);
  const found = notifications
    .received(fromMs, toMs, clock.now())
    .filter((notification) => matches(notification, pattern) && mayRead(notification, session, services))
    .map((notification) => notificationJson(toWire(notification), "replay"));
  return found.length === 0 ? data(null) : json(found);
});

/** `notify:status`. A peer learns about what it sent itself, and nothing else. */
export const notifyStatusVerb = verb(notifyStatus, false, ({ id }, { session }, services) => {
  const { notifications, clock } = services;
  const peer = peerOf(session);
  if (!session.authentication && peer === undefined) {
    throw new Refusal("AT0401", "Command cannot be executed without auth");
  }
  const notification = peer === undefined ? notifications.find(id) : notifications.get(id, peer);
  if (!notification) return data(null);
  if (peer === undefined && !mayRead(notification, session, services)) {
    throw notAuthorised(session, `fetch notify key: ${notification.key}`);
  }
  return data(statusOf(notification, clock.now()));
});

/** `notify:fetch`: one notification, every value a text. */
export const notifyFetchVerb = verb(notifyFetch, true, ({ id }, { session }, services) => {
  const { notifications, clock } = services;
  const notification = notifications.find(id);
  if (!notification) return json({ id, notificationStatus: "NotificationStatus.expired" });
  if (!mayRead(notification, session, services)) throw notAuthorised(session, `fetch notify key: ${notification.key}`);
  return json(asTexts(notification, clock.now()));
});

/** `notify:remove`: forgets a notification, and succeeds also when it is not known. */
export const notifyRemoveVerb = verb(notifyRemove, true, async ({ id }, { session }, services) => {
  const { self, notifications, commits, enrollments, clock } = services;
  const notification = notifications.find(id);
  if (notification) {
    const name = notification.messageType === "text" ? `text${self}` : notification.key;
    if (!mayUse(session, name, "write", { enrollments, nowMs: clock.now() })) {
      throw notAuthorised(session, `remove notify key: ${notification.key}`);
    }
    await commits.write(() => notifications.remove(id));
  }
  return data("success");
});

const statusOf = ({ expiresAtMs, status }: StoredNotification, nowMs: number): string =>
  expiresAtMs <= nowMs ? "expired" : status;

function asTexts(notification: StoredNotification, nowMs: number): Readonly<Record<string, string>> {
  const { id, from, to, key, type, operation, messageType, priority, strategy, latestN, notifier } = notification;
  const metadata = Object.entries(notification.metadata).map(([name, value]) => `${name}: ${String(value)}`);
  return {
    id,
    fromAtSign: from,
    notificationDateTime: dateText(notification.atMs),
    toAtSign: to,
    notification: key,
    type: `NotificationType.${type}`,
    opType: `OperationType.${operation}`,
    messageType: `MessageType.${messageType}`,
    priority: `NotificationPriority.${priority}`,
    notificationStatus: `NotificationStatus.${statusOf(notification, nowMs)}`,
    retryCount: String(notification.attempts + 1),
    strategy,
    depth: String(latestN),
    notifier,
    expiresAt: dateText(notification.expiresAtMs),
    atValue: notification.value ?? "null",
    // A map as Dart prints it; clients do not read it.
    atMetadata: `{${metadata.join(", ")}}`,
    ttl: String(notification.ttlnMs),
  };
}
