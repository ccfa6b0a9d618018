import { partsOf } from "../protocol/at-key.js";
import type { AtSign } from "../protocol/at-sign.js";

/** A record by name. Whose it is and who may read it are told apart here; the wire has one name for both. */
export interface RecordName {
  /** Entity with its namespace, e.g. `phone.wavi`. */
  readonly key: string;
  /** Who may read it: everybody, one other atSign or, left out, only its owner; of another's record: we. */
  readonly for?: "public" | AtSign;
  /** The owner, ourselves when left out. */
  readonly by?: AtSign;
}

/**
 * The name of an application's record from its full name, as `scan` lists it: `@bob:phone.wavi@alice`. A copy of
 * another's record has the name of the original. `undefined` for what is not an application's, such as shared keys.
 */
export function recordNameOf(fullName: string, own: AtSign): RecordName | undefined {
  const { type, visibility, sharedWith, entity, owner } = partsOf(fullName.replace(/^cached:/u, ""));
  if (owner === undefined || !["public", "self", "shared"].includes(type)) return undefined;
  const by = owner === own ? {} : { by: owner };
  if (visibility === "public") return { key: entity, for: "public", ...by };
  return owner === own && sharedWith !== undefined && sharedWith !== own
    ? { key: entity, for: sharedWith }
    : { key: entity, ...by };
}
