import * as v from "valibot";
import { doc, driverId, filePath, integer } from "../config-parts.js";

/** Keys of `type = "exec"`. */
export const execSchema = v.pipe(
  v.strictObject({
    id: driverId,
    type: v.literal("exec"),
    program: v.pipe(
      v.string(),
      v.regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/u, "expected a file name without folders"),
      doc("File in `folder`: executable, owned by root, and writable by nobody else."),
      v.examples(["thermometer.py"]),
    ),
    folder: v.optional(
      v.pipe(filePath, doc("Where the programs are; owned by root, and writable by nobody else.")),
      "/etc/atedge/exec",
    ),
    args: v.optional(v.pipe(v.array(v.string()), v.maxLength(64), doc("Arguments of the program.")), []),
    user: v.optional(
      v.pipe(
        v.strictObject({
          uid: v.pipe(integer(1, 4_294_967_294), doc("Number of the user.")),
          gid: v.pipe(integer(1, 4_294_967_294), doc("Number of the group.")),
        }),
        doc("Whom the program runs as, when the agent is root; otherwise it runs as the agent does."),
      ),
    ),
    maxLineBytes: v.optional(v.pipe(integer(256, 1_048_576), doc("A longer line of the program ends it.")), 65_536),
    startMs: v.optional(
      v.pipe(integer(100, 600_000), doc("Longest wait for the first line, which names its commands, in milliseconds.")),
      10_000,
    ),
    commandMs: v.optional(
      v.pipe(integer(10, 600_000), doc("Longest wait for the answer to a command, in milliseconds.")),
      10_000,
    ),
  }),
  doc("A program of your own that speaks JSON lines on its standard input and output."),
);

export type ExecConfig = v.InferOutput<typeof execSchema>;
