import { readFile } from "node:fs/promises";
import { codeOf } from "../core/errors.js";
import { CommandFailed } from "./next-step.js";

/** The option `ca` of a client: text of the file, or nothing when no file was named. */
export async function readCa(file: string | undefined): Promise<{ readonly ca?: string }> {
  if (file === undefined) return {};
  try {
    return { ca: await readFile(file, "utf8") };
  } catch (cause) {
    throw new CommandFailed(`--ca: ${file} cannot be read (${codeOf(cause) ?? "unknown error"})`, { cause });
  }
}
