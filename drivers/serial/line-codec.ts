import { fromUtf8 } from "../../core/bytes.js";

export type Fields = Readonly<Record<string, unknown>>;

/** How lines and fields turn into one another. */
export interface LineCodec {
  /** The fields of a line, or `undefined` for one that is none of ours: a boot banner, noise. */
  parse(line: Uint8Array): Fields | undefined;
  /** A line without its line end. */
  format(fields: Fields): string;
}

/** A JSON object a line. */
export const jsonLines: LineCodec = {
  parse(line) {
    try {
      const value: unknown = JSON.parse(fromUtf8(line));
      return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Fields) : undefined;
    } catch {
      return undefined;
    }
  },
  format: (fields) => JSON.stringify(fields),
};

const NUMBER = /^[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?$/u;
/** One pair where the last ended. Spaces may stand around `=`, as printf-style firmware likes to have them. */
const PAIR = /[\s,;]*(?<key>[A-Za-z_][A-Za-z0-9_.-]*)\s*=\s*(?:"(?<quoted>[^"]*)"|(?<bare>[^\s,;"]+))(?=[\s,;]|$)/uy;

/**
 * Pairs `key=value` apart by spaces, commas or semicolons. Numbers, `true` and `false` are read as such; text with
 * spaces stands in double quotes. A line with anything else on it is none of ours.
 */
export const keyValueLines: LineCodec = {
  parse(line) {
    let text: string;
    try {
      text = fromUtf8(line);
    } catch {
      return undefined;
    }
    const fields: [string, unknown][] = [];
    const end = text.trimEnd().replace(/[,;]$/u, "").length;
    for (PAIR.lastIndex = 0; PAIR.lastIndex < end;) {
      const { key, quoted, bare } = PAIR.exec(text)?.groups ?? {};
      if (key === undefined) return undefined;
      fields.push([key, quoted ?? scalar(bare ?? "")]);
    }
    return fields.length === 0 ? undefined : Object.fromEntries(fields);
  },
  format: (fields) =>
    Object.entries(fields)
      .map(([key, value]) => `${key}=${printed(value)}`)
      .join(" "),
};

/** Text as a number or a truth value, where it looks like one. */
export function scalar(text: string): string | number | boolean {
  if (NUMBER.test(text)) return Number(text);
  return text === "true" ? true : text === "false" ? false : text;
}

function printed(value: unknown): string {
  const text = typeof value === "string" ? value : JSON.stringify(value);
  const plain = typeof scalar(text) === typeof value && /^[^\s,;"=]+$/u.test(text);
  return plain ? text : `"${text.replaceAll(/["\u0000-\u001f\u007f]/gu, "")}"`;
}
