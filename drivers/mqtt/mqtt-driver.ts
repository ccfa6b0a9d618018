import type MqttModule from "mqtt/lib/client";
import { CommandRefused, CommandUncertain } from "../../core/command-errors.js";
import type { Driver, DriverDeps, OpenDriver, Reading } from "../../core/driver.js";
import { DeviceGone } from "../../core/errors.js";
import { ChildSignal, untilAborted } from "../../core/scope.js";
import { commandNamed, describe } from "../configured-command.js";
import { namePart, readingValue } from "../field-readings.js";
import { valueAt } from "../json-pointer.js";
import { fill, fillText } from "../template.js";
import { within } from "../within.js";
import type { MqttCommand, MqttConfig, MqttReading } from "./config.js";
import { connectToBroker } from "./connect.js";
import type { InboundMessage } from "./publish-packet.js";
import type { ReceivePath } from "./receive-path.js";
import { captures, parseTopic, withCaptures } from "./topic-filter.js";

type MqttClient = MqttModule.default;

/** A broker, by the keys of {@link MqttConfig}: one connection, ended by its first failure. */
export const openMqtt: OpenDriver<MqttConfig> = async (config, deps, signal) => {
  const intake = new Intake(config, deps);
  const { client, path } = await connectToBroker(config, deps, (messages) => intake.receive(messages), signal);
  return new MqttDriver(config, deps, intake, client, path);
};

class MqttDriver implements Driver {
  readonly id: string;
  readonly commands: Driver["commands"];
  readonly #config: MqttConfig;
  readonly #deps: DriverDeps;
  readonly #intake: Intake;
  readonly #client: MqttClient;
  readonly #path: ReceivePath;
  readonly #gone = new AbortController();

  constructor(config: MqttConfig, deps: DriverDeps, intake: Intake, client: MqttClient, path: ReceivePath) {
    this.id = config.id;
    this.commands = config.command.map(describe);
    this.#config = config;
    this.#deps = deps;
    this.#intake = intake;
    this.#client = client;
    this.#path = path;
    const gone = (): void => this.#gone.abort(goneError(config.url, path.errored));
    path.once("close", gone);
    if (path.closed) gone();
  }

  /** `ignored` are messages that gave no reading, `tooLong` those over the limit; both are acknowledged. */
  counters(): Readonly<Record<string, number>> {
    const { messages, ignored, tooLong } = this.#intake;
    return { messages, ignored, tooLong, pending: this.#path.pending };
  }

  async run(stop: AbortSignal): Promise<void> {
    await using either = new ChildSignal(stop);
    try {
      await untilAborted(new Promise<never>((_, reject) => this.#onGone(reject, either.signal)), stop);
    } catch (error) {
      if (!stop.aborted) throw error;
    }
  }

  async call(name: string, args: Readonly<Record<string, unknown>>, signal: AbortSignal): Promise<unknown> {
    const command = commandNamed(this.#config.command, name);
    const topic = filledTopic(command.topic, args);
    const payload = command.payload ? fill(command.payload, args) : JSON.stringify(args);
    const options = { ms: command.timeoutMs, clock: this.#deps.clock, what: `${this.id}/${name}` };
    await using either = new ChildSignal(signal);
    const gone = new Promise<never>((_, reject) => this.#onGone(reject, either.signal));
    try {
      return await within(
        (inner) => Promise.race([gone, this.#ask(command, topic, payload, args, inner)]),
        options,
        signal,
      );
    } catch (cause) {
      if (cause instanceof CommandRefused) throw cause;
      throw new CommandUncertain(cause instanceof Error ? cause.message : String(cause), { cause });
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#path.closed) return;
    const closed = new Promise<void>((resolve) => this.#path.once("close", () => resolve()));
    // Without DISCONNECT the broker would publish our last will; but a broker that does not read must not keep us.
    if (this.#client.connected && Object.keys(this.#client.outgoing).length === 0) {
      this.#client.end();
      const options = { ms: 500, clock: this.#deps.clock, what: "close" };
      await within(() => closed, options, new AbortController().signal).catch(() => undefined);
    }
    this.#client.end(true);
    this.#path.destroy();
    await closed;
  }

  async #ask(
    command: MqttCommand,
    topic: string,
    payload: string,
    args: Readonly<Record<string, unknown>>,
    signal: AbortSignal,
  ): Promise<unknown> {
    const { answerTopic, answerPointer, qos, retain } = command;
    // Listening begins before the command is sent: the answer may overtake the acknowledgement.
    const answer = answerTopic === undefined ? undefined : this.#intake.next(filledTopic(answerTopic, args), signal);
    answer?.catch(() => undefined);
    await this.#client.publishAsync(topic, payload, { qos, retain });
    return answer ? (valueAt(await answer, answerPointer) ?? null) : { sent: true };
  }

  #onGone(reject: (reason: unknown) => void, until: AbortSignal): void {
    const { signal } = this.#gone;
    if (signal.aborted) reject(signal.reason);
    else signal.addEventListener("abort", () => reject(signal.reason), { once: true, signal: until });
  }
}

/** @throws {CommandRefused} when an argument does not fit into a topic. */
function filledTopic(template: string, args: Readonly<Record<string, unknown>>): string {
  const topic = fillText(template, args);
  try {
    return parseTopic(topic);
  } catch (cause) {
    throw new CommandRefused(`no topic: ${topic}`, { cause });
  }
}

function goneError(url: string, cause: Error | null): Error {
  return new DeviceGone(
    cause ? `${url}: ${cause.message}` : `${url} closed the connection`,
    cause ? { cause } : undefined,
  );
}

/** Turns messages into readings and answers. */
class Intake {
  readonly #config: MqttConfig;
  readonly #deps: DriverDeps;
  readonly #waiting = new Set<{ readonly topic: string; readonly resolve: (payload: unknown) => void }>();
  messages = 0;
  ignored = 0;
  tooLong = 0;

  constructor(config: MqttConfig, deps: DriverDeps) {
    this.#config = config;
    this.#deps = deps;
  }

  /** Resolves when the readings of the messages are in the outbox. */
  async receive(messages: readonly InboundMessage[]): Promise<void> {
    const timeMs = this.#deps.clock.now();
    const readings = messages.flatMap((message) => this.#readings(message, timeMs));
    if (readings.length > 0) await this.#deps.publish(readings);
  }

  /** The payload of the next message on a topic: parsed when it is JSON, as text when not. */
  async next(topic: string, signal: AbortSignal): Promise<unknown> {
    let remove: (() => void) | undefined;
    const found = new Promise<unknown>((resolve) => {
      const entry = { topic, resolve };
      this.#waiting.add(entry);
      remove = () => this.#waiting.delete(entry);
    });
    return untilAborted(found, signal).finally(remove);
  }

  #readings(message: InboundMessage, timeMs: number): Reading[] {
    this.messages += 1;
    if (message.omittedBytes > 0) {
      this.tooLong += 1;
      return [];
    }
    const payload = parsePayload(message.payload);
    let answered = false;
    for (const { topic, resolve } of this.#waiting) {
      if (topic !== message.topic || message.retained) continue;
      resolve(payload);
      answered = true;
    }
    const readings = this.#config.reading.flatMap((reading) => readingOf(reading, message, payload, timeMs));
    if (readings.length === 0 && !answered) this.ignored += 1;
    return readings;
  }
}

function readingOf(reading: MqttReading, message: InboundMessage, payload: unknown, timeMs: number): Reading[] {
  if (message.retained && !reading.retained) return [];
  const found = captures(reading.topic, message.topic);
  if (!found) return [];
  const value = readingValue(valueAt(payload, reading.pointer), reading.scale, reading.offset);
  if (value === undefined) return [];
  const name = withCaptures(reading.name, found, namePart);
  return [{ name, value, timeMs, class: reading.class, ...(reading.unit === undefined ? {} : { unit: reading.unit }) }];
}

/** Many sensors publish bare text or numbers, many JSON: what parses as JSON is that. */
function parsePayload(payload: Buffer): unknown {
  const text = payload.toString("utf8");
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return text === "" ? undefined : text;
  }
}
