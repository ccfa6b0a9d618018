import * as v from "valibot";
import { firmwareSchema } from "../link/config.js";

/** `esptool` for an ESP32: the application of the default partition table is at 0x10000. */
export const ESPTOOL: readonly string[] = [
  ...["esptool", "--port", "{port}", "--baud", "460800", "--after", "hard_reset"],
  ...["write_flash", "0x10000", "{image}"],
];

const program = (description: string, example: readonly string[]) =>
  v.pipe(
    v.array(v.pipe(v.string(), v.nonEmpty())),
    v.minLength(1),
    v.maxLength(64),
    v.description(description),
    v.examples([[...example]]),
  );

/** Keys of `type = "flasher"`. */
export const flasherSchema = v.pipe(
  v.strictObject({
    id: v.pipe(
      v.string(),
      v.regex(/^[a-z0-9][a-z0-9_-]{0,29}$/u, "expected a to z, 0 to 9, _ and -, at most 30 characters"),
      v.description("The driver's name: the target of its commands."),
      v.examples(["esp"]),
    ),
    type: v.literal("flasher"),
    path: v.pipe(
      v.string(),
      v.nonEmpty(),
      v.description("The board's port. Other drivers on it are suspended while the board is written."),
      v.examples(["/dev/serial/by-id/usb-Silicon_Labs_CP2102_0001-if00-port0"]),
    ),
    hardware: v.pipe(
      v.string(),
      v.minLength(1),
      v.maxLength(64),
      v.description("What firmware manifests call this board: it does not tell."),
      v.examples(["esp32-devkit"]),
    ),
    flash: v.optional(
      program(
        "The program that writes an image, and its arguments, without a shell; {port}, {image} (a file) and {version} are filled in. Left out: esptool for an ESP32.",
        ESPTOOL,
      ),
      [...ESPTOOL],
    ),
    probe: v.optional(
      program(
        "A program that exits with 0 when the new firmware works; otherwise the image before is written again. Left out: what was written counts as good.",
        ["/usr/local/bin/esp-probe", "{port}", "{version}"],
      ),
    ),
    timeoutMs: v.optional(
      v.pipe(
        v.number(),
        v.integer(),
        v.minValue(1000),
        v.maxValue(3_600_000),
        v.description("Longest run of either program, in milliseconds."),
      ),
      300_000,
    ),
    firmware: v.omit(firmwareSchema, ["selfTest"]),
  }),
  v.description("A board that a program of its own writes, such as esptool: its firmware, nothing else."),
);

export type FlasherConfig = v.InferOutput<typeof flasherSchema>;
