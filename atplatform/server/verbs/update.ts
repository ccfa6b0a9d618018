import { checkKeyLength, keyTypeOf, partsOf, type AtKeyType } from "../../protocol/at-key.js";
import type { MetadataOptions } from "../../protocol/metadata-options.js";
import { updateMeta } from "../../protocol/verbs/update-meta.js";
import { update } from "../../protocol/verbs/update.js";
import { autoNotify } from "../auto-notify.js";
import { mayUse, notAuthorised } from "../authorise.js";
import { invalidSyntax, Refusal } from "../refusal.js";
import { data, type Reply } from "../reply.js";
import type { Services } from "../services.js";
import type { Session } from "../session.js";
import { mergeMetadata } from "../store/metadata.js";
import { asRefusal, verb } from "../verb.js";

/** `update` writes a record of the atSign's own, for itself, for another atSign or for everybody. */
export const updateVerb = verb(update, true, ({ key, value, options }, { session }, services) =>
  write(key, { value, options }, session, services),
);

/** `update:meta` writes metadata only; of a record that does not exist, too. */
export const updateMetaVerb = verb(updateMeta, true, ({ key, options }, { session }, services) =>
  write(key, { value: undefined, options }, session, services),
);

interface Change {
  /** `undefined`: keep what is there. */
  readonly value: string | undefined;
  readonly options: MetadataOptions;
}

async function write(key: string, { value, options }: Change, session: Session, services: Services): Promise<Reply> {
  const { self, clock, commits, keys, enrollments, monitors } = services;
  checkOptions(options);
  checkKey(key, self);
  if (!mayUse(session, key, "write", { enrollments, nowMs: clock.now() }))
    throw notAuthorised(session, `update key: ${key}`);
  checkType(key);
  const isText = value !== undefined;
  const { commitId, queued } = await commits.write(() => {
    const nowMs = clock.now();
    const old = keys.get(key);
    const metadata = mergeMetadata(old?.metadata, options, self, nowMs);
    const record = { name: key, value: isText ? value : (old?.value ?? null), metadata };
    const commitId = keys.put(record, isText ? "*" : "#", nowMs);
    return { commitId, queued: autoNotify(key, { operation: "update", value: value ?? null, metadata }, services) };
  });
  if (queued) services.delivery.wake(queued);
  if (commitId >= 0) monitors.changed("update");
  return data(String(commitId));
}

/** @throws a Refusal (AT0003). */
export function checkOptions({ ttlMs = 0, ttbMs = 0, ttrSeconds = 0 }: MetadataOptions): void {
  if (ttlMs < 0) throw invalidSyntax("Valid value for TTL should be greater than or equal to 0");
  if (ttbMs < 0) throw invalidSyntax("Valid value for TTB should be greater than or equal to 0");
  if (ttrSeconds < -1) throw invalidSyntax("Valid values for TTR are -1 and greater than or equal to 1");
}

function checkKey(key: string, self: string): void {
  const at = key.lastIndexOf("@");
  const owner = at > 0 ? key.slice(at) : undefined;
  if (owner !== undefined && owner !== self) {
    const message = `Invalid update command - sharedBy atsign ${owner} should be same as current atsign ${self}`;
    throw new Refusal("AT0016", message);
  }
  try {
    checkKeyLength(key);
  } catch (error) {
    throw asRefusal(error);
  }
}

const TYPE_NAMES: Readonly<Partial<Record<AtKeyType, string>>> = {
  private: "privateKey",
  cachedPublic: "cachedPublicKey",
  cachedShared: "cachedSharedKey",
  local: "localKey",
  invalid: "invalidKey",
};

function checkType(key: string): void {
  const typeName = TYPE_NAMES[keyTypeOf(key)];
  const isOthersCopy = partsOf(key).cached ? "cachedPublicKey" : undefined;
  const refused = typeName ?? isOthersCopy;
  if (refused !== undefined) throw new Refusal("AT0016", `You may not update keys of type KeyType.${refused}`);
}
