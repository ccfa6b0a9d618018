import { backoff } from "../core/backoff.js";
import type { Clock } from "../core/clock.js";
import { EdgeError } from "../core/errors.js";
import type { JsonObject } from "../messages/json-field.js";
import { PeerKeyChanged, type PeerTrust } from "../messages/peer-trust.js";
import { openSealed, SealInvalid } from "../messages/seal.js";
import { PlatformUnavailable, type Incoming } from "./platform.js";

/** Why a notification in the owner's name is not taken. */
export type RefusedReason =
  | "not-encrypted"
  | "undecryptable" // not encrypted with a key that we share with the owner, or changed on the way
  | "key-not-proven" // the owner has not signed for this AES key: someone swapped it
  | "bad-seal" // changed on the way, or moved from another key
  | "malformed" // sealed by the owner, but not what docs/reference/messages.md describes
  | "unavailable"; // its key could not be looked up, after some tries

/** A message that is not what it claims to be, or cannot be checked. */
export class MessageRefused extends EdgeError {
  override readonly code = "MESSAGE_REFUSED";
  readonly reason: RefusedReason;

  constructor(reason: RefusedReason, cause: EdgeError | undefined) {
    super(cause?.message ?? reason, { cause });
    this.reason = reason;
  }
}

const TRIES = 5;

/**
 * The text of an owner's notification, opened: decrypted, its AES key proven against the pin, its seal checked over the
 * bytes as they came. The caller has checked sender and key name before.
 *
 * @throws {MessageRefused} @throws {PeerKeyChanged}
 */
export async function openIncoming(
  incoming: Incoming,
  { trust, clock }: { readonly trust: PeerTrust; readonly clock: Clock },
  signal: AbortSignal,
): Promise<JsonObject> {
  if (!incoming.isEncrypted) throw new MessageRefused("not-encrypted", undefined);
  let tries = 0;
  for (const waitMs of backoff({ firstMs: 500, maxMs: 10_000 })) {
    try {
      return await openOnce(incoming, trust, signal);
    } catch (error) {
      if (!(error instanceof PlatformUnavailable)) throw error;
      if (++tries === TRIES) throw new MessageRefused("unavailable", error);
    }
    await clock.sleep(waitMs, signal);
  }
  throw new Error("a backoff has no end");
}

/** Reads what was opened. @throws {MessageRefused} "malformed" */
export function parseOpened<T>(parse: () => T): T {
  return orRefused("malformed", parse);
}

async function openOnce(incoming: Incoming, trust: PeerTrust, signal: AbortSignal): Promise<JsonObject> {
  const { text, aesKey } = await incoming.decrypt(signal).catch((error: unknown) => {
    if (error instanceof PlatformUnavailable || !(error instanceof EdgeError)) throw error;
    throw new MessageRefused("undecryptable", error);
  });
  await trust.vouchedKeyOf(incoming.from, aesKey, signal).catch((error: unknown) => {
    // Whatever else an atServer gives in the place of a proof proves nothing; it must not end us either.
    const passes = error instanceof PeerKeyChanged || error instanceof PlatformUnavailable;
    if (passes || !(error instanceof EdgeError)) throw error;
    throw new MessageRefused("key-not-proven", error);
  });
  return orRefused("bad-seal", () => openSealed(text, incoming.atKey, aesKey), SealInvalid);
}

function orRefused<T>(reason: RefusedReason, work: () => T, kind: typeof EdgeError = EdgeError): T {
  try {
    return work();
  } catch (error) {
    if (error instanceof kind) throw new MessageRefused(reason, error);
    throw error;
  }
}
