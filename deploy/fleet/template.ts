import { SyntaxInvalid } from "../../core/errors.js";

const HOLE = /\{\{\s*(?<name>[\w-]+)\s*\}\}/gu;

/**
 * Fills `{{name}}` in a configuration template. Values stand inside double quotes there, so what would end the quotes
 * is escaped as TOML has it.
 *
 * @throws {SyntaxInvalid} on a name that has no value.
 */
export function fillTemplate(template: string, where: string, values: Readonly<Record<string, string>>): string {
  return template.replaceAll(HOLE, (_, name: string) => {
    const value = Object.hasOwn(values, name) ? values[name] : undefined;
    if (value === undefined) throw new SyntaxInvalid(`template ${where}: there is no value for {{${name}}}`);
    return JSON.stringify(value).slice(1, -1);
  });
}
