import { JsonField, type JsonObject } from "./json-field.js";
import { formatPack, parsePack, type SenmlReading } from "./senml.js";

/** The latest value of every channel, for a reader who comes later: one record, rewritten now and then. */
export interface DeviceState {
  /** When it was put together, milliseconds since 1970: tells an old record from a new one. */
  readonly at: number;
  /** One a channel, in the order of their names. */
  readonly readings: readonly SenmlReading[];
}

/** Body of the record `state.<device>.<ns>`, to be sealed. */
export function formatState({ at, readings }: DeviceState): JsonObject {
  return {
    v: 1,
    at,
    senml: formatPack(
      readings.toSorted((a, b) => (a.name < b.name ? -1 : 1)),
      "state.senml",
    ),
  };
}

/** @param value what `openSealed` gave. @throws {SyntaxInvalid} @throws {LimitExceeded} */
export function parseState(value: unknown): DeviceState {
  const fields = new JsonField(value, "state").object();
  fields.at("v").exactly(1);
  return { at: fields.at("at").timeMs(), readings: parsePack(fields.at("senml")) };
}
