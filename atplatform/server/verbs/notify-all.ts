import { randomUUID } from "node:crypto";
import type { AtSign } from "../../protocol/at-sign.js";
import { notifyAll } from "../../protocol/verbs/notify-all.js";
import { mayUse, notAuthorised } from "../authorise.js";
import { Refusal } from "../refusal.js";
import type { Reply } from "../reply.js";
import { SHORT_NOTIFICATION_MS } from "../settings.js";
import { verb } from "../verb.js";
import { checkOptions } from "./update.js";

const MAX_RECEIVERS = 1_000;

/** `notify:all`: one notification to several atSigns. Unlike in the reference, as oneself and logged in only. */
export const notifyAllVerb = verb(notifyAll, true, async (command, { session }, services): Promise<Reply> => {
  const { self, clock, commits, notifications, monitors, delivery, enrollments } = services;
  const { to, key, owner = self, messageType, operation, options, value = null } = command;
  checkOptions(options);
  if (owner !== self) throw new Refusal("AT0009", `${owner} is not authorized to send notification as ${self}`);
  if (to.length > MAX_RECEIVERS) throw new Refusal("AT0022", `notify:all has at most ${MAX_RECEIVERS} receivers`);
  const keyFor = (receiver: AtSign): string => `${receiver}:${key}${messageType === "text" ? "" : self}`;
  const name = messageType === "text" ? `text${self}` : `${key}${self}`;
  if (!mayUse(session, name, "write", { enrollments, nowMs: clock.now() }))
    throw notAuthorised(session, `notify key: ${name}`);
  const ids = await commits.write(() =>
    to.map((receiver) => {
      const id = randomUUID();
      const isOwn = receiver === self;
      notifications.add(
        {
          ...{ id, from: self, to: receiver, key: keyFor(receiver), operation, messageType },
          value: messageType === "text" ? null : value,
          type: isOwn ? "received" : "sent",
          ...{ priority: "low", strategy: "all", latestN: 1, notifier: "SYSTEM" },
          metadata: { ...options, ttlMs: options.ttlMs ?? 0, ttbMs: options.ttbMs ?? 0, isEncrypted: false },
          ttlnMs: SHORT_NOTIFICATION_MS,
          status: isOwn ? "delivered" : "queued",
        },
        clock.now(),
      );
      return [receiver, id] as const;
    }),
  );
  for (const receiver of to) if (receiver !== self) delivery.wake(receiver);
  if (to.includes(self)) monitors.notify();
  return { type: "data", payload: JSON.stringify(Object.fromEntries(ids)), blank: true };
});
