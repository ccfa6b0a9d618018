import { utf8 } from "../../core/bytes.js";
import { CommandRefused, CommandUncertain } from "../../core/command-errors.js";
import type { Driver, DriverDeps, OpenDriver, Reading } from "../../core/driver.js";
import { DeviceGone, TimedOut } from "../../core/errors.js";
import type { Port } from "../../core/port.js";
import { ChildSignal } from "../../core/scope.js";
import { commandNamed, describe } from "../configured-command.js";
import { describeField, fieldReadings, namePart, readingValue } from "../field-readings.js";
import { InOrder } from "../in-order.js";
import { valueAt } from "../json-pointer.js";
import { OneAtATime } from "../one-at-a-time.js";
import { fill, fillText, namesIn } from "../template.js";
import { within } from "../within.js";
import type { SerialCommand, SerialConfig } from "./config.js";
import type { FrameCodec } from "./frame-codec.js";
import type { Fields, LineCodec } from "./line-codec.js";
import { PortUnusable } from "./port-unusable.js";
import { protocolOf } from "./protocol.js";
import { findUsbPorts } from "./usb-ports.js";

/** Messages on their way into the outbox at most; then reading stops. */
const MAX_PENDING = 1024;
const MAX_COMMANDS = 32;

/** A device that speaks lines, by the keys of {@link SerialConfig}. */
export const openSerial: OpenDriver<SerialConfig> = async (config, deps, signal) => {
  const { baud, dataBits, parity, stopBits, rs485 } = config;
  const options = { baudRate: baud, dataBits, parity, stopBits, ...(rs485 === undefined ? {} : { rs485 }) };
  const port = await deps.openPort(await portPath(config), options, signal);
  return new SerialDriver(config, deps, port);
};

/** @throws {DeviceGone} when no adapter fits, {PortUnusable} when several do. */
async function portPath({ path, usb }: SerialConfig): Promise<string> {
  if (path !== undefined) return path;
  const fitting = usb === undefined ? [] : await findUsbPorts(usb);
  const [first, second] = fitting;
  if (!first) throw new DeviceGone("no USB adapter with these identifiers is plugged in");
  if (second) {
    const which = fitting.map((port) => `${port.path} (serial number ${port.serialNumber ?? "none"})`).join(", ");
    throw new PortUnusable(`several USB adapters fit: ${which}; name the serial number`);
  }
  return first.path;
}

type SerialPoll = SerialConfig["poll"][number];

interface AwaitedAnswer {
  readonly matches: (fields: Fields) => boolean;
  readonly resolve: (fields: Fields) => void;
  readonly reject: (error: Error) => void;
}

class SerialDriver implements Driver {
  readonly id: string;
  readonly readings?: NonNullable<Driver["readings"]>;
  readonly commands: Driver["commands"];
  readonly #config: SerialConfig;
  readonly #deps: DriverDeps;
  readonly #port: Port;
  readonly #frames: FrameCodec;
  readonly #content: LineCodec;
  readonly #ackNames: readonly string[];
  readonly #answersById: boolean;
  readonly #finish: (line: string) => string;
  /** Whose turn it is to ask. */
  readonly #line: OneAtATime;
  #awaited: AwaitedAnswer | undefined;
  /** Ends the wait of a poll. */
  #answered: (() => void) | undefined;
  #chunks = 0;
  #lastId = 0;
  #noise = 0;
  #acks = 0;
  #strayAnswers = 0;
  #unanswered = 0;

  constructor(config: SerialConfig, deps: DriverDeps, port: Port) {
    this.id = config.id;
    // Without a list of them, whatever fields the device sends.
    if (config.reading.length > 0) this.readings = config.reading.map(describeField);
    this.commands = config.command.map(describe);
    this.#config = config;
    this.#deps = deps;
    this.#port = port;
    const { frames, content, finish } = protocolOf(config);
    this.#frames = frames;
    this.#content = content;
    this.#finish = finish ?? ((line) => line);
    this.#ackNames = config.ack === undefined ? [] : namesIn(config.ack);
    // The supervisor lets a bounded number of commands through, one at a time; each poll waits for its turn once.
    this.#line = new OneAtATime(config.poll.length + MAX_COMMANDS);
    this.#answersById = config.command.some(({ answer }) => answer === "id");
  }

  /** `noise` are frames that are none of ours, a boot banner among them; `dropped` those too long or malformed. */
  counters(): Readonly<Record<string, number>> {
    const { dropped } = this.#frames;
    const polled = this.#config.poll.length > 0 ? { unanswered: this.#unanswered } : {};
    return { noise: this.#noise, dropped, acks: this.#acks, strayAnswers: this.#strayAnswers, ...polled };
  }

  async run(stop: AbortSignal): Promise<void> {
    await using session = new ChildSignal(stop);
    const fail = (error: unknown): void => session.abort(error);
    const pending = new InOrder(fail);
    const polls = this.#config.poll.map((poll) => this.#poll(poll, session.signal));
    const tasks = [...polls, this.#listenForSilence(session.signal)].map((task) => task.catch(fail));
    try {
      for await (const chunk of this.#port.read(session.signal)) {
        this.#chunks += 1;
        this.#take(this.#frames.push(chunk), pending, session.signal);
        await pending.atMost(MAX_PENDING, session.signal);
      }
      session.signal.throwIfAborted();
      throw new DeviceGone(`${this.#port.path} went away`);
    } catch (error) {
      this.#awaited?.reject(new CommandUncertain(`${this.#port.path} went away`, { cause: error }));
      if (!stop.aborted) throw error;
    } finally {
      session.abort();
      await Promise.all(tasks);
    }
  }

  /** Asks a device that says nothing by itself. On a shared line there is one question at a time, commands among them. */
  async #poll({ line, intervalMs, timeoutMs }: SerialPoll, signal: AbortSignal): Promise<void> {
    const { clock } = this.#deps;
    const bytes = this.#encode(this.#finish(line));
    for (;;) {
      const startMs = clock.monotonicMs();
      await this.#askOnce(bytes, timeoutMs, signal);
      await clock.sleep(Math.max(0, startMs + intervalMs - clock.monotonicMs()), signal);
    }
  }

  async #askOnce(bytes: Uint8Array, timeoutMs: number, signal: AbortSignal): Promise<void> {
    const turn = await this.#line.take(signal);
    const answered = new Promise<void>((resolve) => (this.#answered = resolve));
    try {
      await this.#port.write(bytes, signal);
      await within(() => answered, { ms: timeoutMs, clock: this.#deps.clock, what: "an answer" }, signal);
    } catch (error) {
      if (!(error instanceof TimedOut)) throw error;
      this.#unanswered += 1;
    } finally {
      this.#answered = undefined;
      await turn[Symbol.asyncDispose]();
    }
  }

  /** @throws {DeviceGone} when the device has said nothing for the configured time. */
  async #listenForSilence(signal: AbortSignal): Promise<void> {
    const { silentAfterMs } = this.#config;
    if (silentAfterMs === undefined) return;
    for (let before = -1; this.#chunks !== before;) {
      before = this.#chunks;
      await this.#deps.clock.sleep(silentAfterMs, signal);
    }
    throw new DeviceGone(`${this.#port.path}: the device has said nothing for ${silentAfterMs} ms`);
  }

  async call(name: string, args: Readonly<Record<string, unknown>>, signal: AbortSignal): Promise<unknown> {
    const command = commandNamed(this.#config.command, name);
    const turn = await this.#line.take(signal);
    try {
      return await this.#call(command, args, signal);
    } finally {
      await turn[Symbol.asyncDispose]();
    }
  }

  async #call(command: SerialCommand, args: Readonly<Record<string, unknown>>, signal: AbortSignal): Promise<unknown> {
    const id = ++this.#lastId;
    const line = this.#format(command, { ...args, id });
    if (command.answer === "none") {
      await this.#send(line, signal);
      return { sent: true };
    }
    const options = { ms: command.timeoutMs, clock: this.#deps.clock, what: `${this.id}/${command.name}` };
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

  #take(frames: readonly Uint8Array[], pending: InOrder, signal: AbortSignal): void {
    const timeMs = this.#deps.clock.now();
    const readings: Reading[] = [];
    const acks: Uint8Array[] = [];
    let messages = 0;
    for (const frame of frames) {
      const fields = this.#message(frame);
      if (!fields) continue;
      messages += 1;
      for (const reading of this.#readings(fields, timeMs)) readings.push(reading);
      const ack = this.#ack(fields);
      if (ack) acks.push(ack);
    }
    if (messages === 0) return;
    this.#answered?.();
    const work = readings.length > 0 ? this.#deps.publish(readings) : Promise.resolve();
    pending.add(work, messages, async () => {
      if (acks.length === 0) return;
      await this.#port.write(Buffer.concat(acks), signal);
      this.#acks += acks.length;
    });
  }

  /** The fields of a frame with readings; noise and answers are dealt with here. */
  #message(frame: Uint8Array): Fields | undefined {
    if (frame.length === 0) return undefined;
    const fields = this.#content.parse(frame);
    if (!fields) {
      this.#noise += 1;
      return undefined;
    }
    if (this.#awaited?.matches(fields)) {
      this.#awaited.resolve(fields);
      return undefined;
    }
    if (!this.#answersById || valueAt(fields, this.#config.answerId) === undefined) return fields;
    this.#strayAnswers += 1;
    return undefined;
  }

  #readings(fields: Fields, timeMs: number): Reading[] {
    if (this.#config.reading.length > 0) return fieldReadings(fields, this.#config.reading, timeMs);
    return Object.entries(fields).flatMap(([key, value]) => {
      const scalar = typeof value === "string" || this.#ackNames.includes(key) ? undefined : readingValue(value);
      return scalar === undefined ? [] : [{ name: namePart(key), value: scalar, timeMs }];
    });
  }

  #ack(fields: Fields): Uint8Array | undefined {
    const { ack } = this.#config;
    if (ack === undefined || this.#ackNames.some((name) => readingValue(valueAt(fields, [name])) === undefined)) {
      return undefined;
    }
    try {
      return this.#encode(fillText(ack, fields));
    } catch {
      return undefined; // A field with control characters or the like: no line can be made of it.
    }
  }

  #format(command: SerialCommand, values: Fields): string {
    if (command.line) return this.#finish(fill(command.line, values));
    const { id, ...args } = values;
    return this.#content.format({ id, cmd: command.name, ...args });
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

  /** @throws {CommandRefused} for a line that the frame cannot hold. */
  #encode(line: string): Uint8Array {
    try {
      return this.#frames.encode(utf8(line));
    } catch (cause) {
      throw new CommandRefused(cause instanceof Error ? cause.message : String(cause), { cause });
    }
  }

  async #send(line: string, signal: AbortSignal): Promise<void> {
    await this.#port.write(this.#encode(line), signal).catch(uncertain);
  }
}

/** Once bytes may have left, a failure leaves open what the device did. */
function uncertain(error: unknown): never {
  if (error instanceof CommandUncertain || error instanceof CommandRefused) throw error;
  throw new CommandUncertain(error instanceof Error ? error.message : String(error), { cause: error });
}
