import { spawn } from "node:child_process";
import { once } from "node:events";
import type { PlannedDevice } from "../deploy/fleet/plan.js";
import { CommandFailed } from "./next-step.js";

const WITHIN_MS = 120_000;
const OUTPUT_CHARS = 4_000;

/** Puts standard input where the board looks for it at its first start, and has it look now. */
const TAKE_IT =
  "umask 077; boot=/boot/firmware; [ -d $boot ] || boot=/boot; cat > $boot/atedge-provision.toml && " +
  "systemctl start --no-block atedge-provision.service";

/**
 * Gives a board its bundle over SSH, on standard input: no secret in a command line. The board files its request and
 * waits by itself, over restarts, too; whether it gets in is for `approve`.
 */
export async function deliverBySsh({ device }: PlannedDevice, provision: string, signal: AbortSignal): Promise<void> {
  if (device.host === undefined) throw new CommandFailed("the manifest names no host for it");
  const args = ["-o", "BatchMode=yes", "-o", "ConnectTimeout=20", "--", device.host, `sudo -n sh -c '${TAKE_IT}'`];
  const within = AbortSignal.any([signal, AbortSignal.timeout(WITHIN_MS)]);
  const child = spawn("ssh", args, { stdio: ["pipe", "ignore", "pipe"], signal: within });
  let errors = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => (errors = (errors + text).slice(-OUTPUT_CHARS)));
  child.stdin.on("error", () => undefined); // ssh ended early: its exit code tells
  child.stdin.end(provision);
  const [code] = (await once(child, "close").catch((cause: unknown) => {
    signal.throwIfAborted();
    throw new CommandFailed(`ssh to ${device.host} cannot be run or did not end in time`, { cause });
  })) as [number | null];
  if (code !== 0) throw new CommandFailed(`ssh to ${device.host} ended with ${code ?? "a signal"}: ${errors.trim()}`);
}
