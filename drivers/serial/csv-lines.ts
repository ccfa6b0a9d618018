import { fromUtf8 } from "../../core/bytes.js";
import type { Fields, LineCodec } from "./line-codec.js";
import { scalar } from "./line-codec.js";

/**
 * Rows of values (RFC 4180, but a row is a line). Without `columns` the names come from a header, which the device may
 * print again at any time: a row of names only. A row with another number of cells than there are names is none of ours.
 */
export class CsvLines implements LineCodec {
  readonly #separator: string;
  readonly #fixed: boolean;
  #columns: readonly string[];

  constructor(columns: readonly string[], separator: string) {
    this.#columns = columns;
    this.#fixed = columns.length > 0;
    this.#separator = separator;
  }

  parse(line: Uint8Array): Fields | undefined {
    let cells: readonly string[] | undefined;
    try {
      cells = cellsOf(fromUtf8(line), this.#separator);
    } catch {
      return undefined;
    }
    if (!cells) return undefined;
    if (!this.#fixed && cells.every((cell) => /^[A-Za-z_][A-Za-z0-9 _./%()-]{0,63}$/u.test(cell))) {
      this.#columns = cells;
      return undefined;
    }
    if (cells.length !== this.#columns.length) return undefined;
    return Object.fromEntries(this.#columns.map((name, at) => [name, scalar(cells[at] ?? "")]));
  }

  format(fields: Fields): string {
    return Object.values(fields)
      .map((value) => quoted(typeof value === "string" ? value : JSON.stringify(value), this.#separator))
      .join(this.#separator);
  }
}

/** `undefined` for a row whose quotes do not match. */
export function cellsOf(line: string, separator: string): string[] | undefined {
  const cells: string[] = [];
  let at = 0;
  for (;;) {
    if (line[at] !== '"') {
      const end = line.indexOf(separator, at);
      const cell = line.slice(at, end === -1 ? undefined : end).trim();
      if (cell.includes('"')) return undefined;
      cells.push(cell);
      if (end === -1) return cells;
      at = end + separator.length;
      continue;
    }
    let cell = "";
    for (at += 1; ; at += 2) {
      const quote = line.indexOf('"', at);
      if (quote === -1) return undefined;
      cell += line.slice(at, quote);
      at = quote;
      if (line[quote + 1] !== '"') break;
      cell += '"';
    }
    cells.push(cell);
    at += 1;
    if (at === line.length) return cells;
    if (!line.startsWith(separator, at)) return undefined;
    at += separator.length;
  }
}

function quoted(text: string, separator: string): string {
  const printable = text.replaceAll(/[\u0000-\u001f\u007f]/gu, "");
  return printable.includes(separator) || printable.includes('"') ? `"${printable.replaceAll('"', '""')}"` : printable;
}
