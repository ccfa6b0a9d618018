import * as v from "valibot";
import { doc, driverId, integer, readingClass, readingName } from "../config-parts.js";

const entries = {
  line: v.pipe(
    v.union([
      integer(0, 4095),
      v.pipe(v.string(), v.regex(/^[\x21-\x7e]{1,32}$/u, "expected the number or the name of a line")),
    ]),
    doc("Number of the line on the chip, or its name as `gpioinfo` shows it."),
    v.examples([17, "GPIO17"]),
  ),
  name: readingName,
  activeLow: v.optional(v.pipe(v.boolean(), doc("true when the line is low while it is on.")), false),
  bias: v.optional(
    v.pipe(
      v.picklist(["as-is", "disabled", "pull-up", "pull-down"]),
      doc("The resistor inside the chip; not every chip has one."),
    ),
    "as-is",
  ),
};

/** Keys of `type = "gpio"`. */
export const gpioSchema = v.pipe(
  v.strictObject({
    id: driverId,
    type: v.literal("gpio"),
    chip: v.optional(
      v.pipe(
        v.string(),
        v.regex(/^gpiochip\d{1,4}$/u, "expected a chip such as gpiochip0"),
        doc("The chip of the lines. Left out: a name is looked for on every chip, and a number is on gpiochip0."),
        v.examples(["gpiochip0"]),
      ),
    ),
    input: v.optional(
      v.pipe(
        v.array(
          v.strictObject({
            ...entries,
            class: v.optional(readingClass, "event"),
            debounceMs: v.optional(
              v.pipe(
                integer(0, 60_000),
                doc("A change counts when the line has been quiet for so long, in milliseconds."),
              ),
              0,
            ),
          }),
        ),
        v.maxLength(64),
        doc("Lines that are read: every change is a reading, `true` for on."),
      ),
      [],
    ),
    output: v.optional(
      v.pipe(
        v.array(
          v.strictObject({
            ...entries,
            class: v.optional(readingClass, "event"),
            drive: v.optional(
              v.pipe(v.picklist(["push-pull", "open-drain", "open-source"]), doc("How the line is driven.")),
              "push-pull",
            ),
            initial: v.optional(
              v.pipe(
                v.boolean(),
                doc(
                  "What it is set to when the driver opens. Left out: the line is left alone until the first command.",
                ),
              ),
            ),
          }),
        ),
        v.maxLength(64),
        doc("Lines that the command `set` switches; the answer and a reading tell what the line is set to."),
      ),
      [],
    ),
    rereadMs: v.optional(
      v.pipe(
        integer(1000, 86_400_000),
        doc("Time between two readings of all inputs whether they changed or not, in milliseconds."),
      ),
      600_000,
    ),
  }),
  v.forward(
    v.partialCheck(
      [["input"], ["output"]],
      ({ input, output }) => input.length + output.length > 0,
      "expected an input or an output",
    ),
    ["input"],
  ),
  v.forward(
    v.partialCheck(
      [["input"], ["output"]],
      ({ input, output }) =>
        new Set([...input, ...output].map(({ name }) => name)).size === input.length + output.length,
      "expected a name of its own for each line",
    ),
    ["input"],
  ),
  doc("Lines of a GPIO chip by its character device, with the tools of libgpiod (Debian package gpiod, 1.6 or 2)."),
);

export type GpioConfig = v.InferOutput<typeof gpioSchema>;
export type GpioInput = GpioConfig["input"][number];
export type GpioOutput = GpioConfig["output"][number];
