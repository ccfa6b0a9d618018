import { CommandRefused } from "../../core/command-errors.js";
import type { CommandDescription } from "../../core/driver.js";
import { describe } from "../configured-command.js";
import type { JsonPointer } from "../json-pointer.js";
import { fill, fillText } from "../template.js";
import type { MqttCommand } from "./config.js";
import { parseTopic } from "./topic-filter.js";

/** What a command publishes, and where its answer comes. */
export interface Publication {
  readonly topic: string;
  readonly payload: string;
  readonly qos: 0 | 1;
  readonly retain: boolean;
  /** The next message here is the answer; without one, sent is done. */
  readonly answerTopic?: string;
  readonly answerPointer: JsonPointer;
  /** The answer carries the same correlation data as the command, and comes on a topic that the command names. */
  readonly correlate?: boolean;
}

/** A command that is carried out by publishing. */
export interface PublishCommand {
  readonly name: string;
  readonly description: CommandDescription;
  readonly timeoutMs: number;
  /** @throws {CommandRefused} when an argument does not fit. */
  prepare(args: Readonly<Record<string, unknown>>): Publication;
}

/** The command of a `[[driver.command]]` table. */
export function configuredCommand(command: MqttCommand): PublishCommand {
  const { name, timeoutMs, topic, payload, qos, retain, answerTopic, answerPointer, correlate } = command;
  return {
    name,
    description: describe(command),
    timeoutMs,
    prepare: (args) => ({
      topic: filledTopic(topic, args),
      payload: payload ? fill(payload, args) : JSON.stringify(args),
      qos,
      retain,
      answerPointer,
      correlate,
      ...(answerTopic === undefined ? {} : { answerTopic: filledTopic(answerTopic, args) }),
    }),
  };
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
