import * as v from "valibot";
import { doc, driverId, filePath, integer } from "../config-parts.js";

/** Keys of `type = "sysfs"`. */
export const sysfsSchema = v.pipe(
  v.strictObject({
    id: driverId,
    type: v.literal("sysfs"),
    intervalMs: v.optional(
      v.pipe(integer(20, 86_400_000), doc("Time between two rounds of readings, in milliseconds.")),
      10_000,
    ),
    kinds: v.optional(
      v.pipe(
        v.array(v.picklist(["iio", "hwmon", "w1"])),
        doc("Which sensors to look for: Industrial I/O, hardware monitors, 1-Wire thermometers such as the DS18B20."),
      ),
      ["iio", "hwmon", "w1"],
    ),
    leds: v.optional(
      v.pipe(
        v.array(v.pipe(v.string(), v.regex(/^[A-Za-z0-9][A-Za-z0-9:._-]{0,63}$/u))),
        doc("LEDs below /sys/class/leds that the command `led` may set."),
        v.examples([["ACT", "user:green"]]),
      ),
      [],
    ),
    pwm: v.optional(
      v.pipe(
        v.array(
          v.strictObject({
            name: v.pipe(v.string(), v.regex(/^[A-Za-z0-9_-]{1,32}$/u), doc("Name for the command `pwm`.")),
            chip: v.pipe(integer(0, 63), doc("Number of the pwmchip.")),
            channel: v.pipe(integer(0, 63), doc("Channel of the chip.")),
            periodNs: v.pipe(integer(1, 1_000_000_000), doc("Period, in nanoseconds.")),
          }),
        ),
        doc("Outputs that the command `pwm` may set."),
      ),
      [],
    ),
    root: v.optional(v.pipe(filePath, doc("Where `sys` is mounted; another folder than `/sys` is for tests.")), "/sys"),
  }),
  doc("What the kernel shows below /sys: sensors as readings, LEDs and PWM as commands."),
);

export type SysfsConfig = v.InferOutput<typeof sysfsSchema>;
