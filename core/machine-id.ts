import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";

/** The machine's own id, hashed as machine-id(5) asks; empty where there is none. A copied card has another. */
export async function readMachineId(path = "/etc/machine-id"): Promise<string> {
  const text = await readFile(path, "utf8").catch(() => "");
  return text.trim() === "" ? "" : createHash("sha256").update(`atedge\n${text.trim()}`).digest("hex");
}
