import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { EdgeError } from "../../core/errors.js";

/** A program of the system failed; the message has its last line. */
export class CommandFailed extends EdgeError {
  override readonly code = "COMMAND_FAILED";
}

export type RunCommand = (program: string, ...args: readonly string[]) => Promise<string>;

const WITHIN_MS = 5 * 60_000;
const exec = promisify(execFile);

/** Runs a program without a shell. @returns what it printed. @throws {CommandFailed} */
export const runCommand: RunCommand = async (program, ...args) => {
  try {
    const env = { ...process.env, DEBIAN_FRONTEND: "noninteractive", LC_ALL: "C" };
    return (await exec(program, args, { env, timeout: WITHIN_MS, maxBuffer: 4 << 20 })).stdout;
  } catch (cause) {
    const said = typeof cause === "object" && cause !== null && "stderr" in cause ? String(cause.stderr) : "";
    throw new CommandFailed(`${program}: ${said.trim().split("\n").at(-1) ?? "failed"}`, { cause });
  }
};
