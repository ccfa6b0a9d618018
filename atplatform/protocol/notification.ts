import { parseAtSign, type AtSign } from "./at-sign.js";
import { booleanIn, integerIn, membersOf, parseJson, required, textIn } from "./json.js";
import { dateText, parseDateText } from "./metadata.js";

const TEXT_MEMBERS = ["encKeyName", "encAlgo", "ivNonce", "skeEncKeyName", "skeEncAlgo", "sharedKeyEnc"] as const;

/** What travels with a notification. `sharedKeyEnc` is missing in what the reference atServer replays. */
export type NotificationMetadata = { readonly [Name in (typeof TEXT_MEMBERS)[number]]?: string } & {
  readonly availableAtMs?: number;
  readonly expiresAtMs?: number;
};

/** A line of `monitor` and an entry of `notify:list`. */
export interface Notification {
  /** The sender's; `-1`: a stats notification. */
  readonly id: string;
  readonly from: AtSign;
  readonly to: AtSign;
  /** `@bob:phone.wavi@alice`; in a text message `@bob:` and the text. Not to be trusted: compare with from and to. */
  readonly key: string;
  readonly value: string | null;
  readonly operation: "update" | "delete";
  /** When the receiver's atServer got it. */
  readonly epochMillis: number;
  readonly messageType: "key" | "text";
  readonly isEncrypted: boolean;
  readonly metadata: NotificationMetadata | null;
}

export const STATS_ID = "-1";

/** Tells clients that there is something to sync. `commitId` is -1 when nothing was committed. */
export function statsNotification(
  self: AtSign,
  commitId: number,
  epochMillis: number,
  operation: Notification["operation"],
): Notification {
  return {
    id: STATS_ID,
    from: self,
    to: self,
    key: `statsNotification.${self}`,
    value: String(commitId),
    operation,
    epochMillis,
    messageType: "key",
    isEncrypted: false,
    metadata: null,
  };
}

/**
 * The JSON value, members in the order of the reference; nulls are written.
 *
 * `replay` (also of `notify:list`) has two dates more, the text `null` for an absent one. Unlike the reference it keeps
 * `sharedKeyEnc`: a receiver then decrypts without a look-up, and receivers ignore what they do not know.
 */
export function notificationJson(
  notification: Notification,
  form: "live" | "replay",
): Readonly<Record<string, unknown>> {
  const { id, from, to, key, value, operation, epochMillis, messageType, isEncrypted, metadata } = notification;
  return {
    ...{ id, from, to, key, value, operation, epochMillis },
    messageType: `MessageType.${messageType}`,
    isEncrypted,
    metadata: metadata && {
      ...Object.fromEntries(TEXT_MEMBERS.map((name) => [name, metadata[name] ?? null])),
      ...(form === "replay" && {
        availableAt: dateOrNull(metadata.availableAtMs),
        expiresAt: dateOrNull(metadata.expiresAtMs),
      }),
    },
  };
}

const dateOrNull = (epochMs: number | undefined): string => (epochMs === undefined ? "null" : dateText(epochMs));

/** The line for a monitor, without line end. */
export const formatNotification = (notification: Notification, form: "live" | "replay"): string =>
  `notification: ${JSON.stringify(notificationJson(notification, form))}`;

/** Reads the body of a `notification` frame. @throws {SyntaxInvalid} */
export const parseNotification = (text: string): Notification =>
  notificationFromJson(parseJson(text.trim(), "notification"));

/**
 * Takes every form that atServers send: with and without metadata, `MessageType.` before the type, numbers as texts.
 *
 * @throws {SyntaxInvalid} when something that is needed is missing; a notification to drop, not a reason to stop.
 */
export function notificationFromJson(json: unknown): Notification {
  const members = membersOf(json, "notification");
  const text = (name: string): string => required(textIn(members, name), `notification.${name}`);
  const value = members.get("value");
  const metadata = members.get("metadata");
  return {
    id: text("id"),
    from: parseAtSign(text("from")),
    to: parseAtSign(text("to")),
    key: text("key"),
    value: typeof value === "string" ? value : null,
    operation: text("operation").toLowerCase().endsWith("delete") ? "delete" : "update",
    epochMillis: required(integerIn(members, "epochMillis"), "notification.epochMillis"),
    messageType: (textIn(members, "messageType") ?? "").toLowerCase().endsWith("text") ? "text" : "key",
    // An atServer that says nothing means encrypted (atserver.md, 3.13).
    isEncrypted: booleanIn(members, "isEncrypted") ?? true,
    metadata: metadata === undefined || metadata === null ? null : parseNotificationMetadata(metadata),
  };
}

function parseNotificationMetadata(json: unknown): NotificationMetadata {
  const members = membersOf(json, "notification.metadata");
  const availableAtMs = parseDateText(textIn(members, "availableAt") ?? "");
  const expiresAtMs = parseDateText(textIn(members, "expiresAt") ?? "");
  return {
    ...Object.fromEntries(
      TEXT_MEMBERS.flatMap((name) => {
        const value = textIn(members, name);
        return value === undefined ? [] : [[name, value]];
      }),
    ),
    ...(availableAtMs !== undefined && { availableAtMs }),
    ...(expiresAtMs !== undefined && { expiresAtMs }),
  };
}
