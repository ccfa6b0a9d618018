import { monitor } from "../../protocol/verbs/monitor.js";
import { mayUse } from "../authorise.js";
import { compileClientRegex } from "../client-regex.js";
import type { Services } from "../services.js";
import type { Session } from "../session.js";
import type { StoredNotification } from "../store/notification-store.js";
import { verb } from "../verb.js";

/** `monitor` turns the connection into one that gets notifications; a second one replaces the first. No reply. */
export const monitorVerb = verb(monitor, true, (command, { session, connection }, services) => {
  const { strict, selfNotifications, multiplexed, epochMillis, regex } = command;
  session.omitPrompt = !multiplexed;
  services.monitors.subscribe(connection, {
    strict,
    selfNotifications,
    epochMs: epochMillis,
    regex: regex === undefined ? undefined : compileClientRegex(regex, "monitor"),
    mayRead: (notification) => mayRead(notification, session, services),
    send: (line) => connection.send(line),
  });
  return { type: "nothing" };
});

/** Also for `notify:list`, `status` and `fetch`. A text has no namespace: an enrolment needs `*` to read one. */
export function mayRead(
  { messageType, key }: Pick<StoredNotification, "messageType" | "key">,
  session: Session,
  { self, enrollments, clock }: Pick<Services, "self" | "enrollments" | "clock">,
): boolean {
  const name = messageType === "text" ? `text${self}` : key;
  return session.authentication !== undefined && mayUse(session, name, "monitor", { enrollments, nowMs: clock.now() });
}
