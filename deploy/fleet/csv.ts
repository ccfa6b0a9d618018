import { SyntaxInvalid } from "../../core/errors.js";

/**
 * RFC 4180 with a header: a record each line, fields in double quotes may hold commas, quotes (doubled) and line breaks.
 * Lines that are empty are passed over.
 *
 * @throws {SyntaxInvalid} that names the record.
 */
export function parseCsv(source: string): readonly Readonly<Record<string, string>>[] {
  const [header, ...records] = rows(source.replace(/^\uFEFF/u, ""));
  if (!header) throw new SyntaxInvalid("the file is empty, a header is expected");
  const names = header.map((name) => name.trim());
  const twin = names.find((name, at) => names.indexOf(name) !== at);
  if (twin !== undefined) throw new SyntaxInvalid(`two columns are named ${JSON.stringify(twin)}`);
  return records.map((fields, at) => {
    if (fields.length !== names.length)
      throw new SyntaxInvalid(`record ${at + 1} has ${fields.length} fields, the header has ${names.length}`);
    return Object.fromEntries(names.map((name, column) => [name, (fields[column] ?? "").trim()]));
  });
}

const FIELD = /(?:"(?<quoted>(?:[^"]|"")*)"|(?<bare>[^",\r\n]*))(?<end>,|\r?\n|$)/uy;

function rows(source: string): string[][] {
  const all: string[][] = [];
  let row: string[] = [];
  FIELD.lastIndex = 0;
  while (FIELD.lastIndex < source.length || row.length > 0) {
    const { quoted, bare, end } = FIELD.exec(source)?.groups ?? {};
    if (end === undefined) throw new SyntaxInvalid(`record ${all.length}: a quote is out of place`);
    row.push(quoted?.replaceAll('""', '"') ?? bare ?? "");
    if (end === ",") continue;
    if (row.length > 1 || row[0] !== "") all.push(row);
    row = [];
    if (end === "") break;
  }
  return all;
}
