import * as v from "valibot";
import { parsePointer } from "./json-pointer.js";
import { parseTemplate } from "./template.js";

/** A valibot step that runs a parser of ours; what it throws becomes the fault's text. */
export function parseWith<T>(parse: (text: string) => T): v.RawTransformAction<string, T> {
  return v.rawTransform(({ dataset, addIssue, NEVER }) => {
    try {
      return parse(dataset.value);
    } catch (error) {
      addIssue({ message: error instanceof Error ? error.message : String(error) });
      return NEVER;
    }
  });
}

export const doc = <Input, const Text extends string>(text: Text): v.DescriptionAction<Input, Text> =>
  v.description(text);
export const integer = (min: number, max: number) => v.pipe(v.number(), v.integer(), v.minValue(min), v.maxValue(max));
/** A file or folder; the agent resolves a relative one against the folder of its configuration. */
export const filePath = v.pipe(v.string(), v.nonEmpty(), v.metadata({ file: true }));
export const pointer = v.pipe(v.string(), v.examples(["/t"]), parseWith(parsePointer));
export const template = v.pipe(v.string(), v.maxLength(4096), parseWith(parseTemplate));

/** Keys that every kind of driver has. */
export const driverId = v.pipe(
  v.string(),
  v.regex(/^[a-z0-9][a-z0-9_-]{0,29}$/u, "expected a to z, 0 to 9, _ and -, at most 30 characters"),
  doc("The driver's name: the target of its commands."),
  v.examples(["vent"]),
);

/** RFC 8428, 4.5.1; `{1}` stands for a capture where the kind of driver has some. */
export const readingName = v.pipe(
  v.string(),
  v.regex(
    /^[A-Za-z0-9{][-A-Za-z0-9:./_{}]{0,99}$/u,
    "expected letters, digits and -:./_, starting with a letter or digit",
  ),
  doc("Name of the reading within the device."),
  v.examples(["temperature"]),
);

export const unit = v.pipe(
  v.string(),
  v.regex(/^[A-Za-z0-9%/][A-Za-z0-9%/-]{0,11}$/u, "expected a SenML unit such as Cel or %RH"),
  doc("SenML unit (RFC 8428, section 12.1)."),
  v.examples(["Cel", "%RH", "W"]),
);

export const readingClass = v.pipe(
  v.picklist(["alarm", "event", "measurement"]),
  doc("An alarm overtakes an event, and an event a measurement."),
);

/** How one value of a decoded message becomes a reading. */
export const fieldEntries = {
  pointer: v.optional(v.pipe(pointer, doc("JSON pointer (RFC 6901) to the value; empty: the whole message.")), ""),
  name: readingName,
  unit: v.optional(unit),
  class: v.optional(readingClass, "measurement"),
  scale: v.optional(v.pipe(v.number(), v.finite(), doc("A number is multiplied by this.")), 1),
  offset: v.optional(v.pipe(v.number(), v.finite(), doc("Added to a number after `scale`.")), 0),
};

const argument = v.strictObject({
  type: v.pipe(v.picklist(["boolean", "number", "integer", "string"]), doc("Type of the argument.")),
  minimum: v.optional(v.pipe(v.number(), doc("Least value of a number."))),
  maximum: v.optional(v.pipe(v.number(), doc("Greatest value of a number."))),
  maxLength: v.optional(v.pipe(integer(0, 4096), doc("Most characters of a string.")), 256),
  enum: v.optional(v.pipe(v.array(v.union([v.string(), v.number(), v.boolean()])), doc("The values there are."))),
  optional: v.optional(v.pipe(v.boolean(), doc("true when it may be left out.")), false),
});

/** Keys of a configured command that do not depend on the kind of driver. */
export const commandEntries = {
  name: v.pipe(
    v.string(),
    v.regex(/^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$/u, "expected letters, digits, _, . and -"),
    doc("Name of the command."),
    v.examples(["set"]),
  ),
  args: v.optional(
    v.pipe(
      v.record(v.string(), argument),
      doc('The arguments it takes, such as `on = { type = "boolean" }`; any other is refused.'),
    ),
    {},
  ),
  idempotent: v.optional(
    v.pipe(v.boolean(), doc("true when running it twice has the effect of running it once.")),
    false,
  ),
  readBack: v.optional(
    v.pipe(v.string(), doc("Name of the command of this driver that tells the state this one changes.")),
  ),
  timeoutMs: v.optional(v.pipe(integer(10, 600_000), doc("Longest wait for the answer, in milliseconds.")), 5000),
};

/** For the adapters that do not find the direction of an RS-485 line by themselves. */
export const rs485 = v.pipe(
  v.strictObject({
    mode: v.pipe(
      v.picklist(["kernel", "rts"]),
      doc(
        "What switches the line to sending: `kernel` the driver of the UART, where it can; `rts` the agent by the RTS wire, for slow lines.",
      ),
    ),
    rtsOnSend: v.optional(v.pipe(v.boolean(), doc("Level of RTS while sending: true is high.")), true),
    delayBeforeMs: v.optional(v.pipe(integer(0, 100), doc("Wait before the first bit, in milliseconds.")), 0),
    delayAfterMs: v.optional(v.pipe(integer(0, 100), doc("Wait after the last bit, in milliseconds.")), 0),
  }),
  doc("Direction of an RS-485 line. Left out for adapters that switch by themselves, as most on USB do."),
);
