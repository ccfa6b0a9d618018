import { isDeepStrictEqual } from "node:util";
import { isTable } from "./schema-walk.js";

/** Where two configurations differ, without the values: `driver.vent.baud`, `maxBatch`. */
export function changedPaths(before: unknown, after: unknown, at = ""): string[] {
  if (isDeepStrictEqual(before, after)) return [];
  const [old, next] = [membersOf(before), membersOf(after)];
  if (!old || !next) return [at];
  return [...new Set([...Object.keys(old), ...Object.keys(next)])].flatMap((name) =>
    changedPaths(old[name], next[name], at === "" ? name : `${at}.${name}`),
  );
}

/** The tables of a list go by their names, so that one more at the front does not make all others look changed. */
function membersOf(value: unknown): Readonly<Record<string, unknown>> | undefined {
  if (isTable(value)) return value;
  if (!Array.isArray(value) || !value.every(isTable)) return undefined;
  const seen = new Map<string, number>();
  const named = value.map((table, index) => {
    const name = [table.id, table.name, table.atsign].find((own) => typeof own === "string") ?? String(index);
    const count = (seen.get(name) ?? 0) + 1;
    seen.set(name, count);
    return [count === 1 ? name : `${name}#${count}`, table] as const;
  });
  return Object.fromEntries(named);
}
