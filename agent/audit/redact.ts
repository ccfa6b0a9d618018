import { createHash } from "node:crypto";
import type { JsonObject } from "../../messages/json-field.js";
import { SECRET_NAME } from "../log.js";

const MAX_ARGS_LENGTH = 1024;

/**
 * Arguments as the audit log keeps them: without what goes by a secret's name or is `writeOnly` in the command's schema,
 * and as a digest when they are long.
 */
export function auditedArgs(args: JsonObject, schema: JsonObject = {}): JsonObject {
  const text = JSON.stringify(redacted(args, schema));
  if (text.length <= MAX_ARGS_LENGTH) return JSON.parse(text) as JsonObject;
  return { length: text.length, sha256: createHash("sha256").update(text).digest("hex") };
}

function redacted(value: unknown, schema: unknown): unknown {
  if (isObject(schema) && schema.writeOnly === true) return "[secret]";
  if (Array.isArray(value)) return value.map((item) => redacted(item, isObject(schema) ? schema.items : undefined));
  if (!isObject(value)) return value;
  const properties = isObject(schema) && isObject(schema.properties) ? schema.properties : {};
  return Object.fromEntries(
    Object.entries(value).map(([name, inner]) => [
      name,
      SECRET_NAME.test(name)
        ? "[secret]"
        : redacted(inner, Object.hasOwn(properties, name) ? properties[name] : undefined),
    ]),
  );
}

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);
