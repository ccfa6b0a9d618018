import { SyntaxInvalid } from "../../core/errors.js";
import type { AtSign } from "../protocol/at-sign.js";

export interface OutgoingText {
  readonly id?: string;
  readonly to: AtSign;
  /**
   * At least one character. In clear text (`encrypt: false`) it stands where a key would: at least two characters, no
   * `@`, no `::`, no line end, no `:` at its beginning, no blank at its end; anything else would arrive mutilated.
   */
  readonly text: string;
  readonly ttlnMs: number;
  readonly encrypt?: boolean;
}

/** What the grammar takes for more than a text (atserver.md, 3.13). @throws {SyntaxInvalid} */
export function checkClearText(text: string): void {
  const trap = /@|::|[\r\n]|^:|\s$/u.exec(text)?.[0];
  if (trap === undefined && text.length > 1) return;
  const what = trap === undefined ? "is too short" : `has ${JSON.stringify(trap)} where the protocol cannot carry it`;
  throw new SyntaxInvalid(`a text message in clear ${what}; encrypt it`);
}
