import * as v from "valibot";
import { doc, driverId, filePath, integer } from "../config-parts.js";

/** Keys of `type = "host"`. */
export const hostSchema = v.pipe(
  v.strictObject({
    id: driverId,
    type: v.literal("host"),
    intervalMs: v.optional(
      v.pipe(integer(100, 86_400_000), doc("Time between two rounds of readings, in milliseconds.")),
      10_000,
    ),
    disks: v.optional(
      v.pipe(
        v.array(filePath),
        v.maxLength(16),
        doc("Folders whose file systems are measured."),
        v.examples([["/", "/data"]]),
      ),
      ["/"],
    ),
    root: v.optional(v.pipe(filePath, doc("Where `proc` and `sys` are; another folder than `/` is for tests.")), "/"),
  }),
  doc("This machine's own readings: processor temperature and load, memory, disks, uptime. No commands."),
);

export type HostConfig = v.InferOutput<typeof hostSchema>;
