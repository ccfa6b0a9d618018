import { keyName, type AtKeyScope } from "./at-key.js";
import { parseAtSign, type AtSign } from "./at-sign.js";
import type { CommandScanner } from "./command-scanner.js";

/** `:public` or `:@bob`, or nothing, before the colon of a key. @throws {AtSignInvalid} */
export function scanScope(scanner: CommandScanner): AtKeyScope {
  if (scanner.skipBeforeColon(":public")) return "public";
  return scanner.skip(":@") ? parseAtSign(scanner.expectWord()) : undefined;
}

/** `@alice`, or nothing. @throws {AtSignInvalid} */
export function scanOwner(scanner: CommandScanner): AtSign | undefined {
  return scanner.skip("@") ? parseAtSign(scanner.expectWord()) : undefined;
}

/** `:phone.wavi[@alice]`, as a full name. @throws {CommandInvalid} when there is no entity. @throws {AtSignInvalid} */
export function scanName(scanner: CommandScanner, scope: AtKeyScope, cached = false): string {
  scanner.expect(":");
  const entity = scanner.expectWord();
  return keyName({ cached, scope, entity, owner: scanOwner(scanner) });
}

/** Where the value of an option is a part of a record: its value, its metadata, or all three. */
export type RecordPart = "value" | "meta" | "all";
