import type { Reading } from "../../core/driver.js";
import { namePart, readingValue } from "../field-readings.js";
import { valueAt } from "../json-pointer.js";
import type { MqttReading } from "./config.js";
import type { InboundMessage } from "./publish-packet.js";
import type { PublishCommand } from "./publish-command.js";
import { captures, withCaptures, type TopicFilter } from "./topic-filter.js";

/** Where readings come from: a subscription and what its messages mean. */
export interface MessageSource {
  readonly filter: TopicFilter;
  readonly qos: 0 | 1;
  /** false when its topics are followed one by one as they become known. */
  readonly subscribed?: boolean;
  /** `payload` is parsed JSON, or text where it is none. Asked for every message, whatever its topic. */
  readings(message: InboundMessage, payload: unknown, timeMs: number): Reading[];
}

/** What a preset adds to a driver. */
export interface Preset {
  readonly sources: readonly MessageSource[];
  readonly commands: readonly PublishCommand[];
}

/** The source of a `[[driver.reading]]` table. */
export function configuredSource(reading: MqttReading): MessageSource {
  return {
    filter: reading.topic,
    qos: reading.qos,
    readings(message, payload, timeMs) {
      if (message.retained && !reading.retained) return [];
      const found = captures(reading.topic, message.topic);
      if (!found) return [];
      const value = readingValue(valueAt(payload, reading.pointer), reading.scale, reading.offset);
      if (value === undefined) return [];
      const name = withCaptures(reading.name, found, namePart);
      const unit = reading.unit === undefined ? {} : { unit: reading.unit };
      return [{ name, value, timeMs, class: reading.class, ...unit }];
    },
  };
}
