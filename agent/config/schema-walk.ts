import * as v from "valibot";

/** What the walkers read of a valibot schema; each kind has some of these. */
interface SchemaShape extends v.GenericSchema {
  readonly entries?: Readonly<Record<string, v.GenericSchema>>;
  readonly item?: v.GenericSchema;
  readonly wrapped?: v.GenericSchema;
  readonly default?: unknown;
  readonly options?: readonly unknown[];
  readonly literal?: unknown;
  readonly key?: string;
  readonly value?: v.GenericSchema;
  readonly pipe?: readonly PipeStep[];
}

interface PipeStep {
  readonly type: string;
  readonly requirement?: unknown;
  readonly pipe?: readonly PipeStep[];
}

const OPTIONAL = new Set(["optional", "exact_optional", "nullish", "undefinedable"]);

/** The schema without `optional(…)` around it. */
export function unwrap(schema: v.GenericSchema): SchemaShape {
  const shape: SchemaShape = schema;
  return OPTIONAL.has(shape.type) && shape.wrapped ? unwrap(shape.wrapped) : shape;
}

export function isOptional(schema: v.GenericSchema): boolean {
  return OPTIONAL.has(schema.type);
}

/** The default of an optional key, as it would stand in the file. */
export function defaultOf(schema: v.GenericSchema): unknown {
  return (schema as SchemaShape).default;
}

/** The keys of a table, or `undefined` when the schema is no table; for a choice of tables, those that fit `value`. */
export function entriesOf(
  schema: v.GenericSchema,
  value?: unknown,
): Readonly<Record<string, v.GenericSchema>> | undefined {
  const shape = unwrap(schema);
  if (shape.entries) return shape.entries;
  if (shape.type !== "variant" && shape.type !== "union") return undefined;
  const tables = schemas(shape.options).filter((option) => entriesOf(option, value));
  if (tables.length === 0) return undefined;
  const { key } = shape;
  const fitting = key === undefined ? [] : tables.filter((option) => fits(entriesOf(option)?.[key], value, key));
  return Object.assign(
    {},
    ...(fitting.length > 0 ? fitting : tables).map((option) => entriesOf(option, value)),
  ) as Record<string, v.GenericSchema>;
}

function fits(schema: v.GenericSchema | undefined, value: unknown, key: string): boolean {
  return schema !== undefined && isTable(value) && v.is(schema, value[key]);
}

/** The schema of a list's items. */
export function itemOf(schema: v.GenericSchema): v.GenericSchema | undefined {
  return unwrap(schema).item;
}

/** The schema of every value of a table with free keys. */
export function recordValueOf(schema: v.GenericSchema): v.GenericSchema | undefined {
  const shape = unwrap(schema);
  return shape.type === "record" ? shape.value : undefined;
}

/** The schema that a path of keys and indexes leads to. */
export function schemaAt(
  schema: v.GenericSchema,
  path: readonly (string | number)[],
  value?: unknown,
): v.GenericSchema | undefined {
  const [step, ...rest] = path;
  if (step === undefined) return schema;
  const next = typeof step === "number" ? itemOf(schema) : (entriesOf(schema, value)?.[step] ?? recordValueOf(schema));
  const inner = isTable(value) || Array.isArray(value) ? (value as Record<string, unknown>)[step] : undefined;
  return next && schemaAt(next, rest, inner);
}

/** What the schema takes, in words: `100 to 3600000`, `true or false`, `"a" or "b"`. */
export function describe(schema: v.GenericSchema): string {
  const shape = unwrap(schema);
  const limits = limitsOf(shape);
  switch (shape.type) {
    case "number":
      return describeNumber(limits);
    case "boolean":
      return "true or false";
    case "string":
      return "a text";
    case "picklist":
    case "enum":
      return oneOf((shape.options ?? []).map((option) => JSON.stringify(option)));
    case "literal":
      return JSON.stringify(shape.literal);
    case "array": {
      const list = shape.item ? `a list, each ${describe(shape.item)}` : "a list";
      return limits.has("min_length") ? `${list}, at least ${String(limits.get("min_length"))}` : list;
    }
    case "union":
      return oneOf([...new Set(schemas(shape.options).map(describe))]);
    default:
      return entriesOf(shape) || shape.type === "record" ? "a table" : shape.expects;
  }
}

/** What the steps of a pipe, and of pipes inside it, ask for. */
function limitsOf({ pipe = [] }: { readonly pipe?: readonly PipeStep[] }): ReadonlyMap<string, unknown> {
  return new Map(
    pipe.flatMap((step, at) => [...(at === 0 ? limitsOf(step) : []), [step.type, step.requirement] as const]),
  );
}

function describeNumber(limits: ReadonlyMap<string, unknown>): string {
  const whole = limits.has("integer") || limits.has("safe_integer");
  const limit = (name: string): number | undefined => {
    const value = limits.get(name);
    return typeof value === "number" ? value : undefined;
  };
  const [min, max] = [limit("min_value"), limit("max_value")];
  const noun = whole ? "a whole number" : "a number";
  if (min !== undefined && max !== undefined) return `${min} to ${max}`;
  if (min !== undefined) return `${noun}, at least ${min}`;
  return max !== undefined ? `${noun}, at most ${max}` : noun;
}

function oneOf(words: readonly string[]): string {
  return words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} or ${words.at(-1) ?? ""}`;
}

function schemas(options: readonly unknown[] | undefined): v.GenericSchema[] {
  return (options ?? []) as v.GenericSchema[];
}

/** The doc line and the first example, wherever `optional` stands around them. */
export function docOf(schema: v.GenericSchema): { readonly description: string; readonly example: unknown } {
  const inner = unwrap(schema);
  const examples: readonly unknown[] = v.getExamples(inner);
  return { description: v.getDescription(schema) ?? v.getDescription(inner) ?? "", example: examples[0] };
}

export function isTable(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value) && !(value instanceof Date);
}
