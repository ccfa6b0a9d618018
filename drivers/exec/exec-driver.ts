import { spawn, type ChildProcessByStdio } from "node:child_process";
import type { Readable, Writable } from "node:stream";
import { CommandRefused, CommandUncertain } from "../../core/command-errors.js";
import type { CommandDescription, Driver, DriverDeps, OpenDriver, ReadingDescription } from "../../core/driver.js";
import { DeviceGone, SyntaxInvalid } from "../../core/errors.js";
import { LineFramer } from "../../core/line-framer.js";
import { ChildSignal, untilAborted } from "../../core/scope.js";
import { commandNamed } from "../configured-command.js";
import { InOrder } from "../in-order.js";
import { within } from "../within.js";
import type { ExecConfig } from "./config.js";
import {
  formatExecRequest,
  parseExecMessage,
  type ExecAnswer,
  type ExecDeclaration,
  type ExecMessage,
  type ExecRequest,
} from "./exec-messages.js";
import { trustedProgram } from "./trusted-program.js";

/** Messages on their way into the outbox at most; then the program's output is not read. */
const MAX_PENDING = 256;
/** What of standard error goes into the log. */
const MAX_LOG_LINE_BYTES = 500;
const LOG_LINES_A_MINUTE = 30;
/** A program that does not end when its input closes. */
const TERMINATE_MS = 500;

type Program = ChildProcessByStdio<Writable, Readable, Readable>;

/** A program of root's that speaks JSON lines (docs/extend/exec.md). */
export const openExec: OpenDriver<ExecConfig> = (config, deps, signal) => openExecOf([0])(config, deps, signal);

/** The same for programs of other owners, which tests need that are not root. */
export function openExecOf(owners: readonly number[]): OpenDriver<ExecConfig> {
  return async (config, deps, signal) => {
    const path = await trustedProgram(config.folder, config.program, owners);
    signal.throwIfAborted();
    // A group of its own, so that what it starts ends with it. Nothing of our environment is its business.
    const program: Program = spawn(path, config.args, {
      stdio: ["pipe", "pipe", "pipe"],
      detached: true,
      cwd: await deps.stateDir(),
      env: { PATH: "/usr/local/bin:/usr/bin:/bin", LANG: "C.UTF-8" },
      ...config.user,
    });
    const driver = new ExecDriver(config, deps, program);
    try {
      await driver.start(signal);
      return driver;
    } catch (error) {
      await driver[Symbol.asyncDispose]();
      throw error;
    }
  };
}

class ExecDriver implements Driver {
  readonly id: string;
  readings?: readonly ReadingDescription[];
  commands: readonly CommandDescription[] = [];
  readonly #config: ExecConfig;
  readonly #deps: DriverDeps;
  readonly #program: Program;
  readonly #ended: Promise<void>;
  readonly #lines: LineFramer;
  readonly #messages: AsyncGenerator<ExecMessage>;
  readonly #calls = new Map<number, (answer: ExecAnswer) => void>();
  #lastCall = 0;
  #exit = "has not started";
  #stderrLines = 0;
  #strayAnswers = 0;

  constructor(config: ExecConfig, deps: DriverDeps, program: Program) {
    this.id = config.id;
    this.#config = config;
    this.#deps = deps;
    this.#program = program;
    this.#lines = new LineFramer({ maxBytes: config.maxLineBytes });
    this.#ended = new Promise((resolve) => {
      program.once("error", (error) => {
        this.#exit = error.message;
        resolve();
      });
      program.once("exit", (code, signal) => {
        this.#exit = `ended with ${signal ?? `code ${code ?? "unknown"}`}`;
        resolve();
      });
    });
    program.stdin.on("error", () => undefined); // It closes with the program, which is told by `exit`.
    this.#logErrors();
    this.#messages = this.#read();
  }

  counters(): Readonly<Record<string, number>> {
    return { stderrLines: this.#stderrLines, strayAnswers: this.#strayAnswers };
  }

  /** Waits for the first line. @throws {SyntaxInvalid} when it does not name the commands. */
  async start(signal: AbortSignal): Promise<void> {
    const { program, startMs } = this.#config;
    const options = { ms: startMs, clock: this.#deps.clock, what: `the first line of ${program}` };
    const first = await within(() => this.#messages.next(), options, signal);
    if (first.done) throw await this.#gone();
    if (!("commands" in first.value)) throw new SyntaxInvalid('expected {"commands":[…]} as the first line');
    this.#declare(first.value);
  }

  async run(stop: AbortSignal): Promise<void> {
    await using session = new ChildSignal(stop);
    const pending = new InOrder((error) => session.abort(error));
    try {
      for (;;) {
        const next = await untilAborted(this.#messages.next(), session.signal);
        if (next.done) throw await this.#gone();
        this.#take(next.value, pending);
        await pending.atMost(MAX_PENDING, session.signal);
      }
    } catch (error) {
      if (!stop.aborted) throw error;
    }
  }

  async call(name: string, args: Readonly<Record<string, unknown>>, signal: AbortSignal): Promise<unknown> {
    commandNamed(this.commands, name);
    const call = ++this.#lastCall;
    const options = { ms: this.#config.commandMs, clock: this.#deps.clock, what: `${this.id}/${name}` };
    try {
      const answered = new Promise<ExecAnswer>((resolve) => this.#calls.set(call, resolve));
      const ended = this.#ended.then(async () => Promise.reject(await this.#gone()));
      ended.catch(() => undefined);
      this.#tell({ call, command: name, args });
      const answer = await within(() => Promise.race([answered, ended]), options, signal);
      if (answer.refused !== undefined) throw new CommandRefused(answer.refused);
      if (answer.uncertain !== undefined) throw new CommandUncertain(answer.uncertain);
      return answer.result ?? null;
    } catch (cause) {
      if (cause instanceof CommandRefused || cause instanceof CommandUncertain) throw cause;
      throw new CommandUncertain(cause instanceof Error ? cause.message : String(cause), { cause });
    } finally {
      this.#calls.delete(call);
    }
  }

  /** Closes its input, which is the sign to end; then SIGTERM and SIGKILL to its whole group. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#program.stdin.end();
    for (const signal of ["SIGTERM", "SIGKILL"] as const) {
      const options = { ms: TERMINATE_MS, clock: this.#deps.clock, what: "end" };
      const ended = await within(() => this.#ended.then(() => true), options, new AbortController().signal).catch(
        () => false,
      );
      if (ended) break;
      this.#kill(signal);
    }
    await this.#ended;
    this.#kill("SIGKILL"); // What it started and left behind.
    this.#program.stdout.destroy();
    this.#program.stderr.destroy();
  }

  #take(message: ExecMessage, pending: InOrder): void {
    if ("readings" in message) {
      const { readings, n } = message;
      pending.add(this.#deps.publish(readings), 1, () => {
        if (n !== undefined) this.#tell({ ack: n });
      });
    } else if ("answer" in message) {
      const answered = this.#calls.get(message.answer);
      if (answered) answered(message);
      else this.#strayAnswers += 1;
    } else if ("gone" in message) {
      throw new DeviceGone(message.gone);
    } else {
      this.#declare(message);
    }
  }

  #declare({ commands, gives }: ExecDeclaration): void {
    this.commands = commands;
    if (gives) this.readings = gives;
  }

  async *#read(): AsyncGenerator<ExecMessage> {
    for await (const chunk of this.#program.stdout) {
      for (const line of this.#lines.push(chunk as Buffer)) if (line.length > 0) yield parseExecMessage(line);
    }
  }

  #tell(request: ExecRequest): void {
    if (this.#program.stdin.writable) this.#program.stdin.write(formatExecRequest(request));
  }

  /** Standard error, for people: so many lines a minute at most. */
  #logErrors(): void {
    const lines = new LineFramer({ maxBytes: MAX_LOG_LINE_BYTES, onLimit: "drop" });
    let minute = 0;
    let left = LOG_LINES_A_MINUTE;
    this.#program.stderr.on("data", (chunk: Buffer) => {
      const now = Math.floor(this.#deps.clock.monotonicMs() / 60_000);
      if (now !== minute) left = LOG_LINES_A_MINUTE;
      minute = now;
      for (const line of lines.push(chunk)) {
        this.#stderrLines += 1;
        if (left > 0) this.#deps.log.info({ line: line.toString("utf8") }, "program says");
        left -= 1;
      }
    });
  }

  async #gone(): Promise<DeviceGone> {
    await this.#ended;
    return new DeviceGone(`${this.#config.program} ${this.#exit}`);
  }

  #kill(signal: NodeJS.Signals): void {
    const { pid } = this.#program;
    if (pid === undefined) return;
    try {
      process.kill(-pid, signal);
    } catch {
      // Nobody of the group is left.
    }
  }
}
