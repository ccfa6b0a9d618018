import type * as v from "valibot";
import { allDriverSchemas } from "../driver-kinds.js";
import { agentSchema } from "./schema.js";
import { defaultOf, describe, docOf, entriesOf, isOptional, itemOf } from "./schema-walk.js";

/** A table of the file: `[outbox]`, or each `[[reader]]` of a list. */
interface Section {
  readonly title: string;
  readonly description: string;
  readonly rows: readonly Row[];
}

interface Row {
  readonly key: string;
  readonly takes: string;
  /** As TOML text; `undefined` for a key that must be given or that has no value unless given. */
  readonly fallback: string | undefined;
  readonly required: boolean;
  readonly description: string;
  readonly example: unknown;
}

/** `docs/reference/config.md`, from the schemas. */
export function referencePage(): string {
  const sections = allSections().map(
    ({ title, description, rows }) =>
      `## ${title === "" ? "The device" : `\`${title}\``}\n\n${description === "" ? "" : `${description}\n\n`}${markdownTable(rows)}`,
  );
  return `# Configuration

\`/etc/atedge/atedge.toml\`, or the file that \`--config\` names; [TOML](https://toml.io). \`atedge config check\` tells
every fault of a file, \`atedge config example\` prints a file to start from. File names that do not start with \`/\`
count from the folder of the file. Times are in milliseconds, sizes in bytes.

<!-- Made by scripts/config-reference.ts from agent/config/schema.ts and the drivers' config.ts: change those. -->

${sections.join("\n")}`;
}

/** A file to start from: every key with its doc line, what has a default commented out. */
export function exampleFile(): string {
  const sections = allSections().map((section) => exampleSection(section));
  return `# atedge: configuration of a device. \`atedge config check\` tells what is wrong with it.
# Every key is explained in docs/reference/config.md. Made by scripts/config-reference.ts.

${sections.join("\n")}`;
}

function allSections(): Section[] {
  return [
    ...sectionsOf("", agentSchema, ""),
    ...Object.entries(allDriverSchemas).flatMap(([kind, schema]) => sectionsOf("[[driver]]", schema, kind)),
  ];
}

/** The section of a table and those of the tables inside it. `kind` is the driver's, or empty. */
function sectionsOf(title: string, schema: v.GenericSchema, kind: string): Section[] {
  const rows: Row[] = [];
  const inner: Section[] = [];
  for (const [key, value] of Object.entries(entriesOf(schema) ?? {})) {
    const item = itemOf(value);
    const path = title === "" ? key : `${title.replaceAll(/[[\]]/gu, "").split(" ")[0] ?? ""}.${key}`;
    if (item && entriesOf(item)) inner.push(...sectionsOf(`[[${path}]]`, item, kind));
    else if (entriesOf(value)) inner.push(...sectionsOf(`[${path}]`, value, kind));
    else if (kind === "" || title !== "[[driver]]" || (key !== "id" && key !== "type")) rows.push(rowOf(key, value));
  }
  const shown = kind === "" ? title : `${title} of type "${kind}"`;
  return [{ title: shown, description: docOf(schema).description, rows }, ...inner];
}

function rowOf(key: string, schema: v.GenericSchema): Row {
  const fallback = defaultOf(schema);
  const { description, example } = docOf(schema);
  return {
    key,
    takes: describe(schema),
    fallback: fallback === undefined ? undefined : toml(fallback),
    required: !isOptional(schema),
    description,
    example,
  };
}

function markdownTable(rows: readonly Row[]): string {
  if (rows.length === 0) return "No keys of its own.\n";
  const cell = (text: string): string => text.replaceAll("|", "\\|");
  const lines = rows.map(({ key, takes, fallback, required, description }) => {
    const without = required ? "required" : fallback === undefined ? "" : `\`${fallback}\``;
    return `| \`${key}\` | ${cell(takes)} | ${cell(without)} | ${cell(description)} |\n`;
  });
  return `| key | takes | default | |\n| --- | --- | --- | --- |\n${lines.join("")}`;
}

function exampleSection({ title, description, rows }: Section): string {
  const driver = /^(?<name>\[\[driver\]\]) of type "(?<kind>.+)"$/u.exec(title)?.groups;
  const nested = /^(?<name>\[+(?:allow|driver|rule)\.[^\]]+\]+)/u.exec(title)?.groups;
  // Drivers and lists are for the reader to fill in, so they stand as comments.
  const off = title.startsWith("[[") || nested !== undefined;
  const name = driver?.name ?? nested?.name ?? title;
  const head = [
    ...(description === "" ? [] : [`# ${description}`]),
    ...(name === "" ? [] : [off ? `#${name}` : name]),
    ...(driver ? [`#id = "${driver.kind ?? ""}"`, `#type = "${driver.kind ?? ""}"`] : []),
  ];
  const lines = rows.flatMap(({ key, fallback, required, description: doc, example }) => {
    const value = fallback ?? (example === undefined ? '""' : toml(example));
    return [...(doc === "" ? [] : [`# ${doc}`]), `${required && !off ? "" : "#"}${key} = ${value}`];
  });
  return [...head, ...lines].join("\n") + "\n";
}

/** A value as TOML. Texts in TOML's basic strings are what JSON writes. */
function toml(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(toml).join(", ")}]`;
  if (typeof value === "object" && value !== null) {
    const members = Object.entries(value).map(([key, inner]) => `${key} = ${toml(inner)}`);
    return members.length === 0 ? "{}" : `{ ${members.join(", ")} }`;
  }
  return typeof value === "number" ? String(value) : JSON.stringify(value);
}
