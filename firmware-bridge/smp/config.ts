import * as v from "valibot";
import { firmwareSchema } from "../link/config.js";

/** Keys of `type = "smp"`. */
export const smpSchema = v.pipe(
  v.strictObject({
    id: v.pipe(
      v.string(),
      v.regex(/^[a-z0-9][a-z0-9_-]{0,29}$/u, "expected a to z, 0 to 9, _ and -, at most 30 characters"),
      v.description("The driver's name: the target of its commands."),
      v.examples(["radio"]),
    ),
    type: v.literal("smp"),
    path: v.pipe(
      v.string(),
      v.nonEmpty(),
      v.metadata({ file: true }),
      v.description("The board's console port."),
      v.examples(["/dev/ttyACM0"]),
    ),
    baud: v.optional(
      v.pipe(v.number(), v.integer(), v.minValue(1200), v.maxValue(4_000_000), v.description("Bits per second.")),
      115_200,
    ),
    hardware: v.pipe(
      v.string(),
      v.minLength(1),
      v.maxLength(64),
      v.description("What firmware manifests call this board: SMP does not tell."),
      v.examples(["nrf52840dk"]),
    ),
    firmware: v.omit(firmwareSchema, ["selfTest"]),
  }),
  v.description("A board with MCUmgr (Zephyr, MCUboot, Mynewt) on a serial console: its firmware, nothing else."),
);

export type SmpConfig = v.InferOutput<typeof smpSchema>;
