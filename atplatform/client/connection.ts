import type { Clock } from "../../core/clock.js";
import { LimitExceeded, TimedOut } from "../../core/errors.js";
import { type Disposable, untilAborted } from "../../core/scope.js";
import { parseAtError } from "../protocol/at-error.js";
import { type Frame, MAX_RESPONSE_BYTES, ResponseFramer } from "../protocol/response-framer.js";
import { oneLine } from "../protocol/verb-codec.js";
import { ConnectionLost } from "../transport/errors.js";
import type { TlsChannel } from "../transport/tls-channel.js";
import { AnswerInvalid, AnswerLost, NotSent } from "./errors.js";

export interface ConnectionOptions {
  readonly clock: Clock;
  readonly commandTimeoutMs: number;
  /** Commands that wait for the one in flight. */
  readonly maxQueued?: number;
  /** Given, this is a monitor connection: each line is a message. While a returned promise is pending none is read. */
  readonly onNotification?: (json: string) => void | Promise<void>;
}

interface Command {
  readonly line: string;
  readonly timeoutMs: number;
  readonly resolve: (body: string) => void;
  readonly reject: (error: unknown) => void;
}

/** How long a reply without the prompt that should follow is waited on before its newline alone ends it. */
const SETTLE_MS = 250;
const DEFAULT_MAX_QUEUED = 256;

/**
 * A connection to an atServer with one command in flight, as replies carry no id. So a command that is not answered in
 * time closes it.
 */
export class Connection implements Disposable {
  readonly #channel: TlsChannel;
  readonly #options: ConnectionOptions;
  readonly #framer: ResponseFramer;
  readonly #queue: Command[] = [];
  readonly #ended: Promise<void>;
  #current: Command | undefined;
  readonly #life = new AbortController();
  /** Of the command in flight. */
  #deadlineMs = Infinity;
  /** When somebody looks at the deadline next. */
  #watchedUntilMs = Infinity;
  /** Only while a reply waits for its prompt: `abort` makes an exception each time, which costs 25 µs. */
  #settling: AbortController | undefined;
  #reason: Error | undefined;
  #lastUseMs: number;

  constructor(channel: TlsChannel, options: ConnectionOptions) {
    this.#channel = channel;
    this.#options = options;
    const mode = options.onNotification ? "monitor" : "command";
    this.#framer = new ResponseFramer({ maxBytes: MAX_RESPONSE_BYTES, mode });
    this.#lastUseMs = options.clock.monotonicMs();
    this.#ended = channel
      .read((chunk) => this.#receive(chunk))
      .then(
        () => this.#close(channel.lost),
        (error: unknown) => this.#close(error instanceof Error ? error : new AnswerInvalid(String(error))),
      );
  }

  /** Why it is closed, or `undefined` while it is open. */
  get closedBy(): Error | undefined {
    return this.#reason;
  }

  /** Milliseconds since something was sent or received. */
  get idleMs(): number {
    return this.#options.clock.monotonicMs() - this.#lastUseMs;
  }

  /** Resolves with the reason when the connection has closed. */
  async closed(signal: AbortSignal): Promise<Error> {
    await untilAborted(this.#ended, signal);
    return this.#reason ?? this.#channel.lost;
  }

  /**
   * Sends one command, without its newline, and resolves with what the answer has after `data:`.
   *
   * When `signal` aborts, the answer is still waited for, but by nobody.
   *
   * @throws {AtServerError} when the answer is an error.
   * @throws {NotSent} or {@link AnswerLost} when the connection closed before or after the command was written.
   * @throws {LimitExceeded} when too many commands wait already; {@link SyntaxInvalid} on more than one line.
   */
  async send(line: string, { timeoutMs }: { readonly timeoutMs?: number }, signal: AbortSignal): Promise<string> {
    signal.throwIfAborted();
    oneLine(line);
    if (this.#reason) throw new NotSent("the connection is closed", { cause: this.#reason });
    const { maxQueued = DEFAULT_MAX_QUEUED, commandTimeoutMs } = this.#options;
    if (this.#queue.length >= maxQueued) throw new LimitExceeded(`more than ${maxQueued} commands are waiting`);
    let command: Command | undefined;
    const answer = new Promise<string>((resolve, reject) => {
      command = { line, timeoutMs: timeoutMs ?? commandTimeoutMs, resolve, reject };
      this.#queue.push(command);
      this.#next();
    });
    try {
      return await untilAborted(answer, signal);
    } finally {
      const at = command ? this.#queue.indexOf(command) : -1;
      if (at !== -1) this.#queue.splice(at, 1);
    }
  }

  /** Sends a command that is not answered (`monitor`). */
  async post(line: string, signal: AbortSignal): Promise<void> {
    if (this.#reason) throw new NotSent("the connection is closed", { cause: this.#reason });
    this.#lastUseMs = this.#options.clock.monotonicMs();
    await this.#channel.write(`${line}\n`, signal);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#close(new ConnectionLost("we closed the connection"));
    await this.#ended;
  }

  #next(): void {
    if (this.#current || this.#reason) return;
    const command = this.#queue.shift();
    if (!command) return;
    this.#current = command;
    const { clock } = this.#options;
    this.#lastUseMs = clock.monotonicMs();
    this.#deadlineMs = this.#lastUseMs + command.timeoutMs;
    if (this.#deadlineMs < this.#watchedUntilMs) this.#watch();
    // Node's TLS takes twice as long for strings.
    this.#channel.write(Buffer.from(`${command.line}\n`)).catch((error: unknown) => this.#close(error as Error));
  }

  /** One timer for many commands: to set and abort one for each is a good part of what a command costs. */
  #watch(): void {
    const { clock } = this.#options;
    const untilMs = this.#deadlineMs;
    this.#watchedUntilMs = untilMs;
    const look = (): void => {
      if (this.#watchedUntilMs === untilMs) this.#watchedUntilMs = Infinity;
      if (!this.#current) return;
      if (clock.monotonicMs() >= this.#deadlineMs) {
        return this.#close(new TimedOut(`no answer came within ${this.#current.timeoutMs} ms`));
      }
      if (this.#deadlineMs < this.#watchedUntilMs) this.#watch();
    };
    clock.sleep(Math.max(0, untilMs - clock.monotonicMs()), this.#life.signal).then(look, ignore);
  }

  #receive(chunk: Buffer): void | Promise<void> {
    this.#stopSettling();
    this.#lastUseMs = this.#options.clock.monotonicMs();
    const pending = this.#framer.push(chunk).map((frame) => this.#take(frame));
    if (this.#framer.unsettled) this.#settleLater();
    const waits = pending.filter((wait) => wait !== undefined);
    return waits.length > 0 ? Promise.all(waits).then(ignore) : undefined;
  }

  #stopSettling(): void {
    this.#settling?.abort();
    this.#settling = undefined;
  }

  #settleLater(): void {
    this.#settling = new AbortController();
    const settle = (): void => this.#framer.settle().forEach((frame) => void this.#take(frame));
    this.#options.clock.sleep(SETTLE_MS, this.#settling.signal).then(settle, ignore);
  }

  #take(frame: Frame): void | Promise<void> {
    if (this.#reason) return;
    switch (frame.type) {
      case "notification":
        // One that comes on a command connection is not asked for, and never an answer.
        return this.#options.onNotification?.(frame.body);
      case "data":
        return this.#answer((command) => command.resolve(frame.body.trim()));
      case "error": {
        const error = parseAtError(frame.body);
        if (!this.#current) return this.#close(error); // such as AT0012, sent instead of a greeting
        return this.#answer((command) => command.reject(error));
      }
      case "stream":
      case "handshake":
        return this.#close(new AnswerInvalid(`a message of type ${frame.type} was not expected`));
    }
  }

  #answer(settle: (command: Command) => void): void {
    const command = this.#current;
    if (!command) return this.#close(new AnswerInvalid("an answer came that nothing had asked for"));
    this.#current = undefined;
    settle(command);
    this.#next();
  }

  #close(reason: Error): void {
    if (this.#reason) return;
    this.#reason = reason;
    this.#life.abort();
    this.#stopSettling();
    void this.#channel[Symbol.asyncDispose]();
    this.#current?.reject(new AnswerLost("the connection closed before the answer", { cause: reason }));
    this.#current = undefined;
    for (const command of this.#queue.splice(0)) {
      command.reject(new NotSent("the connection closed before the command was sent", { cause: reason }));
    }
  }
}

const ignore = (): void => undefined;
