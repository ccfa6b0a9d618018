import * as v from "valibot";
import { doc, driverId, filePath, integer } from "../config-parts.js";

const intervalMs = integer(100, 86_400_000);

/** Keys of `type = "host"`. */
export const hostSchema = v.pipe(
  v.strictObject({
    id: driverId,
    type: v.literal("host"),
    intervalMs: v.optional(v.pipe(intervalMs, doc("Time between two rounds of readings, in milliseconds.")), 10_000),
    disks: v.optional(
      v.pipe(
        v.array(filePath),
        v.maxLength(16),
        doc("Folders whose file systems are measured."),
        v.examples([["/", "/data"]]),
      ),
      ["/"],
    ),
    interfaces: v.optional(
      v.pipe(
        v.array(v.pipe(v.string(), v.regex(/^[^\s/]{1,15}$/u, "expected a name such as eth0"))),
        v.maxLength(16),
        doc("Network interfaces that are counted. Left out: those with hardware behind them."),
        v.examples([["eth0", "wg0"]]),
      ),
    ),
    unitsIntervalMs: v.optional(
      v.pipe(
        intervalMs,
        doc("Time between two looks for failed units where systemd runs, in milliseconds; each starts `systemctl`."),
      ),
      60_000,
    ),
    root: v.optional(
      v.pipe(filePath, doc("Where `proc`, `sys` and `usr` are; another folder than `/` is for tests.")),
      "/",
    ),
  }),
  doc(
    "This machine's own readings: processor, memory, load, disks and their wear, network, temperatures, a Raspberry Pi's throttling, uptime, failed units of systemd. No commands.",
  ),
);

export type HostConfig = v.InferOutput<typeof hostSchema>;
