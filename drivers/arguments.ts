export type JsonSchema = Readonly<Record<string, unknown>>;

/**
 * The first fault of a value by a JSON Schema, as `path: expected …`, or `undefined`. Knows what drivers declare: type,
 * enum, minimum, maximum, maxLength, properties, required, additionalProperties, items.
 */
export function faultOf(schema: JsonSchema, value: unknown, path = ""): string | undefined {
  const at = path === "" ? "arguments" : path;
  const type = schema["type"];
  if (typeof type === "string" && !isOfType(type, value)) return `${at}: expected ${type}, got ${kindOf(value)}`;
  const allowed: unknown = schema["enum"];
  if (Array.isArray(allowed) && !allowed.includes(value)) {
    return `${at}: expected one of ${allowed.map((item) => JSON.stringify(item)).join(", ")}`;
  }
  if (typeof value === "number") return rangeFault(schema, value, at);
  if (typeof value === "string") {
    const maxLength = schema["maxLength"];
    return typeof maxLength === "number" && value.length > maxLength
      ? `${at}: expected at most ${maxLength} characters`
      : undefined;
  }
  if (Array.isArray(value)) return firstFault(value, (item, index) => itemFault(schema, item, `${path}[${index}]`));
  return typeof value === "object" && value !== null ? propertiesFault(schema, value, path) : undefined;
}

function rangeFault(schema: JsonSchema, value: number, at: string): string | undefined {
  const { minimum, maximum } = schema;
  if (typeof minimum === "number" && value < minimum) return `${at}: expected at least ${minimum}`;
  if (typeof maximum === "number" && value > maximum) return `${at}: expected at most ${maximum}`;
  return undefined;
}

function itemFault(schema: JsonSchema, item: unknown, path: string): string | undefined {
  const items = schema["items"];
  return isObject(items) ? faultOf(items, item, path) : undefined;
}

function propertiesFault(schema: JsonSchema, value: object, path: string): string | undefined {
  const inner = (name: string): string => (path === "" ? name : `${path}.${name}`);
  const required = Array.isArray(schema["required"]) ? (schema["required"] as unknown[]) : [];
  const missing = required.find((name) => typeof name === "string" && !Object.hasOwn(value, name));
  if (typeof missing === "string") return `${inner(missing)}: expected a value`;
  const properties = isObject(schema["properties"]) ? schema["properties"] : {};
  return firstFault(Object.entries(value), ([name, item]) => {
    const property = Object.hasOwn(properties, name) ? properties[name] : undefined;
    if (isObject(property)) return faultOf(property, item, inner(name));
    if (schema["additionalProperties"] !== false) return undefined;
    return `${inner(name)}: no such argument; there is ${Object.keys(properties).join(", ") || "none"}`;
  });
}

function firstFault<T>(items: readonly T[], fault: (item: T, index: number) => string | undefined): string | undefined {
  for (const [index, item] of items.entries()) {
    const found = fault(item, index);
    if (found !== undefined) return found;
  }
  return undefined;
}

function isOfType(type: string, value: unknown): boolean {
  switch (type) {
    case "integer":
      return Number.isInteger(value);
    case "number":
      return typeof value === "number" && Number.isFinite(value);
    default:
      return kindOf(value) === type;
  }
}

function kindOf(value: unknown): string {
  if (value === null) return "null";
  return Array.isArray(value) ? "array" : typeof value;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return kindOf(value) === "object";
}
