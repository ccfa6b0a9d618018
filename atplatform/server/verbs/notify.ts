import { randomUUID } from "node:crypto";
import { checkKeyLength, normaliseKeyName } from "../../protocol/at-key.js";
import type { AtSign } from "../../protocol/at-sign.js";
import type { MetadataOptions } from "../../protocol/metadata-options.js";
import { notify, type Notify } from "../../protocol/verbs/notify.js";
import { mayUse, notAuthorised } from "../authorise.js";
import { invalidSyntax, Refusal } from "../refusal.js";
import { data, type Reply } from "../reply.js";
import type { Services } from "../services.js";
import { peerOf, type Session } from "../session.js";
import type { NewNotification } from "../store/notification-store.js";
import { verb } from "../verb.js";
import { checkOptions } from "./update.js";

const MAX_ID_LENGTH = 248;

/** `notify` tells another atSign: from our client it is queued, from a peer's atServer it is stored and shown. */
export const notifyVerb = verb(notify, false, (command, { session }, services) => {
  const peer = peerOf(session);
  if (peer !== undefined) return receive(command, peer, services);
  if (!session.authentication) throw new Refusal("AT0401", "Notify command cannot be executed without authentication");
  return send(command, session, services);
});

async function send(command: Notify, session: Session, services: Services): Promise<Reply> {
  const { self, clock, commits, notifications, enrollments, monitors, delivery } = services;
  const { to, owner = self, strategy = "all", notifier } = command;
  checkOptions(command.options);
  if (owner !== self) throw new Refusal("AT0009", `${owner} is not authorized to send notification as ${self}`);
  if (strategy === "latest" && notifier === undefined)
    throw invalidSyntax("For Strategy latest, notifier cannot be null");
  if (to === undefined) throw invalidSyntax("a notification needs a receiver");
  if (command.messageType === "text" && command.value !== undefined) {
    // The grammar ends a text at `::` or `@`; the reference loses what follows, without a word.
    throw invalidSyntax("a text message contains no :: and nothing after an @");
  }
  const key = notificationKey(command, to, self);
  if (!mayUse(session, authorisedAs(command, key, self), "write", { enrollments, nowMs: clock.now() })) {
    throw notAuthorised(session, `notify key: ${key}`);
  }
  const isOwn = to === self;
  const notification = { ...toStored(command, key, self, services), to, type: isOwn ? "received" : "sent" } as const;
  await commits.write(() =>
    notifications.add({ ...notification, status: isOwn ? "delivered" : "queued" }, clock.now()),
  );
  if (isOwn) monitors.notify();
  else delivery.wake(to);
  return data(notification.id);
}

/** Our grammar takes a key from a peer for what it says; only the peer's own keys, meant for us, are believed. */
async function receive(command: Notify, peer: AtSign, services: Services): Promise<Reply> {
  const { self, clock, commits, notifications, monitors } = services;
  const { messageType, owner = peer, to = self } = command;
  if (messageType === "key" && (owner !== peer || to !== self)) {
    throw new Refusal("AT0009", `${peer} is not authorized to send notification as ${owner} to ${to}`);
  }
  if (to !== self) throw new Refusal("AT0009", `this is the atServer of ${self}`);
  const key = notificationKey(command, self, peer);
  const notification = {
    ...toStored(command, key, peer, services),
    to: self,
    type: "received",
    status: "queued",
  } as const;
  const known = notifications.get(notification.id, peer);
  // A repeat after a lost acknowledgement: monitors have seen it.
  const isRepeat = known?.key === key && known.value === notification.value;
  const stored = isRepeat ? undefined : commits.write(() => void notifications.add(notification, clock.now()));
  await Promise.all([stored, messageType === "key" ? keepCopy(command, key, peer, services) : undefined]);
  if (!isRepeat) monitors.notify();
  return data("success");
}

/** The copy of a record that its owner lets us keep (spec 3.13, receiving side). */
async function keepCopy(command: Notify, key: string, owner: AtSign, services: Services): Promise<void> {
  const { cache, keys } = services;
  const { operation, options, value } = command;
  if (operation === "update" && (options.ttrSeconds ?? 0) === 0) return;
  const name = `cached:${normaliseKeyName(key)}`;
  try {
    checkKeyLength(name);
  } catch (cause) {
    throw new Refusal("AT0016", `notification key length ${name.length} is greater than 255 chars`, { cause });
  }
  const copy = keys.get(name);
  if (operation === "delete") {
    if (copy?.metadata.ccd === true) await cache.remove(name);
  } else if (value !== undefined || copy) {
    await cache.put(name, value ?? copy?.value ?? null, options, owner, value === undefined ? "#" : "*");
  }
}

function toStored(
  command: Notify,
  key: string,
  from: AtSign,
  { settings }: Services,
): Omit<NewNotification, "type" | "to" | "status"> {
  const { id = randomUUID(), operation, messageType, ttlnMs = 0 } = command;
  if (id.length > MAX_ID_LENGTH) throw invalidSyntax(`a notification id has at most ${MAX_ID_LENGTH} characters`);
  return {
    ...{ id, from, key, operation, messageType },
    value: messageType === "text" ? null : (command.value ?? null),
    priority: command.priority ?? "low",
    strategy: command.strategy ?? "all",
    latestN: Math.max(command.latestN ?? 1, 1),
    notifier: command.notifier ?? "SYSTEM",
    metadata: metadataOf(command),
    ttlnMs: ttlnMs === 0 ? settings.notificationExpiryMs : ttlnMs,
  };
}

/** A key is taken as encrypted unless its sender says otherwise, a text as not (spec 3.13). */
function metadataOf({ operation, messageType, key, value, options }: Notify): MetadataOptions {
  const { ttrSeconds, ccd, ...rest } = options;
  const keepsCopy = operation === "delete" || value !== undefined;
  const isEncrypted =
    messageType === "text"
      ? (options.isEncrypted ?? false)
      : !key.startsWith("public:") && options.isEncrypted !== false;
  return {
    ...rest,
    ttlMs: options.ttlMs ?? 0,
    ttbMs: options.ttbMs ?? 0,
    ...(keepsCopy && ttrSeconds !== undefined && { ttrSeconds }),
    ...(keepsCopy && ccd !== undefined && { ccd }),
    isEncrypted,
  };
}

/** As monitors show it. Public keys stand without receiver; case is kept. */
function notificationKey({ messageType, key, to }: Notify, receiver: AtSign, owner: AtSign): string {
  if (messageType === "text") return `${receiver}:${key}`;
  if (key.startsWith("public:")) return `${key}${owner}`;
  return to === undefined ? `public:${key}${owner}` : `${receiver}:${key}${owner}`;
}

/** A text has no namespace: an enrolment needs `*` to send one. */
const authorisedAs = ({ messageType }: Notify, key: string, self: AtSign): string =>
  messageType === "text" ? `text${self}` : key;
