import * as v from "valibot";
import { doc, driverId, filePath, integer, readingClass, readingName, unit } from "../config-parts.js";

/** Keys of `type = "simulated"`. */
export const simulatedSchema = v.pipe(
  v.strictObject({
    id: driverId,
    type: v.literal("simulated"),
    intervalMs: v.optional(v.pipe(integer(1, 86_400_000), doc("Time between two readings, in milliseconds.")), 1000),
    shape: v.optional(
      v.pipe(
        v.picklist(["sine", "square", "walk", "replay"]),
        doc("How the value moves; `walk` goes by chance, `replay` gives the rows of a file again."),
      ),
      "sine",
    ),
    mean: v.optional(v.pipe(v.number(), v.finite(), doc("The value in the middle.")), 20),
    amplitude: v.optional(v.pipe(v.number(), v.minValue(0), doc("How far it goes from there.")), 5),
    periodMs: v.optional(v.pipe(integer(1, 31_536_000_000), doc("Time of one swing, in milliseconds.")), 60_000),
    name: v.optional(readingName, "value"),
    unit: v.optional(unit),
    class: v.optional(readingClass, "measurement"),
    file: v.optional(
      v.pipe(
        filePath,
        doc(
          "For `replay`: a CSV file whose header names the readings, with a unit in parentheses where they have one: `temperature (Cel)`.",
        ),
        v.examples(["/var/lib/atedge/kitchen.csv"]),
      ),
    ),
    separator: v.optional(v.pipe(v.string(), v.length(1), doc("Between the cells of the file.")), ","),
    timeColumn: v.optional(
      v.pipe(
        v.string(),
        doc(
          "Column with the time of each row: seconds, or a date such as 2026-01-31T12:00:00Z. Left out: a row every `intervalMs`.",
        ),
        v.examples(["time"]),
      ),
    ),
    speed: v.optional(
      v.pipe(
        v.number(),
        v.minValue(0),
        v.maxValue(1_000_000),
        doc("How many times as fast as recorded; 0 for as fast as the outbox takes it."),
      ),
      1,
    ),
    loop: v.optional(v.pipe(v.boolean(), doc("Whether the file starts again at its end.")), true),
  }),
  v.forward(
    v.partialCheck(
      [["shape"], ["file"]],
      ({ shape, file }) => (shape === "replay") === (file !== undefined),
      "expected a file with `replay`, and only there",
    ),
    ["file"],
  ),
  doc(
    "A device that is not there, to try things out. The command `set` holds a value, `free` lets it move again; a replay has no commands.",
  ),
);

export type SimulatedConfig = v.InferOutput<typeof simulatedSchema>;
