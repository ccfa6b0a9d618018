import { resolve } from "node:path";
import { parse as parseToml, TomlError } from "smol-toml";
import * as v from "valibot";
import { EdgeError } from "../../core/errors.js";
import { allDriverSchemas, type AnyDriverConfig } from "../driver-kinds.js";
import { globOf } from "../control/glob.js";
import { AGENT_TARGET, Policy, RULES } from "../control/policy.js";
import { parseRule } from "../rules/grammar.js";
import { nearest } from "./nearest.js";
import { namedReadings } from "./reading-names.js";
import { resolveFiles } from "./resolve-files.js";
import { agentSchema, type AgentFile, type AllowConfig, type ReaderConfig } from "./schema.js";
import { type Settings, withSettings } from "./settings.js";
import { describe, entriesOf, isTable, itemOf, recordValueOf, schemaAt } from "./schema-walk.js";

/** The checked configuration, defaults filled in, file names absolute. */
export interface AgentConfig extends Omit<AgentFile, "driver" | "reader" | "allow" | "keys"> {
  readonly keys: string;
  readonly reader: readonly ReaderConfig[];
  readonly allow: readonly AllowConfig[];
  readonly driver: readonly AnyDriverConfig[];
}

export interface Fault {
  /** Where, e.g. `driver[2].intervalMs`; empty for the file as a whole. */
  readonly path: string;
  /** What is wrong, e.g. `expected 100 to 3600000, got "1s"`. */
  readonly text: string;
}

/** The configuration cannot be used. `faults` holds all that is wrong with it, in the order of the keys. */
export class ConfigInvalid extends EdgeError {
  override readonly code: string = "CONFIG_INVALID";
  readonly faults: readonly Fault[];

  constructor(faults: readonly Fault[], options?: ErrorOptions) {
    super(faults.map(faultLine).join("\n"), options);
    this.faults = faults;
  }
}

export function faultLine({ path, text }: Fault): string {
  return path === "" ? text : `${path}: ${text}`;
}

export interface ParsedConfig {
  readonly config: AgentConfig;
  /** Not wrong, but hardly meant. */
  readonly warnings: readonly Fault[];
}

/**
 * Parses the text of a configuration file. Relative file names in it count from `folder`. `settings` stand above it.
 *
 * @throws {ConfigInvalid} with every fault of the file.
 */
export function parseConfig(text: string, folder: string, settings: Settings = {}): ParsedConfig {
  const raw = withSettingsOf(readToml(text), settings);
  const faults: Fault[] = [];
  const file = check(agentSchema, raw, [], faults);
  const driver = listOf(raw, "driver").map((table, at) => checkDriver(table, ["driver", at], folder, faults));
  faults.push(...duplicates(raw), ...(file ? [...pinConflicts(file), ...forbiddenRules(file)] : []));
  if (faults.length > 0 || !file) throw new ConfigInvalid(sortByKey(faults));

  const stateDir = resolve(folder, file.stateDir);
  const config: AgentConfig = {
    ...file,
    stateDir,
    ...(file.ca === undefined ? {} : { ca: resolve(folder, file.ca) }),
    ...(file.keysPassphraseFile === undefined ? {} : { keysPassphraseFile: resolve(folder, file.keysPassphraseFile) }),
    keys: file.keys === undefined ? resolve(stateDir, "keys", `${file.atsign}_key.atKeys`) : resolve(folder, file.keys),
    driver: driver.filter((table) => table !== undefined),
  };
  return { config, warnings: warningsOf(config) };
}

function withSettingsOf(raw: unknown, settings: Settings): unknown {
  try {
    return withSettings(raw, settings);
  } catch (cause) {
    if (!(cause instanceof EdgeError)) throw cause;
    throw new ConfigInvalid([{ path: "set remotely", text: cause.message }], { cause });
  }
}

export function readToml(text: string): unknown {
  try {
    return parseToml(text, { maxDepth: 32, unsafeKeyBehaviour: "throw" });
  } catch (cause) {
    if (!(cause instanceof TomlError)) throw cause;
    const [what = ""] = cause.message.replace("Invalid TOML document: ", "").split("\n");
    throw new ConfigInvalid(
      [{ path: `line ${cause.line}, column ${cause.column}`, text: `${what}\n${cause.codeblock}` }],
      {
        cause,
      },
    );
  }
}

type Path = readonly (string | number)[];

/** Parses `value`, adds what is wrong with it to `faults`, and gives the output when nothing is. */
function check<S extends v.GenericSchema>(
  schema: S,
  value: unknown,
  at: Path,
  faults: Fault[],
): v.InferOutput<S> | undefined {
  const before = faults.length;
  unknownKeys(schema, value, at, faults);
  // A text of the schema's own is used as it is; an empty one is replaced by a description of the schema.
  const result = v.safeParse(schema, value, { message: () => "" });
  for (const issue of result.issues ?? []) {
    const path = (issue.path ?? []).map((step) => step.key as string | number);
    if (issue.expected === "never") continue; // an unknown key, found above already
    faults.push({ path: formatPath([...at, ...path]), text: faultText(schema, value, path, issue) });
  }
  return faults.length === before && result.success ? result.output : undefined;
}

function faultText(schema: v.GenericSchema, root: unknown, path: Path, issue: v.BaseIssue<unknown>): string {
  const target = schemaAt(schema, path, root);
  const whole = issue.type === "integer" ? "a whole number, " : "";
  const expected =
    issue.message || `expected ${whole}${target ? describe(target) : (issue.expected ?? "another value")}`;
  // What is wrong between keys is the whole table's.
  if (issue.type === "partial_check") return expected;
  return issue.input === undefined ? `missing: ${expected}` : `${expected}, got ${show(issue.input)}`;
}

/** Every key that the schema does not know; valibot itself stops at the first of a table. */
function unknownKeys(schema: v.GenericSchema, value: unknown, at: Path, faults: Fault[]): void {
  if (Array.isArray(value)) {
    const item = itemOf(schema);
    if (item) value.forEach((inner, index) => unknownKeys(item, inner, [...at, index], faults));
    return;
  }
  if (!isTable(value)) return;
  const entries = entriesOf(schema, value);
  const free = recordValueOf(schema);
  for (const [key, inner] of Object.entries(value)) {
    const known = entries && Object.hasOwn(entries, key) ? entries[key] : free;
    if (known) unknownKeys(known, inner, [...at, key], faults);
    else if (entries && !isOpen(schema))
      faults.push({ path: formatPath([...at, key]), text: unknownText("key", key, Object.keys(entries)) });
  }
}

/** A driver's table takes further keys here, since its kind's own schema knows them. */
function isOpen(schema: v.GenericSchema): boolean {
  return schema.type === "loose_object";
}

function unknownText(what: string, word: string, known: readonly string[]): string {
  const guess = nearest(word, known);
  return guess === undefined
    ? `unknown ${what}; known are ${known.join(", ")}`
    : `unknown ${what}; did you mean ${guess}?`;
}

function checkDriver(table: unknown, at: Path, folder: string, faults: Fault[]): AnyDriverConfig | undefined {
  if (!isTable(table) || typeof table.type !== "string") return undefined; // told by the agent's own schema
  const kind = Object.entries(allDriverSchemas).find(([type]) => type === table.type);
  if (!kind) {
    const text = unknownText(`kind ${show(table.type)}`, table.type, Object.keys(allDriverSchemas));
    faults.push({ path: formatPath([...at, "type"]), text });
    return undefined;
  }
  const found: Fault[] = [];
  const output = check(kind[1], table, at, found);
  const id = formatPath([...at, "id"]); // told by the agent's own schema
  faults.push(...found.filter(({ path }) => path !== id));
  return output && resolveFiles<AnyDriverConfig>(kind[1], output, folder);
}

/** Names that may stand once only. They are read from the raw file, so that other faults do not hide them. */
function duplicates(raw: unknown): Fault[] {
  const once = [
    { list: "driver", key: "id", text: "is the id of another driver too" },
    { list: "rule", key: "name", text: "is the name of another rule too" },
    { list: "reader", key: "atsign", text: "has a [[reader]] already" },
  ];
  return once.flatMap(({ list, key, text }) => {
    const seen = new Set<string>();
    return listOf(raw, list).flatMap((table, at) => {
      const name = isTable(table) ? table[key] : undefined;
      if (typeof name !== "string") return [];
      const folded = key === "atsign" ? name.normalize("NFC").toLowerCase().replace(/^@?/u, "@") : name;
      if (!seen.has(folded)) {
        seen.add(folded);
        return [];
      }
      return [{ path: formatPath([list, at, key]), text: `${show(name)} ${text}` }];
    });
  });
}

/** A peer has one key, whatever it is here for. */
function pinConflicts({ reader, allow }: AgentFile): Fault[] {
  const pins = new Map(reader.map(({ atsign, key }) => [atsign as string, { key, table: "reader" }]));
  return allow.flatMap(({ atsign, key }, at) => {
    const other = pins.get(atsign);
    if (key !== undefined && other?.key === undefined) pins.set(atsign, { key, table: "allow" });
    if (key === undefined || other?.key === undefined || key === other.key) return [];
    return [{ path: formatPath(["allow", at, "key"]), text: `the [[${other.table}]] ${atsign} has another key` }];
  });
}

/** Deny by default holds for the device's own rules, too. */
function forbiddenRules({ rule, allow, device }: AgentFile): Fault[] {
  const caller = new Policy(allow, { device, clock: { monotonicMs: () => 0 } }).callerOf(RULES);
  return rule.flatMap(({ rule: text }, at) => {
    const { target, command } = parseRule(text);
    if (caller?.allows({ target, command, sealed: true })) return [];
    const missing = `no [[allow]] with atsign = "rules" allows ${target}/${command}`;
    return [{ path: formatPath(["rule", at, "rule"]), text: missing }];
  });
}

function warningsOf(config: AgentConfig): Fault[] {
  const ids = config.driver.map(({ id }) => id);
  const warnings = config.allow.flatMap(({ commands }, at) =>
    commands.flatMap((pattern, index) => {
      const [target = ""] = pattern.split("/");
      if (["agent", "*"].includes(target) || ids.some(globOf(target))) return [];
      const guess = nearest(target, ids);
      const hint = guess === undefined ? "" : `; did you mean ${guess}?`;
      return [
        { path: formatPath(["allow", at, "commands", index]), text: `no driver has the id ${show(target)}${hint}` },
      ];
    }),
  );
  for (const [at, { atsign }] of config.allow.entries())
    if (atsign.includes("*"))
      warnings.push({
        path: formatPath(["allow", at, "atsign"]),
        text: `whoever gets a name like ${atsign} is let in`,
      });
  warnings.push(...sharedNames(config));
  for (const [at, { rule }] of config.rule.entries()) {
    const { target } = parseRule(rule);
    if (target !== AGENT_TARGET && !ids.includes(target))
      warnings.push({ path: formatPath(["rule", at, "rule"]), text: `no driver has the id ${show(target)}` });
  }
  if (config.reader.length === 0)
    warnings.push({ path: "reader", text: "nobody reads: readings are taken and go nowhere" });
  return warnings;
}

/** Two drivers that give a reading of one name are one to whoever reads. */
function sharedNames({ driver }: AgentConfig): Fault[] {
  const owners = new Map<string, string>();
  return driver.flatMap((config, at) =>
    namedReadings(config).flatMap(({ path, name }) => {
      const owner = owners.get(name) ?? config.id;
      owners.set(name, owner);
      if (owner === config.id) return [];
      const text = `driver ${show(owner)} gives a reading called ${show(name)} too; readers cannot tell them apart`;
      return [{ path: formatPath(["driver", at, ...path]), text }];
    }),
  );
}

function listOf(raw: unknown, key: string): readonly unknown[] {
  const list = isTable(raw) ? raw[key] : undefined;
  return Array.isArray(list) ? list : [];
}

/** Faults of one table together, in the order in which the tables stand in the schema. */
function sortByKey(faults: readonly Fault[]): Fault[] {
  const order = Object.keys(agentSchema.entries);
  const rank = ({ path }: Fault): number => order.indexOf(/^[^.[]*/u.exec(path)?.[0] ?? "");
  return [...faults].sort((a, b) => rank(a) - rank(b));
}

function formatPath(path: Path): string {
  return path.reduce<string>((text, step) => {
    if (typeof step === "number") return `${text}[${step}]`;
    const name = /^[A-Za-z0-9_-]+$/u.test(step) ? step : JSON.stringify(step);
    return text === "" ? name : `${text}.${name}`;
  }, "");
}

/** A value as it stands in a message: short, and without the password of a URL. */
function show(value: unknown): string {
  const text = isTable(value) ? "a table" : Array.isArray(value) ? "a list" : JSON.stringify(value);
  const safe = text.replace(/(:\/\/[^:/@\s]*):[^@/\s]*@/gu, "$1:[secret]@");
  return safe.length > 80 ? `${safe.slice(0, 77)}…` : safe;
}
