import { isDeepStrictEqual } from "node:util";
import { CommandRefused, CommandUncertain } from "../../core/command-errors.js";
import type { DriverDeps, Reading } from "../../core/driver.js";
import { codeOf, DeviceGone, SyntaxInvalid, TimedOut } from "../../core/errors.js";
import type { Port } from "../../core/port.js";
import { ChildSignal, Scope, TaskGroup, untilAborted } from "../../core/scope.js";
import type { CborInput, CborValue } from "../cbor.js";
import { KNOCK_REASONS } from "./frames.js";
import type { SessionLimits } from "./host-session.js";
import { Link } from "./link.js";
import type { LinkCounters, LinkEvent } from "./link-machine.js";
import type { LinkRecord } from "./link-record.js";
import {
  type BoardMessage,
  cborToJson,
  formatCommand,
  formatReceipt,
  formatTime,
  formatUpdate,
  jsonToCbor,
  parseBoardMessage,
} from "./messages.js";

export type BoardInfo = Omit<Extract<BoardMessage, { kind: "info" }>, "kind">;
type Readings = Extract<BoardMessage, { kind: "readings" }>;
type Answer = Extract<BoardMessage, { kind: "answer" }>;
type Updated = Extract<BoardMessage, { kind: "updated" }>;

export interface BoardOptions extends Pick<DriverDeps, "clock" | "log" | "publish"> {
  /** Owned from here on. */
  readonly port: Port;
  readonly baud: number;
  readonly keepAliveMs: number;
  readonly openTimeoutMs: number;
  /** Left out: in clear. */
  readonly record?: LinkRecord | undefined;
  readonly save: (record: LinkRecord) => Promise<void>;
  readonly limits?: Partial<SessionLimits>;
}

/** Publishes under way; then the board is held back. */
const MAX_PUBLISHING = 16;
const MAX_UPDATES_WAITING = 16;
/** With more than this on its way to the board a receipt waits, and the next one takes its place. */
const RECEIPT_ROOM_BYTES = 64;
const RECEIPT_WAIT_MS = 20;
const TIME_EVERY_MS = 600_000;
const LOG_LEVELS = ["debug", "info", "warn", "error"] as const;

interface Waiter<T> {
  readonly resolve: (value: T) => void;
  readonly reject: (error: unknown) => void;
}

/** Opens the port's link, and resolves when the board has said what it is. */
export async function openBoard(options: BoardOptions, signal: AbortSignal): Promise<Board> {
  const board = new Board(options);
  try {
    await board.ready(options.openTimeoutMs, signal);
    return board;
  } catch (error) {
    await board[Symbol.asyncDispose]();
    throw error;
  }
}

/** A microcontroller behind a link: its readings go to `publish`, its commands and updates are calls. */
export class Board {
  readonly #options: BoardOptions;
  readonly #link: Link;
  readonly #tasks: TaskGroup;
  readonly #scope = new Scope();
  readonly #firstInfo: Promise<BoardInfo>;
  #gotInfo: (info: BoardInfo) => void = () => undefined;
  #info: BoardInfo | undefined;
  #nextId = 1;
  readonly #answers = new Map<number, Waiter<Answer>>();
  readonly #updates: { readonly operation: number; readonly waiter: Waiter<Updated> }[] = [];
  readonly #publishing: { id: number; done: boolean; settled: Promise<void> }[] = [];
  /** The latest id that is in the outbox with all before it, and the latest that the board was told. */
  #receipt = { due: 0, told: 0 };
  #isReceipting = false;
  /** The board's uptime `uptimeMs` was at `wallMs`. */
  #reference = { wallMs: 0, uptimeMs: 0 };
  #timeSentMs = 0;
  #invalidMessages = 0;
  #restarts = 0;
  readonly #closed: Promise<void>;
  #isClosed = false;

  constructor(options: BoardOptions) {
    this.#options = options;
    this.#link = new Link({
      port: options.port,
      baud: options.baud,
      clock: options.clock,
      record: options.record,
      save: options.save,
      keepAliveMs: options.keepAliveMs,
      ...(options.limits ? { limits: options.limits } : {}),
      onEvent: (event) => this.#event(event),
    });
    this.#scope.use(options.port);
    this.#tasks = this.#scope.use(new TaskGroup(new AbortController().signal));
    this.#firstInfo = new Promise((resolve) => (this.#gotInfo = resolve));
    this.#tasks.start((signal) => this.#link.run(signal));
    this.#tasks.start((signal) => this.#tellTime(signal));
    this.#closed = this.#tasks.join();
    this.#closed.then(
      () => this.#end(new CommandUncertain("the link was closed")),
      (cause: unknown) => this.#end(new CommandUncertain("the board went away", { cause })),
    );
  }

  get info(): BoardInfo {
    if (!this.#info) throw new Error("the board has not said yet what it is");
    return this.#info;
  }

  get counters(): LinkCounters & { readonly invalidMessages: number; readonly restarts: number } {
    return { ...this.#link.counters, invalidMessages: this.#invalidMessages, restarts: this.#restarts };
  }

  /** Messages to the board not yet acknowledged, in bytes. */
  get queuedBytes(): number {
    return this.#link.queuedBytes;
  }

  async ready(timeoutMs: number, signal: AbortSignal): Promise<void> {
    await using child = new ChildSignal(signal);
    const ended = this.#closed.then(() => {
      throw new Error("the link ended by itself");
    });
    const late = this.#options.clock.sleep(timeoutMs, child.signal).then(() => {
      throw new TimedOut(`the board did not answer within ${timeoutMs} ms`);
    });
    late.catch(() => undefined);
    await untilAborted(Promise.race([this.#firstInfo, ended, late]), signal);
  }

  /** Returns when `stop` aborts. @throws {DeviceGone} when the link ends. */
  async run(stop: AbortSignal): Promise<void> {
    try {
      await untilAborted(this.#closed, stop);
    } catch (error) {
      if (!stop.aborted) throw error;
    }
  }

  /**
   * Runs a command on the board; the result is JSON.
   *
   * @throws {CommandRefused} when the board did nothing, {@link CommandUncertain} when it may have acted.
   */
  async call(
    name: string,
    args: Readonly<Record<string, unknown>>,
    timeoutMs: number,
    signal: AbortSignal,
  ): Promise<unknown> {
    const id = this.#nextId++;
    try {
      const fields = Object.fromEntries(Object.entries(args).map(([key, value]) => [key, jsonToCbor(value, key)]));
      this.#send(formatCommand(id, name, fields, timeoutMs));
    } catch (cause) {
      throw new CommandRefused("the command was not sent", { cause });
    }
    const answer = await this.#answer(id, timeoutMs, signal);
    if (answer.status === "done") return cborToJson(answer.result);
    const reason = typeof answer.result === "string" ? answer.result : "the board gave no reason";
    throw answer.status === "refused" ? new CommandRefused(reason) : new CommandUncertain(reason);
  }

  async #answer(id: number, timeoutMs: number, signal: AbortSignal): Promise<Answer> {
    await using child = new ChildSignal(signal);
    const answered = new Promise<Answer>((resolve, reject: (error: unknown) => void) => {
      this.#answers.set(id, { resolve, reject });
    });
    const late = this.#options.clock.sleep(timeoutMs, child.signal).then(() => {
      throw new CommandUncertain(`the board did not answer within ${timeoutMs} ms`);
    });
    late.catch(() => undefined);
    try {
      return await untilAborted(Promise.race([answered, late]), child.signal);
    } finally {
      this.#answers.delete(id);
    }
  }

  /**
   * One operation of section 4, "Update". Answers come in order, so calls may overlap.
   *
   * @throws {TimedOut}, {CommandUncertain} when the link ends.
   */
  async update(
    operation: number,
    fields: readonly CborInput[],
    timeoutMs: number,
    signal: AbortSignal,
  ): Promise<{ readonly code: number; readonly result: readonly CborValue[] }> {
    if (this.#updates.length >= MAX_UPDATES_WAITING) throw new CommandRefused("too many update messages wait");
    this.#send(formatUpdate(operation, ...fields));
    await using child = new ChildSignal(signal);
    const answered = new Promise<Updated>((resolve, reject: (error: unknown) => void) => {
      this.#updates.push({ operation, waiter: { resolve, reject } });
    });
    const late = this.#options.clock.sleep(timeoutMs, child.signal).then(() => {
      throw new TimedOut(`the board did not answer within ${timeoutMs} ms`);
    });
    late.catch(() => undefined);
    return await untilAborted(Promise.race([answered, late]), child.signal);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#scope[Symbol.asyncDispose]();
  }

  async #event(event: Exclude<LinkEvent, { type: "store" }>): Promise<void> {
    const { log } = this.#options;
    if (event.type === "message") await this.#message(event.message);
    else if (event.type === "keys") {
      log.debug({ kind: event.kind, frameBytes: event.board.frameBytes, window: event.board.window }, "link session");
      if (event.rebooted) this.#restarted();
    } else if (event.type === "knock") {
      log.debug({ reason: KNOCK_REASONS[event.reason] ?? event.reason }, "the board knocks");
    }
  }

  #send(message: Uint8Array): void {
    if (this.#isClosed) throw new DeviceGone("the link is closed");
    this.#link.send(message);
  }

  #end(error: CommandUncertain): void {
    this.#isClosed = true;
    this.#abandon(error);
  }

  /** Ids begin anew: what is still on its way into the outbox is of the life before. */
  #restarted(): void {
    for (const entry of this.#publishing) entry.id = 0;
    this.#receipt = { due: 0, told: 0 };
    this.#abandon(new CommandUncertain("the board restarted"));
  }

  #abandon(error: CommandUncertain): void {
    for (const waiter of this.#answers.values()) waiter.reject(error);
    for (const { waiter } of this.#updates.splice(0)) waiter.reject(error);
  }

  async #message(bytes: Uint8Array): Promise<void> {
    let message: BoardMessage | undefined;
    try {
      message = parseBoardMessage(bytes);
    } catch (error) {
      if (!(error instanceof SyntaxInvalid)) throw error;
      this.#options.log.debug({ error: error.message }, "a message from the board is not understood");
    }
    if (!message) {
      this.#invalidMessages += 1;
      return;
    }
    switch (message.kind) {
      case "readings":
        return this.#readings(message);
      case "answer":
        this.#answers.get(message.id)?.resolve(message);
        return;
      case "uptime":
        return this.#uptime(message.token, message.uptimeMs);
      case "log":
        this.#options.log[LOG_LEVELS[message.level] ?? "info"]({ text: message.text.slice(0, 500) }, "the board says");
        return;
      case "info":
        return this.#told(message);
      case "updated":
        this.#updated(message);
        return;
    }
  }

  async #told(info: BoardInfo): Promise<void> {
    const { clock, log } = this.#options;
    const again = this.#info !== undefined;
    if (this.#info && !isDeepStrictEqual(this.#info.commands, info.commands)) {
      throw new DeviceGone("the board came back with other commands");
    }
    this.#info = info;
    this.#reference = { wallMs: clock.now(), uptimeMs: info.uptimeMs };
    this.#sendTime();
    log.info(
      { version: info.version, hardware: info.hardware, reset: resetOf(info) },
      again ? "the board restarted" : "the board is there",
    );
    this.#gotInfo(info);
    if (!again) return;
    this.#restarts += 1;
    await this.#publish(0, [{ name: "restart", value: resetOf(info), class: "event" }]);
  }

  #updated(message: Updated): void {
    const index = this.#updates.findIndex(({ operation }) => operation === message.operation);
    // Answers come in order: those before it will never come.
    const [found] = index === -1 ? [] : this.#updates.splice(index, 1);
    found?.waiter.resolve(message);
  }

  #readings({ id, readings }: Readings): Promise<void> {
    const { wallMs, uptimeMs } = this.#reference;
    return this.#publish(
      id,
      readings.map(({ name, value, atMs, unit, class: readingClass }) => ({
        name,
        value,
        // The difference is signed: the reading may be younger than the reference.
        timeMs: wallMs + ((atMs - uptimeMs) | 0),
        class: readingClass,
        ...(unit === undefined ? {} : { unit }),
      })),
    );
  }

  /** In order, several at once; the receipt goes out when all up to it are in the outbox. */
  async #publish(id: number, readings: readonly Reading[]): Promise<void> {
    if (readings.length > 0) {
      const entry = { id, done: false, settled: Promise.resolve() };
      entry.settled = this.#options.publish(readings).then(() => {
        entry.done = true;
        this.#sendReceipts();
      });
      entry.settled.catch((error: unknown) => this.#tasks.start(() => Promise.reject(error)));
      this.#publishing.push(entry);
    }
    if (this.#publishing.length >= MAX_PUBLISHING) {
      await untilAborted(this.#publishing[0]?.settled ?? Promise.resolve(), this.#tasks.signal);
    }
  }

  #sendReceipts(): void {
    let last = 0;
    while (this.#publishing[0]?.done) last = this.#publishing.shift()?.id ?? last;
    if (last === 0) return;
    this.#receipt.due = last;
    if (!this.#isReceipting) this.#tasks.start((signal) => this.#tellReceipts(signal));
  }

  /** One receipt tells of all readings before it, so that commands need not wait behind thousands of them. */
  async #tellReceipts(signal: AbortSignal): Promise<void> {
    this.#isReceipting = true;
    try {
      while (this.#receipt.due !== this.#receipt.told) {
        if (this.queuedBytes <= RECEIPT_ROOM_BYTES) {
          this.#receipt.told = this.#receipt.due;
          this.#sendQuietly(formatReceipt(this.#receipt.told));
        } else {
          await this.#options.clock.sleep(RECEIPT_WAIT_MS, signal);
        }
      }
    } finally {
      this.#isReceipting = false;
    }
  }

  #sendTime(): void {
    this.#timeSentMs = this.#options.clock.monotonicMs();
    this.#sendQuietly(formatTime(this.#options.clock.now(), Math.floor(this.#timeSentMs) >>> 0));
  }

  #uptime(token: number, uptimeMs: number): void {
    const nowMs = this.#options.clock.monotonicMs();
    if (token !== Math.floor(this.#timeSentMs) >>> 0) return;
    const wayMs = (nowMs - this.#timeSentMs) / 2;
    this.#reference = { wallMs: Math.round(this.#options.clock.now() - wayMs), uptimeMs };
  }

  async #tellTime(signal: AbortSignal): Promise<void> {
    for (;;) {
      await this.#options.clock.sleep(TIME_EVERY_MS, signal);
      this.#sendTime();
    }
  }

  /** What may be lost: a later one makes up for it. */
  #sendQuietly(message: Uint8Array): void {
    try {
      this.#send(message);
    } catch (error) {
      this.#options.log.debug({ code: codeOf(error) }, "not sent to the board");
    }
  }
}

const resetOf = (info: BoardInfo): string => KNOCK_REASONS[info.resetReason] ?? String(info.resetReason);
