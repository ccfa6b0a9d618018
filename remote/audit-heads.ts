import { mkdir, readFile, rename, writeFile } from "node:fs/promises";
import { dirname } from "node:path";
import { codeOf } from "../core/errors.js";
import { parseJson } from "../messages/json-field.js";
import type { AuditEnd } from "./audit-pages.js";
import { PinFileUnusable } from "./pin-file.js";

/** Where the audit log of each device ended when it was last verified on this machine. @throws {PinFileUnusable} */
export async function readHeads(path: string): Promise<Readonly<Record<string, AuditEnd>>> {
  try {
    const fields = parseJson(await readFile(path, "utf8"), "heads").object();
    return Object.fromEntries(
      fields.names().map((device) => {
        const head = fields.at(device).object();
        const n = head.at("n").integer(0, Number.MAX_SAFE_INTEGER);
        return [device, { n, hash: head.at("hash").text({ max: 64 }) }];
      }),
    );
  } catch (cause) {
    if (codeOf(cause) === "ENOENT") return {};
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new PinFileUnusable(`${path} is damaged (${why}): repair it, or move it away to begin anew`, { cause });
  }
}

export async function writeHead(path: string, device: string, head: AuditEnd): Promise<void> {
  const heads = { ...(await readHeads(path)), [device]: head };
  const temporary = `${path}.${process.pid}.tmp`;
  try {
    await mkdir(dirname(path), { recursive: true, mode: 0o700 });
    await writeFile(temporary, `${JSON.stringify(heads, null, 2)}\n`, { mode: 0o600 });
    await rename(temporary, path);
  } catch (cause) {
    throw new PinFileUnusable(`${path} cannot be written (${codeOf(cause) ?? "unknown error"})`, { cause });
  }
}
