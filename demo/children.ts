import { type ChildProcess, spawn } from "node:child_process";
import { createWriteStream, type WriteStream } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { EdgeError } from "../core/errors.js";

const STOP_MS = 6_000;

export class DemoFailed extends EdgeError {
  override readonly code: string = "DEMO_FAILED";
}

export interface ChildOptions {
  /** A file of `dist/`, and its arguments. */
  readonly program: string;
  readonly args: readonly string[];
  readonly onLine?: (line: string) => void;
}

/** The demo's processes: each logs to a file of its own, and none outlives the demo. */
export class Children {
  readonly #dist: string;
  readonly #folder: string;
  readonly #onDeath: (error: DemoFailed) => void;
  readonly #running = new Map<string, { readonly process: ChildProcess; readonly log: WriteStream }>();
  /** The last that each wrote on standard error. */
  readonly #said = new Map<string, string>();
  #stopping = false;

  /** @param dist where the built programs are. @param folder where logs go. */
  constructor(dist: string, folder: string, onDeath: (error: DemoFailed) => void) {
    this.#dist = dist;
    this.#folder = folder;
    this.#onDeath = onDeath;
  }

  /** Starts a process that is meant to stay; its early end is the demo's failure. */
  start(name: string, { program, args, onLine }: ChildOptions): ChildProcess {
    const { process, log } = this.#spawn(name, program, args);
    this.#running.set(name, { process, log });
    if (onLine && process.stdout) createInterface({ input: process.stdout }).on("line", onLine);
    process.on("close", (code, signal) => {
      log.end();
      if (this.#running.get(name)?.process !== process) return;
      this.#running.delete(name);
      if (!this.#stopping) this.#onDeath(this.#failure(name, `ended early (${signal ?? `exit code ${code}`})`));
    });
    return process;
  }

  /** Starts a process and resolves with the first line that `parse` takes. */
  async startUntil<T>(name: string, options: ChildOptions, parse: (line: string) => T | undefined): Promise<T> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(this.#failure(name, "did not get ready within 20 s")), 20_000);
      const process = this.start(name, {
        ...options,
        onLine: (line) => {
          const ready = parse(line);
          if (ready !== undefined) {
            clearTimeout(timer);
            resolve(ready);
          }
          options.onLine?.(line);
        },
      });
      process.once("close", () => (clearTimeout(timer), reject(this.#failure(name, "ended before it was ready"))));
    });
  }

  /** Runs a command to its end. @returns its standard output. @throws DemoFailed when it fails. */
  async run(
    name: string,
    program: string,
    args: readonly string[],
    onLine: (line: string) => void = () => {},
  ): Promise<string> {
    const { process, log } = this.#spawn(name, program, args);
    let output = "";
    process.stdout?.setEncoding("utf8").on("data", (text: string) => (output += text));
    if (process.stdout) createInterface({ input: process.stdout }).on("line", onLine);
    const code = await new Promise<number | null>((resolve) => process.on("close", resolve));
    await new Promise<void>((resolve) => log.end(resolve));
    if (code !== 0) throw this.#failure(name, `failed with exit code ${code}: ${output.trim()}`);
    return output;
  }

  /** Ends one process with a signal and waits for it; its end is then no failure. */
  async end(name: string, signal: NodeJS.Signals): Promise<number | null> {
    const running = this.#running.get(name);
    if (!running) return null;
    this.#running.delete(name);
    const { process } = running;
    if (process.exitCode !== null || process.signalCode !== null) return process.exitCode;
    return new Promise((resolve) => {
      process.once("close", (code) => resolve(code));
      process.kill(signal);
    });
  }

  pid(name: string): number | undefined {
    return this.#running.get(name)?.process.pid;
  }

  /** Asks all to end, last started first, and kills what has not ended in time. */
  async stop(): Promise<void> {
    this.#stopping = true;
    for (const [name, { process }] of [...this.#running].reverse()) {
      const timer = setTimeout(() => process.kill("SIGKILL"), STOP_MS);
      await this.end(name, "SIGTERM");
      clearTimeout(timer);
    }
  }

  #spawn(name: string, program: string, args: readonly string[]): { process: ChildProcess; log: WriteStream } {
    const log = createWriteStream(join(this.#folder, `${name}.log`), { flags: "a" });
    const child = spawn(process.execPath, ["--max-semi-space-size=1", join(this.#dist, program), ...args], {
      // A group of its own: Ctrl-C reaches the demo, and the demo ends the others in order. Its stdin closes with us.
      detached: true,
      stdio: ["pipe", "pipe", "pipe"],
      env: { ...process.env, XDG_CONFIG_HOME: this.#folder },
    });
    child.stderr.pipe(log);
    this.#said.set(name, "");
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      this.#said.set(name, `${this.#said.get(name) ?? ""}${text}`.slice(-2000));
    });
    child.stdin.on("error", () => {});
    return { process: child, log };
  }

  #failure(name: string, what: string): DemoFailed {
    const tail = this.#said.get(name)?.trim().split("\n").slice(-8).join("\n");
    return new DemoFailed(`${name} ${what}${tail ? `\n--- the last of ${name}.log\n${tail}` : ""}`);
  }
}
