import { randomUUID } from "node:crypto";
import { partsOf } from "../protocol/at-key.js";
import type { AtSign } from "../protocol/at-sign.js";
import type { Services } from "./services.js";
import { SHORT_NOTIFICATION_MS } from "./settings.js";
import { optionsOf, type StoredMetadata } from "./store/metadata.js";

export type SharedChange =
  | { readonly operation: "update"; readonly value: string | null; readonly metadata: StoredMetadata }
  | { readonly operation: "delete"; readonly priority: "low" | "medium" | "high" };

/**
 * Queues a notification for the atSign that a record is shared with (spec 3.6, 3.11), in the write that changes the
 * record. Gives the atSign whose delivery is to be woken, if any.
 */
export function autoNotify(key: string, change: SharedChange, services: Services): AtSign | undefined {
  const { self, settings, notifications, clock } = services;
  const { type, sharedWith, cached } = partsOf(key);
  if (!settings.autoNotify || cached || sharedWith === undefined || sharedWith === self) return undefined;
  if (type !== "shared" && type !== "reserved") return undefined;
  const isUpdate = change.operation === "update";
  const notification = {
    id: randomUUID(),
    type: "sent",
    from: self,
    to: sharedWith,
    key,
    value: isUpdate ? change.value : null,
    operation: change.operation,
    messageType: "key",
    priority: isUpdate ? "low" : change.priority,
    strategy: "all",
    latestN: 1,
    notifier: "system",
    metadata: isUpdate ? optionsOf(change.metadata) : {},
    ttlnMs: isUpdate ? settings.notificationExpiryMs : SHORT_NOTIFICATION_MS,
    status: "queued",
  } as const;
  notifications.add(notification, clock.now());
  return sharedWith;
}
