import { SyntaxInvalid } from "../../core/errors.js";

declare const atSignBrand: unique symbol;

/** A canonical atSign: lower-case, without dots, with one leading `@`. Comes from {@link parseAtSign} only. */
export type AtSign = string & { readonly [atSignBrand]: true };

/** Not an atSign. An atServer answers it with AT0011 and the message as it is. */
export class AtSignInvalid extends SyntaxInvalid {
  override readonly code: string = "AT_SIGN_INVALID";
}

const RESERVED = /[!*'`();:&=+$,/?#[\]{}]/u;
const WHITE_SPACE = /[\s\u0085]/u;

const CONTROL = /[\u0000-\u001f\u007f\u2400-\u241f\u2421\u2424\u2425]/u;

/**
 * The canonical form of an atSign, with or without its `@`: `Colin.Constable` becomes `@colinconstable`.
 * Emoji and any other script are allowed.
 *
 * @throws {AtSignInvalid} with the words of the reference atServer.
 * @see atserver.md, 3.0.1
 */
export function parseAtSign(text: string): AtSign {
  const lower = text.toLowerCase();
  const atSign = (lower.startsWith("@") ? lower : `@${lower}`).replaceAll(".", "");
  if (atSign === "@") refuse("must include one @ character and at least one character on the right");
  if (atSign.includes("@", 1)) refuse("Cannot Contain more than one @ character");
  if (RESERVED.test(atSign)) refuse("Cannot contain !*'`();:&=+$,/?#[]{} characters");
  if (WHITE_SPACE.test(atSign)) refuse("Cannot Contain whitespace characters");
  if (CONTROL.test(atSign)) refuse("must not include control characters");
  return atSign as AtSign;
}

/** The atSign without its `@`, as the atDirectory and the regular expressions of `monitor` want it. */
export const bareAtSign = (atSign: AtSign): string => atSign.slice(1);

function refuse(reason: string): never {
  throw new AtSignInvalid(`invalid @sign: ${reason}`);
}
