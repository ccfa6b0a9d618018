import { spawn } from "node:child_process";
import { once } from "node:events";

const MAX_BYTES = 65_536;
const SYSTEMCTL_MS = 10_000;

/** Names of the units that `systemctl list-units --state=failed --plain --no-legend` lists. */
export function parseFailedUnits(text: string): string[] {
  return text.split("\n").flatMap((line) => /^\s*(?<unit>[^\s●*]+\.[a-z]+)\s/u.exec(line)?.groups?.["unit"] ?? []);
}

/** The units of systemd that have failed, or `undefined` when it does not tell. */
export async function readFailedUnits(systemctl: string, signal: AbortSignal): Promise<string[] | undefined> {
  try {
    const args = ["list-units", "--state=failed", "--plain", "--no-legend", "--no-pager", "--full"];
    const child = spawn(systemctl, args, {
      env: { PATH: "/usr/bin:/bin", LC_ALL: "C" },
      stdio: ["ignore", "pipe", "ignore"],
      timeout: SYSTEMCTL_MS,
      signal,
    });
    const chunks: Buffer[] = [];
    let bytes = 0;
    child.stdout.on("data", (chunk: Buffer) => {
      if (bytes < MAX_BYTES) chunks.push(chunk);
      bytes += chunk.length;
    });
    const [code] = (await once(child, "close")) as [number | null];
    return code === 0 ? parseFailedUnits(Buffer.concat(chunks).toString("utf8")) : undefined;
  } catch {
    return undefined;
  }
}
