import { resolve } from "node:path";
import type * as v from "valibot";
import { entriesOf, isTable, itemOf, unwrap } from "./schema-walk.js";

/** The value with every file name in it made absolute: those whose schema has the metadata `{ file: true }`. */
export function resolveFiles<T>(schema: v.GenericSchema, value: T, folder: string): T {
  return resolved(schema, value, folder) as T;
}

function resolved(schema: v.GenericSchema, value: unknown, folder: string): unknown {
  if (typeof value === "string") return isFile(unwrap(schema)) ? resolve(folder, value) : value;
  if (Array.isArray(value)) {
    const item = itemOf(schema);
    return item ? value.map((inner: unknown) => resolved(item, inner, folder)) : value;
  }
  const entries = entriesOf(schema, value);
  if (!entries || !isTable(value)) return value;
  const pairs = Object.entries(value).map(([key, inner]) => {
    const known = Object.hasOwn(entries, key) ? entries[key] : undefined;
    return [key, known ? resolved(known, inner, folder) : inner] as const;
  });
  return Object.fromEntries(pairs);
}

interface Step {
  readonly type?: string;
  readonly metadata?: { readonly file?: unknown };
  readonly pipe?: readonly Step[];
}

function isFile(step: Step): boolean {
  return step.metadata?.file === true || (step.pipe?.some((inner) => isFile(inner)) ?? false);
}
