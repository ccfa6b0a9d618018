import { utf8 } from "../../core/bytes.js";
import { CommandRefused, CommandUncertain } from "../../core/command-errors.js";
import type { Driver, DriverDeps, OpenDriver, Reading } from "../../core/driver.js";
import { DeviceGone } from "../../core/errors.js";
import { LineFramer } from "../../core/line-framer.js";
import type { Port } from "../../core/port.js";
import { ChildSignal } from "../../core/scope.js";
import { commandNamed, describe } from "../configured-command.js";
import { fieldReadings, namePart, readingValue } from "../field-readings.js";
import { InOrder } from "../in-order.js";
import { valueAt } from "../json-pointer.js";
import { fill, fillText, namesIn } from "../template.js";
import { within } from "../within.js";
import type { SerialCommand, SerialConfig } from "./config.js";
import { jsonLines, keyValueLines, type Fields, type LineCodec } from "./line-codec.js";

/** Lines on their way into the outbox at most; then reading stops. */
const MAX_PENDING_LINES = 1024;

/** A device that speaks lines, by the keys of {@link SerialConfig}. */
export const openSerial: OpenDriver<SerialConfig> = async (config, deps, signal) => {
  const { path, baud, dataBits, parity, stopBits } = config;
  const port = await deps.openPort(path, { baudRate: baud, dataBits, parity, stopBits }, signal);
  return new SerialDriver(config, deps, port);
};

interface AwaitedAnswer {
  readonly matches: (fields: Fields) => boolean;
  readonly resolve: (fields: Fields) => void;
  readonly reject: (error: Error) => void;
}

class SerialDriver implements Driver {
  readonly id: string;
  readonly commands: Driver["commands"];
  readonly #config: SerialConfig;
  readonly #deps: DriverDeps;
  readonly #port: Port;
  readonly #codec: LineCodec;
  readonly #lines: LineFramer;
  readonly #ackNames: readonly string[];
  readonly #answersById: boolean;
  #awaited: AwaitedAnswer | undefined;
  #lastId = 0;
  #noise = 0;
  #acks = 0;
  #strayAnswers = 0;

  constructor(config: SerialConfig, deps: DriverDeps, port: Port) {
    this.id = config.id;
    this.commands = config.command.map(describe);
    this.#config = config;
    this.#deps = deps;
    this.#port = port;
    this.#codec = config.frame === "json-lines" ? jsonLines : keyValueLines;
    this.#lines = new LineFramer({ maxBytes: config.maxLineBytes, onLimit: "drop" });
    this.#ackNames = config.ack === undefined ? [] : namesIn(config.ack);
    this.#answersById = config.command.some(({ answer }) => answer === "id");
  }

  /** `noise` are lines that are none of ours, a boot banner among them; `tooLong` lines over the limit. */
  counters(): Readonly<Record<string, number>> {
    const { dropped: tooLong } = this.#lines;
    return { noise: this.#noise, tooLong, acks: this.#acks, strayAnswers: this.#strayAnswers };
  }

  async run(stop: AbortSignal): Promise<void> {
    await using session = new ChildSignal(stop);
    const pending = new InOrder((error) => session.abort(error));
    try {
      for await (const chunk of this.#port.read(session.signal)) {
        this.#take(this.#lines.push(chunk), pending, session.signal);
        await pending.atMost(MAX_PENDING_LINES, session.signal);
      }
      session.signal.throwIfAborted();
      throw new DeviceGone(`${this.#port.path} went away`);
    } catch (error) {
      this.#awaited?.reject(new CommandUncertain(`${this.#port.path} went away`, { cause: error }));
      if (!stop.aborted) throw error;
    }
  }

  async call(name: string, args: Readonly<Record<string, unknown>>, signal: AbortSignal): Promise<unknown> {
    const command = commandNamed(this.#config.command, name);
    const id = ++this.#lastId;
    const line = this.#format(command, { ...args, id });
    if (command.answer === "none") {
      await this.#send(line, signal);
      return { sent: true };
    }
    const options = { ms: command.timeoutMs, clock: this.#deps.clock, what: `${this.id}/${name}` };
    const answer = await within((inner) => this.#ask(command, id, line, inner), options, signal).catch(uncertain);
    const fault = valueAt(answer, ["error"]);
    if (fault !== undefined && fault !== null && fault !== false) {
      throw new CommandRefused(
        `the device says: ${String(readingValue(fault) ?? JSON.stringify(fault)).slice(0, 200)}`,
      );
    }
    return valueAt(answer, command.answerPointer) ?? null;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#awaited?.reject(new CommandUncertain(`${this.#port.path} was closed`));
    await this.#port[Symbol.asyncDispose]();
  }

  #take(lines: readonly Buffer[], pending: InOrder, signal: AbortSignal): void {
    const timeMs = this.#deps.clock.now();
    const messages = lines.flatMap((line) => this.#message(line));
    if (messages.length === 0) return;
    const readings = messages.flatMap((fields) => this.#readings(fields, timeMs));
    const acks = messages.flatMap((fields) => this.#ack(fields));
    const work = readings.length > 0 ? this.#deps.publish(readings) : Promise.resolve();
    pending.add(work, messages.length, async () => {
      if (acks.length === 0) return;
      await this.#port.write(utf8(acks.map((ack) => `${ack}\n`).join("")), signal);
      this.#acks += acks.length;
    });
  }

  /** The fields of a line with readings; noise and answers are dealt with here. */
  #message(line: Buffer): Fields[] {
    if (line.length === 0) return [];
    const fields = this.#codec.parse(line);
    if (!fields) {
      this.#noise += 1;
      return [];
    }
    if (this.#awaited?.matches(fields)) {
      this.#awaited.resolve(fields);
      return [];
    }
    if (!this.#answersById || valueAt(fields, this.#config.answerId) === undefined) return [fields];
    this.#strayAnswers += 1;
    return [];
  }

  #readings(fields: Fields, timeMs: number): Reading[] {
    if (this.#config.reading.length > 0) return fieldReadings(fields, this.#config.reading, timeMs);
    return Object.entries(fields).flatMap(([key, value]) => {
      const scalar = typeof value === "string" || this.#ackNames.includes(key) ? undefined : readingValue(value);
      return scalar === undefined ? [] : [{ name: namePart(key), value: scalar, timeMs }];
    });
  }

  #ack(fields: Fields): string[] {
    const { ack } = this.#config;
    if (ack === undefined || this.#ackNames.some((name) => readingValue(valueAt(fields, [name])) === undefined))
      return [];
    try {
      return [fillText(ack, fields)];
    } catch {
      return []; // A field with control characters: no line can be made of it.
    }
  }

  #format(command: SerialCommand, values: Fields): string {
    if (command.line) return fill(command.line, values);
    const { id, ...args } = values;
    return this.#codec.format({ id, cmd: command.name, ...args });
  }

  async #ask(command: SerialCommand, id: number, line: string, signal: AbortSignal): Promise<Fields> {
    const { answer, answerPointer } = command;
    const matches = (fields: Fields): boolean =>
      answer === "id"
        ? String(valueAt(fields, this.#config.answerId)) === String(id)
        : valueAt(fields, answerPointer) !== undefined || valueAt(fields, ["error"]) !== undefined;
    try {
      return await new Promise<Fields>((resolve, reject) => {
        this.#awaited = { matches, resolve, reject };
        signal.addEventListener("abort", () => reject(signal.reason as Error), { once: true });
        this.#send(line, signal).catch(reject);
      });
    } finally {
      this.#awaited = undefined;
    }
  }

  async #send(line: string, signal: AbortSignal): Promise<void> {
    await this.#port.write(utf8(`${line}\n`), signal).catch(uncertain);
  }
}

/** Once bytes may have left, a failure leaves open what the device did. */
function uncertain(error: unknown): never {
  if (error instanceof CommandUncertain) throw error;
  throw new CommandUncertain(error instanceof Error ? error.message : String(error), { cause: error });
}
