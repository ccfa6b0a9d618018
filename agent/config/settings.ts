import type * as v from "valibot";
import { SyntaxInvalid } from "../../core/errors.js";
import { allDriverSchemas } from "../driver-kinds.js";
import { agentSchema } from "./schema.js";
import { isTable, schemaAt, unwrap } from "./schema-walk.js";

export type SettingValue = number | boolean | string;
/** Values that were set remotely, by path: `maxBatch`, `outbox.maxBytes`, `driver.vent.baud`. */
export type Settings = Readonly<Record<string, SettingValue>>;

/** Sections that decide who may do what, where things lie and who the device is. */
const CLOSED = new Set([
  ...["allow", "reader", "keys", "keysPassphraseFile", "update", "signing", "sharedKeys", "allowManagerKeys"],
  ...["atsign", "device", "ns", "directory", "ca", "stateDir", "audit", "metricsPort"],
]);
/** Whatever its type, a key with one of these words says where something lies, what is run, or whom to believe. */
const CLOSED_WORDS = new Set([
  ...["path", "file", "dir", "program", "command", "exec", "run", "args", "env", "url", "host", "port", "tls", "ca"],
  ...["cert", "key", "secret", "password", "user", "username", "insecure", "verify", "unsigned"],
]);
const isClosed = (step: string): boolean =>
  step.split(/(?=[A-Z])|[_-]/u).some((word) => CLOSED_WORDS.has(word.toLowerCase()));

/** Puts settings into a parsed file, which stays as it is. @throws {SyntaxInvalid} when a path leads nowhere. */
export function withSettings(raw: unknown, settings: Settings): unknown {
  return Object.entries(settings).reduce<unknown>(
    (table, [path, value]) => put(table, path.split("."), path, value),
    raw,
  );
}

/**
 * Whether the path may be set remotely: a number, a switch or one of some words, in a section that is open.
 *
 * @throws {SyntaxInvalid} that says why not.
 */
export function checkSettable(raw: unknown, path: string): void {
  const steps = path.split(".");
  const [section = ""] = steps;
  if (CLOSED.has(section) || steps.slice(section === "driver" ? 2 : 0).some(isClosed))
    throw new SyntaxInvalid(`${path}: cannot be set remotely`);
  const schema = schemaOf(raw, steps);
  if (!schema) throw new SyntaxInvalid(`${path}: there is no such key`);
  const { type } = unwrap(schema);
  if (!["number", "boolean", "picklist"].includes(type))
    throw new SyntaxInvalid(`${path}: only numbers, switches and choices can be set remotely`);
}

function schemaOf(raw: unknown, steps: readonly string[]): v.GenericSchema | undefined {
  if (steps[0] !== "driver") return schemaAt(agentSchema, pathIn(raw, steps), raw);
  const table = memberOf(memberOf(raw, "driver"), steps[1] ?? "");
  const type = isTable(table) ? Object.entries(allDriverSchemas).find(([kind]) => kind === table.type) : undefined;
  return type && schemaAt(type[1], pathIn(table, steps.slice(2)), table);
}

/** A path by names as one by names and indexes. */
function pathIn(value: unknown, steps: readonly string[]): (string | number)[] {
  const [step, ...rest] = steps;
  if (step === undefined) return [];
  const at = Array.isArray(value) ? indexIn(value, step) : step;
  return [at, ...pathIn(memberOf(value, step), rest)];
}

function put(table: unknown, steps: readonly string[], path: string, value: SettingValue): unknown {
  const [step, ...rest] = steps;
  if (step === undefined) return value;
  if (Array.isArray(table)) {
    const index = indexIn(table, step);
    if (index < 0) throw new SyntaxInvalid(`${path}: there is no ${step}`);
    return table.with(index, put(table[index], rest, path, value));
  }
  if (table !== undefined && !isTable(table)) throw new SyntaxInvalid(`${path}: there is no such key`);
  const inner = table && Object.hasOwn(table, step) ? table[step] : undefined;
  if (inner === undefined && step === "driver") throw new SyntaxInvalid(`${path}: there is no driver`);
  return { ...table, [step]: put(inner, rest, path, value) };
}

function memberOf(value: unknown, step: string): unknown {
  if (Array.isArray(value)) return value[indexIn(value, step)] as unknown;
  return isTable(value) && Object.hasOwn(value, step) ? value[step] : undefined;
}

function indexIn(list: readonly unknown[], name: string): number {
  return list.findIndex((table) => isTable(table) && [table.id, table.name].includes(name));
}
