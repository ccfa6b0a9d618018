import { CommandRefused } from "../../../core/command-errors.js";
import { codeOf } from "../../../core/errors.js";
import { valueAt, type JsonPointer } from "../../json-pointer.js";
import type { Preset } from "../message-source.js";
import { captures, parseTopic, parseTopicFilter, type TopicFilter } from "../topic-filter.js";
import { quantityOfUnit, quantityReading, type Quantity } from "./quantity.js";

const MAX_ENTITIES = 1000;

/** What a discovery message says of an entity, as far as it is needed here. */
interface Entity {
  readonly name: string;
  readonly kind: "sensor" | "binary_sensor" | "switch" | "light";
  readonly stateTopic: string;
  readonly commandTopic: string | undefined;
  readonly value: JsonPointer;
  readonly quantity: Quantity | undefined;
  readonly on: string;
  readonly off: string;
  readonly isJson: boolean;
}

/** Short names that discovery messages may use (Home Assistant, "MQTT discovery", supported abbreviations). */
const LONG_NAMES: Readonly<Record<string, string>> = {
  stat_t: "state_topic",
  cmd_t: "command_topic",
  val_tpl: "value_template",
  stat_val_tpl: "state_value_template",
  unit_of_meas: "unit_of_measurement",
  dev_cla: "device_class",
  pl_on: "payload_on",
  pl_off: "payload_off",
};

/**
 * Devices that announce themselves as Home Assistant has it, below `PREFIX/COMPONENT/[NODE/]OBJECT/config`: sensor,
 * binary_sensor, switch, and light of the default and the JSON schema. An entity's state is the reading `NODE.OBJECT`; the command
 * `set` switches what can be switched. Of templates those are understood that pick one value out of JSON.
 */
export function homeAssistant(prefix: string, follow: (filter: TopicFilter) => void): Preset {
  const plain = parseTopicFilter(`${prefix}/+/+/config`);
  const withNode = parseTopicFilter(`${prefix}/+/+/+/config`);
  const entities = new Map<string, Entity>();
  const states = parseTopicFilter("#");

  const announce = (topic: string, payload: unknown): void => {
    const entity = entityOf(captures(plain, topic) ?? captures(withNode, topic), payload);
    if (!entity) entities.delete(topic);
    else if (entities.has(topic) || entities.size < MAX_ENTITIES) {
      entities.set(topic, entity);
      follow(parseTopicFilter(entity.stateTopic));
    }
  };

  return {
    sources: [
      ...[plain, withNode].map((filter) => ({
        filter,
        qos: 1 as const,
        readings({ topic }: { readonly topic: string }, payload: unknown) {
          if (captures(filter, topic)) announce(topic, payload);
          return [];
        },
      })),
      {
        filter: states,
        qos: 1,
        subscribed: false,
        readings: ({ topic }, payload, timeMs) =>
          Array.from(entities.values())
            .filter(({ stateTopic }) => stateTopic === topic)
            .flatMap((entity) => quantityReading(entity.name, stateOf(entity, payload), timeMs, entity.quantity)),
      },
    ],
    commands: [
      {
        name: "set",
        description: {
          name: "set",
          idempotent: true,
          argsSchema: {
            type: "object",
            properties: { entity: { type: "string", maxLength: 100 }, on: { type: "boolean" } },
            required: ["entity", "on"],
            additionalProperties: false,
          },
        },
        timeoutMs: 5000,
        prepare({ entity: name, on }) {
          const entity = Array.from(entities.values()).find(
            (one) => one.name === name && one.commandTopic !== undefined,
          );
          if (entity?.commandTopic === undefined)
            throw new CommandRefused("no entity of this name that can be switched");
          return {
            topic: entity.commandTopic,
            payload: entity.isJson
              ? JSON.stringify({ state: on === true ? entity.on : entity.off })
              : on === true
                ? entity.on
                : entity.off,
            qos: 1,
            retain: false,
            answerTopic: entity.stateTopic,
            answerPointer: [],
          };
        },
      },
    ],
  };
}

function entityOf(found: readonly string[] | undefined, payload: unknown): Entity | undefined {
  if (!found || typeof payload !== "object" || payload === null) return undefined;
  const kind = found[0];
  if (kind !== "sensor" && kind !== "binary_sensor" && kind !== "switch" && kind !== "light") return undefined;
  const texts = longNamed(payload);
  const stateTopic = topicOf(texts["state_topic"]);
  // A light of the JSON schema has its state in an object and takes it so.
  const isJson = kind === "light" && texts["schema"] === "json";
  const value = isJson ? ["state"] : pickedBy(texts["value_template"] ?? texts["state_value_template"]);
  if (stateTopic === undefined || value === undefined) return undefined;
  return {
    name: found.slice(1).join("."),
    kind,
    stateTopic,
    commandTopic: kind === "switch" || kind === "light" ? topicOf(texts["command_topic"]) : undefined,
    value,
    quantity: quantityOf(texts),
    on: texts["payload_on"] ?? "ON",
    off: texts["payload_off"] ?? "OFF",
    isJson,
  };
}

/** The text values under their long names, with `~` at the beginning or end of a topic filled in. */
function longNamed(payload: object): Readonly<Record<string, string | undefined>> {
  const base: unknown = "~" in payload ? payload["~"] : undefined;
  const texts: Record<string, string> = {};
  for (const [key, value] of Object.entries(payload)) {
    if (typeof value !== "string") continue;
    const long = Object.hasOwn(LONG_NAMES, key) ? (LONG_NAMES[key] ?? key) : key;
    texts[long] = long.endsWith("_topic") && typeof base === "string" ? value.replace(/^~|~$/u, base) : value;
  }
  return texts;
}

function topicOf(text: string | undefined): string | undefined {
  try {
    return text === undefined ? undefined : parseTopic(text);
  } catch (error) {
    if (codeOf(error) === "SYNTAX_INVALID") return undefined;
    throw error;
  }
}

const TEMPLATE =
  /^\{\{\s*(?:value|value_json(?<path>(?:\.[A-Za-z_]\w*|\[(?:'[^']*'|"[^"]*"|\d+)\])*))\s*(?:\|[^{}]*)?\}\}$/u;

/** Where a template picks its value; `undefined` for one that does more than that. Filters only change the print. */
function pickedBy(template: string | undefined): JsonPointer | undefined {
  if (template === undefined) return [];
  const found = TEMPLATE.exec(template.trim());
  if (!found) return undefined;
  const path = found.groups?.["path"] ?? "";
  return Array.from(path.matchAll(/\.(\w+)|\[(?:'([^']*)'|"([^"]*)"|(\d+))\]/gu), (step) => step.slice(1).join(""));
}

function quantityOf(texts: Readonly<Record<string, string | undefined>>): Quantity | undefined {
  const unit = texts["unit_of_measurement"];
  if (unit === "%" && texts["device_class"] === "humidity") return { unit: "%RH" };
  if (unit === "%" && texts["device_class"] === "battery") return { unit: "%EL" };
  return unit === undefined ? undefined : quantityOfUnit(unit);
}

function stateOf({ kind, value, on, off, quantity }: Entity, payload: unknown): unknown {
  const picked = valueAt(payload, value);
  if (kind === "sensor")
    return quantity && typeof picked === "string" && picked.trim() !== "" ? Number(picked) : picked;
  const text = typeof picked === "string" ? picked : JSON.stringify(picked);
  return text === on ? true : text === off ? false : undefined;
}
