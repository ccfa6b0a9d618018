import { randomBytes } from "node:crypto";
import type MqttModule from "mqtt/lib/client";
import { CommandRefused, CommandUncertain } from "../../core/command-errors.js";
import type { Driver, DriverDeps, OpenDriver, Reading, ReadingDescription } from "../../core/driver.js";
import { DeviceGone } from "../../core/errors.js";
import { ChildSignal, untilAborted } from "../../core/scope.js";
import { commandNamed } from "../configured-command.js";
import { valueAt } from "../json-pointer.js";
import { within } from "../within.js";
import type { MqttConfig, MqttReading } from "./config.js";
import { type BrokerConnection, connectToBroker } from "./connect.js";
import type { MessageSource } from "./message-source.js";
import { planOf } from "./plan.js";
import type { Publication, PublishCommand } from "./publish-command.js";
import { correlationOf, type InboundMessage } from "./publish-packet.js";

type MqttClient = MqttModule.default;

/** A broker, by the keys of {@link MqttConfig}: one connection, ended by its first failure. */
export const openMqtt: OpenDriver<MqttConfig> = async (config, deps, signal) => {
  const followed = new Followed();
  const plan = planOf(config, (filter) => followed.add(filter.filter));
  const intake = new Intake(plan.sources, deps);
  const broker = await connectToBroker(config, plan, deps, (messages) => intake.receive(messages), signal);
  followed.subscribe(broker);
  return new MqttDriver(config, deps, plan.commands, intake, broker);
};

class MqttDriver implements Driver {
  readonly id: string;
  readonly readings?: readonly ReadingDescription[];
  readonly commands: Driver["commands"];
  readonly #deps: DriverDeps;
  readonly #commands: readonly PublishCommand[];
  readonly #intake: Intake;
  readonly #client: MqttClient;
  readonly #path: BrokerConnection["path"];
  readonly #broker: BrokerConnection;
  readonly #gone = new AbortController();

  constructor(
    config: MqttConfig,
    deps: DriverDeps,
    commands: readonly PublishCommand[],
    intake: Intake,
    broker: BrokerConnection,
  ) {
    const { client, path } = broker;
    this.id = config.id;
    // What the devices of a preset give only they know.
    if (config.preset.length === 0) this.readings = config.reading.map(describeReading);
    this.commands = commands.map(({ description }) => description);
    this.#deps = deps;
    this.#commands = commands;
    this.#intake = intake;
    this.#broker = broker;
    this.#client = client;
    this.#path = path;
    const gone = (): void => this.#gone.abort(goneError(config.url, path.farewell ?? path.errored));
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
    const command = commandNamed(this.#commands, name);
    const publication = command.prepare(args);
    const options = { ms: command.timeoutMs, clock: this.#deps.clock, what: `${this.id}/${name}` };
    await using either = new ChildSignal(signal);
    const gone = new Promise<never>((_, reject) => this.#onGone(reject, either.signal));
    try {
      return await within((inner) => Promise.race([gone, this.#ask(publication, inner)]), options, signal);
    } catch (cause) {
      if (cause instanceof CommandRefused) throw cause;
      throw new CommandUncertain(cause instanceof Error ? cause.message : String(cause), { cause });
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#path.closed) return;
    const closed = new Promise<void>((resolve) => this.#path.once("close", () => resolve()));
    // A broker that does not read must not keep us.
    if (this.#client.connected && Object.keys(this.#client.outgoing).length === 0) {
      const leave = async (): Promise<void> => {
        await this.#broker.sayGoodbye();
        this.#client.end();
        await closed;
      };
      const options = { ms: 500, clock: this.#deps.clock, what: "close" };
      await within(leave, options, new AbortController().signal).catch(() => undefined);
    }
    this.#client.end(true);
    this.#path.destroy();
    await closed;
  }

  async #ask(publication: Publication, signal: AbortSignal): Promise<unknown> {
    const { topic, payload, qos, retain, answerPointer, correlate } = publication;
    const answerTopic = publication.answerTopic ?? (correlate ? this.#broker.answerTopic : undefined);
    const correlationData = correlate ? randomBytes(16) : undefined;
    // Listening begins before the command is sent: the answer may overtake the acknowledgement.
    const answer = answerTopic === undefined ? undefined : this.#intake.next(answerTopic, correlationData, signal);
    answer?.catch(() => undefined);
    const properties = answerTopic && correlationData ? { responseTopic: answerTopic, correlationData } : undefined;
    await this.#client.publishAsync(topic, payload, { qos, retain, ...(properties ? { properties } : {}) });
    return answer ? (valueAt(await answer, answerPointer) ?? null) : { sent: true };
  }

  #onGone(reject: (reason: unknown) => void, until: AbortSignal): void {
    const { signal } = this.#gone;
    if (signal.aborted) reject(signal.reason);
    else signal.addEventListener("abort", () => reject(signal.reason), { once: true, signal: until });
  }
}

function describeReading({ name, unit, class: readingClass }: MqttReading): ReadingDescription {
  return {
    name: name.replaceAll(/\{\d\}/gu, "*"),
    ...(unit === undefined ? {} : { unit }),
    class: readingClass,
  };
}

function goneError(url: string, cause: Error | null): Error {
  return new DeviceGone(
    cause ? `${url}: ${cause.message}` : `${url} closed the connection`,
    cause ? { cause } : undefined,
  );
}

/** Topics that become known while we run; each is subscribed once. */
class Followed {
  readonly #filters = new Set<string>();
  #broker: BrokerConnection | undefined;

  add(filter: string): void {
    if (this.#filters.has(filter)) return;
    this.#filters.add(filter);
    this.#broker?.follow(filter);
  }

  subscribe(broker: BrokerConnection): void {
    this.#broker = broker;
    for (const filter of this.#filters) broker.follow(filter);
  }
}

/** Who waits for the next message on a topic, or for the one with this correlation data. */
interface Waiting {
  readonly topic: string;
  readonly correlationData: Buffer | undefined;
  readonly resolve: (payload: unknown) => void;
}

/** Turns messages into readings and answers. */
class Intake {
  readonly #sources: readonly MessageSource[];
  readonly #deps: DriverDeps;
  readonly #waiting = new Set<Waiting>();
  messages = 0;
  ignored = 0;
  tooLong = 0;

  constructor(sources: readonly MessageSource[], deps: DriverDeps) {
    this.#sources = sources;
    this.#deps = deps;
  }

  /** Resolves when the readings of the messages are in the outbox. */
  async receive(messages: readonly InboundMessage[]): Promise<void> {
    const timeMs = this.#deps.clock.now();
    const readings = messages.flatMap((message) => this.#readings(message, timeMs));
    if (readings.length > 0) await this.#deps.publish(readings);
  }

  /** The payload of the next message on a topic: parsed when it is JSON, as text when not. */
  async next(topic: string, correlationData: Buffer | undefined, signal: AbortSignal): Promise<unknown> {
    let remove: (() => void) | undefined;
    const found = new Promise<unknown>((resolve) => {
      const entry = { topic, correlationData, resolve };
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
    for (const waiting of this.#waiting) {
      if (!isAnswer(message, waiting)) continue;
      waiting.resolve(payload);
      answered = true;
    }
    const readings = this.#sources.flatMap((source) => source.readings(message, payload, timeMs));
    if (readings.length === 0 && !answered) this.ignored += 1;
    return readings;
  }
}

function isAnswer({ topic, retained, properties }: InboundMessage, waiting: Waiting): boolean {
  if (topic !== waiting.topic || retained) return false;
  const { correlationData } = waiting;
  return !correlationData || (properties && correlationOf(properties)?.equals(correlationData)) === true;
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
