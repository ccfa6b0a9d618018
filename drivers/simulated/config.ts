import * as v from "valibot";
import { doc, driverId, integer, readingClass, readingName, unit } from "../config-parts.js";

/** Keys of `type = "simulated"`. */
export const simulatedSchema = v.pipe(
  v.strictObject({
    id: driverId,
    type: v.literal("simulated"),
    intervalMs: v.optional(v.pipe(integer(1, 86_400_000), doc("Time between two readings, in milliseconds.")), 1000),
    shape: v.optional(
      v.pipe(v.picklist(["sine", "square", "walk"]), doc("How the value moves; `walk` goes by chance.")),
      "sine",
    ),
    mean: v.optional(v.pipe(v.number(), v.finite(), doc("The value in the middle.")), 20),
    amplitude: v.optional(v.pipe(v.number(), v.minValue(0), doc("How far it goes from there.")), 5),
    periodMs: v.optional(v.pipe(integer(1, 31_536_000_000), doc("Time of one swing, in milliseconds.")), 60_000),
    name: v.optional(readingName, "value"),
    unit: v.optional(unit),
    class: v.optional(readingClass, "measurement"),
  }),
  doc("A device that is not there, to try things out. The command `set` holds a value, `free` lets it move again."),
);

export type SimulatedConfig = v.InferOutput<typeof simulatedSchema>;
