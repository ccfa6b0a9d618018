import { SyntaxInvalid } from "../../core/errors.js";
import { parseAtSign, type AtSign } from "./at-sign.js";

declare const atKeyBrand: unique symbol;

/**
 * The full name of a record as an atServer stores it, e.g. `@bob:phone.wavi@alice`: lower-case, no blanks, of a known
 * type and within the length limit. Comes from {@link parseAtKey} and {@link makeAtKey} only.
 */
export type AtKey = string & { readonly [atKeyBrand]: true };

/** A name that no atServer would store. An atServer answers it with AT0016. */
export class AtKeyInvalid extends SyntaxInvalid {
  override readonly code: string = "AT_KEY_INVALID";
}

export type AtKeyType =
  "reserved" | "public" | "private" | "self" | "shared" | "cachedPublic" | "cachedShared" | "local" | "invalid";

/** Who may see a record: everybody, one other atSign, or (`undefined`) only its owner. */
export type AtKeyScope = "public" | AtSign | undefined;

export interface AtKeyParts {
  readonly type: AtKeyType;
  readonly cached: boolean;
  /** What stands before the entity: `private` and `local` names never leave the server or the client. */
  readonly visibility: "public" | "private" | "local" | "shared" | "self";
  /** The atSign before the entity, also when it is the owner's own. */
  readonly sharedWith: AtSign | undefined;
  /** The name between scope and owner, with its namespace: `phone.wavi`. */
  readonly entity: string;
  /** What follows the last dot of the entity. */
  readonly namespace: string | undefined;
  /** Reserved names such as `privatekey:at_secret` have none. */
  readonly owner: AtSign | undefined;
}

/** In characters (UTF-16 units). */
export const MAX_KEY_LENGTH = 248;
export const MAX_CACHED_KEY_LENGTH = 255;
const MAX_ATSIGN_IN_KEY = 55;

// U+1F000 to U+1FBFF are the surrogate pairs whose lead is D83C, D83D or D83E. Searching for the first character that
// does not belong needs no backtracking, however long the name is.
const EMOJI = "\\u00a9\\u00ae\\u2000-\\u3300\\ufe00-\\ufe0f\\u{1f000}-\\u{1fbff}";
const NOT_IN_ENTITY = new RegExp(`[^\\w.\\-'*"${EMOJI}]`, "u");
const NOT_IN_ATSIGN = new RegExp(`[^\\w\\-${EMOJI}]`, "u");
const RESERVED_WITHOUT_OWNER = new Set([
  "configkey",
  ...[
    ...["at_pkam_publickey", "at_pkam_privatekey", "privatekey", "self_encryption_key", "at_secret"],
    ...["at_secret_deleted", "signing_keypair_generated", "commitlogcompactionstats", "accesslogcompactionstats"],
    "notificationcompactionstats",
  ].map((name) => `privatekey:${name}`),
]);

/** A name as an atServer stores and looks it up: lower-case, all blanks removed (4.4). */
export const normaliseKeyName = (text: string): string => text.replaceAll(/\s+/gu, "").toLowerCase();

/**
 * @throws {AtKeyInvalid} on a name of no known type or over the length limit; the message is for AT0016.
 * @see atserver.md, 4.1 to 4.4
 */
export function parseAtKey(text: string): AtKey {
  const name = normaliseKeyName(text);
  checkKeyLength(name);
  if (keyTypeOf(name) === "invalid") throw new AtKeyInvalid(`not an atKey: ${JSON.stringify(name)}`);
  return name as AtKey;
}

/** Joins scope, entity (with its namespace) and owner. @throws {AtKeyInvalid} as {@link parseAtKey}. */
export function makeAtKey(parts: {
  readonly cached?: boolean;
  readonly scope?: AtKeyScope;
  readonly entity: string;
  readonly owner: AtSign;
}): AtKey {
  return parseAtKey(keyName(parts));
}

/** The same without the check, for names that a peer gave and that are only looked up. */
export function keyName(parts: {
  readonly cached?: boolean;
  readonly scope?: AtKeyScope;
  readonly entity: string;
  readonly owner?: AtSign | undefined;
}): string {
  const { cached = false, scope, entity, owner = "" } = parts;
  return normaliseKeyName(`${cached ? "cached:" : ""}${scope === undefined ? "" : `${scope}:`}${entity}${owner}`);
}

/** @throws {AtKeyInvalid} with the words of the reference atServer. */
export function checkKeyLength(name: string): void {
  const max = name.startsWith("cached:") ? MAX_CACHED_KEY_LENGTH : MAX_KEY_LENGTH;
  if (name.length > max) throw new AtKeyInvalid(`key length ${name.length} is greater than max allowed ${max} chars`);
}

/** The type of a full name, `invalid` included. The length limit is not looked at. */
export function keyTypeOf(name: string): AtKeyType {
  return partsOf(name).type;
}

/** Takes a full name apart. Of a name of type `invalid` the parts are what could be made out. */
export function partsOf(name: string): AtKeyParts {
  const lower = name.toLowerCase();
  const cached = lower.startsWith("cached:");
  const uncached = cached ? lower.slice("cached:".length) : lower;
  const at = uncached.lastIndexOf("@");
  const hasOwner = at > 0;
  const named = hasOwner ? uncached.slice(0, at) : uncached;
  const scopeEnd = named.lastIndexOf(":");
  const scope = named.slice(0, Math.max(scopeEnd, 0));
  const entity = named.slice(scopeEnd + 1);
  const dot = entity.lastIndexOf(".");
  const rest = {
    cached,
    visibility: visibilityOf(scope),
    sharedWith: atSignIn(scope.startsWith("private:") ? scope.slice("private:".length) : scope),
    entity,
    namespace: dot === -1 || dot === entity.length - 1 ? undefined : entity.slice(dot + 1),
    owner: hasOwner ? atSignIn(uncached.slice(at)) : undefined,
  };
  return { type: isReserved(lower) ? "reserved" : typeOf(rest, scope), ...rest };
}

type Untyped = Omit<AtKeyParts, "type">;

function typeOf({ cached, visibility, sharedWith, entity, owner }: Untyped, scope: string): AtKeyType {
  if (owner === undefined || entity === "" || NOT_IN_ENTITY.test(entity)) return "invalid";
  switch (visibility) {
    case "public":
      return cached ? "cachedPublic" : "public";
    case "shared":
      if (sharedWith === undefined) return "invalid";
      if (cached) return "cachedShared";
      return sharedWith === owner ? "self" : "shared";
    case "self":
      return cached || scope !== "" ? "invalid" : "self";
    case "local":
      return cached ? "invalid" : "local";
    case "private":
      return cached || (scope !== "private" && sharedWith === undefined) ? "invalid" : "private";
  }
}

function visibilityOf(scope: string): AtKeyParts["visibility"] {
  if (scope === "public" || scope === "local") return scope;
  if (scope === "private" || scope.startsWith("private:")) return "private";
  return scope.startsWith("@") ? "shared" : "self";
}

function atSignIn(text: string): AtSign | undefined {
  const bare = text.slice(1);
  const fits = text.startsWith("@") && bare !== "" && bare.length <= MAX_ATSIGN_IN_KEY && !NOT_IN_ATSIGN.test(bare);
  return fits ? parseWhenValid(text) : undefined;
}

// The character class of the key grammar admits a few that no atSign has, such as U+2028 and U+2424.
function parseWhenValid(text: string): AtSign | undefined {
  try {
    return parseAtSign(text);
  } catch {
    return undefined;
  }
}

/**
 * Names with a meaning of their own (4.3), compared whole. The reference compares them partially, so that there
 * `@bob:telemetry.shared_key.wavi@alice` is reserved and open to every enrolment.
 */
function isReserved(name: string): boolean {
  if (RESERVED_WITHOUT_OWNER.has(name) || (name.startsWith("_") && !name.includes("@"))) return true;
  const at = name.lastIndexOf("@");
  const owner = at > 0 ? atSignIn(name.slice(at)) : undefined;
  if (owner === undefined) return false;
  const named = name.slice(0, at);
  if (["private:blocklist", "public:signing_publickey", "public:publickey"].includes(named)) return true;
  if (named === `${owner}:signing_privatekey`) return true;
  if (named.startsWith("@") && named.endsWith(":shared_key"))
    return atSignIn(named.slice(0, -":shared_key".length)) !== undefined;
  return named.startsWith("shared_key.") && atSignIn(`@${named.slice("shared_key.".length)}`) !== undefined;
}
