import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { EdgeError } from "../../core/errors.js";

/** A program of the system failed; the message has the line that says why, or the last. */
export class CommandFailed extends EdgeError {
  override readonly code = "COMMAND_FAILED";
  readonly stderr: string;

  constructor(program: string, stderr: string, options: ErrorOptions) {
    const lines = stderr.trim().split("\n");
    super(`${program}: ${lines.find((line) => line.includes("error: ")) ?? lines.at(-1) ?? "failed"}`, options);
    this.stderr = stderr;
  }
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
    throw new CommandFailed(program, said, { cause });
  }
};
