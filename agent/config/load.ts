import { readFile } from "node:fs/promises";
import { dirname, resolve } from "node:path";
import { codeOf } from "../../core/errors.js";
import { ConfigInvalid, parseConfig, type ParsedConfig, readToml } from "./parse.js";
import type { Settings } from "./settings.js";

export const DEFAULT_CONFIG_FILE = "/etc/atedge/atedge.toml";

/** Reads and checks a configuration file. @throws {ConfigInvalid} that says what to do next. */
export async function loadConfig(file: string, settings?: Settings): Promise<ParsedConfig> {
  return parseConfig(await readText(file), dirname(resolve(file)), settings);
}

/** What the file says, unchecked. @throws {ConfigInvalid} */
export async function loadRaw(file: string): Promise<unknown> {
  return readToml(await readText(file));
}

async function readText(file: string): Promise<string> {
  const bytes = await readFile(file).catch((cause: unknown) => {
    throw new ConfigInvalid([{ path: "", text: unreadable(file, codeOf(cause)) }], { cause });
  });
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new ConfigInvalid([{ path: "", text: `${file} is not UTF-8 text` }], { cause });
  }
}

function unreadable(file: string, code: string | undefined): string {
  switch (code) {
    case "ENOENT":
      return `there is no ${file}: make one with \`atedge config example > ${file}\`, or name another with --config FILE`;
    case "EACCES":
      return `${file} may not be read by this user: run as the user of the service, or \`chmod g+r ${file}\``;
    case "EISDIR":
      return `${file} is a folder: name the file with --config FILE`;
    default:
      return `${file} cannot be read (${code ?? "unknown error"})`;
  }
}
