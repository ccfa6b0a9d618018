import * as v from "valibot";
import { commandEntries, doc, driverId, fieldEntries, filePath, integer, pointer, template } from "../config-parts.js";

const command = v.strictObject({
  ...commandEntries,
  line: v.optional(
    v.pipe(
      template,
      doc(
        'What is sent, one line such as {"id":"{id}","cmd":"relay","on":"{on}"}: `{name}` stands for an argument, `{id}` for the number of the request. Left out: the arguments with `id` and `cmd` in the frame of the driver.',
      ),
    ),
  ),
  answer: v.optional(
    v.pipe(
      v.picklist(["id", "field", "none"]),
      doc(
        "How the answer is known: by the request's number in it, by having the field `answerPointer`, or there is none.",
      ),
    ),
    "id",
  ),
  answerPointer: v.optional(
    v.pipe(
      pointer,
      doc(
        'What of the answer goes to the caller; empty: all of it. With `answer = "field"`: the field that makes a line the answer.',
      ),
    ),
    "",
  ),
});

/** Keys of `type = "serial"`. */
export const serialSchema = v.pipe(
  v.strictObject({
    id: driverId,
    type: v.literal("serial"),
    path: v.pipe(
      filePath,
      doc("The port; a name under /dev/serial/by-id survives other sockets."),
      v.examples(["/dev/serial/by-id/usb-Arduino_Uno_5573-if00"]),
    ),
    baud: v.optional(v.pipe(integer(50, 4_000_000), doc("Bits per second.")), 115_200),
    dataBits: v.optional(v.pipe(v.picklist([7, 8]), doc("Data bits.")), 8),
    parity: v.optional(v.pipe(v.picklist(["none", "even", "odd"]), doc("Parity.")), "none"),
    stopBits: v.optional(v.pipe(v.picklist([1, 2]), doc("Stop bits.")), 1),
    frame: v.optional(
      v.pipe(
        v.picklist(["json-lines", "key-value"]),
        doc("One JSON object a line, or `key=value` pairs a line, apart by spaces, commas or semicolons. Both ways."),
      ),
      "json-lines",
    ),
    maxLineBytes: v.optional(v.pipe(integer(16, 65_536), doc("A longer line is dropped and counted.")), 4096),
    answerId: v.optional(
      v.pipe(
        pointer,
        doc(
          "Where an answer has the number of its request. With a command that is answered so, a line that has it is never a reading.",
        ),
      ),
      "/id",
    ),
    ack: v.optional(
      v.pipe(
        v.string(),
        v.minLength(1),
        v.maxLength(200),
        doc(
          "Line sent when the readings of a line are safe in the outbox, in order; `{n}` stands for a field of that line.",
        ),
        v.examples(["ack {n}"]),
      ),
    ),
    reading: v.optional(
      v.pipe(
        v.array(v.strictObject(fieldEntries)),
        doc("The values to take from a line. None given: every top-level number and truth value under its own name."),
      ),
      [],
    ),
    command: v.optional(v.pipe(v.array(command), doc("The commands the device takes.")), []),
  }),
  doc("A device on a serial line that speaks lines of text."),
);

export type SerialConfig = v.InferOutput<typeof serialSchema>;
export type SerialCommand = SerialConfig["command"][number];
