import * as v from "valibot";
import {
  commandEntries,
  doc,
  driverId,
  fieldEntries,
  filePath,
  integer,
  parseWith,
  pointer,
  rs485,
  template,
} from "../config-parts.js";
import { BINARY_TYPES } from "./binary-fields.js";
import { parseUsbMatch } from "./usb-ports.js";

const bytes = v.pipe(
  v.string(),
  v.regex(/^(?:[0-9a-f]{2}){0,8}$/iu, "expected up to 8 bytes as hex digits"),
  v.transform((text) => Buffer.from(text, "hex")),
);

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
    path: v.optional(
      v.pipe(
        filePath,
        doc("The port; a name under /dev/serial/by-id survives other sockets. Either this or `usb`."),
        v.examples(["/dev/serial/by-id/usb-Arduino_Uno_5573-if00"]),
      ),
    ),
    usb: v.optional(
      v.pipe(
        v.string(),
        v.examples(["2341:0043", "2341:0043:5573"]),
        parseWith(parseUsbMatch),
        doc("The USB adapter by vendor, product and, where there are two of a kind, serial number."),
      ),
    ),
    baud: v.optional(v.pipe(integer(50, 4_000_000), doc("Bits per second.")), 115_200),
    dataBits: v.optional(v.pipe(v.picklist([7, 8]), doc("Data bits.")), 8),
    parity: v.optional(v.pipe(v.picklist(["none", "even", "odd"]), doc("Parity.")), "none"),
    stopBits: v.optional(v.pipe(v.picklist([1, 2]), doc("Stop bits.")), 1),
    rs485: v.optional(rs485),
    frame: v.optional(
      v.pipe(
        v.picklist([
          "json-lines",
          "key-value",
          "csv",
          "nmea",
          "delimited",
          "fixed-length",
          "length-prefixed",
          "cobs",
          "slip",
        ]),
        doc(
          "How the device marks off its messages, both ways. Lines: a JSON object; `key=value` pairs apart by spaces, commas or semicolons; CSV; NMEA 0183. Bytes, with `content` inside: to a `delimiter`, of a fixed length, with a length before them, COBS, SLIP.",
        ),
      ),
      "json-lines",
    ),
    content: v.optional(
      v.pipe(
        v.picklist(["json", "key-value", "binary"]),
        doc("What is in a frame of bytes; `binary` has numbers at fixed places, see `field`, and takes no commands."),
      ),
      "json",
    ),
    columns: v.optional(
      v.pipe(v.array(v.string()), doc("Names of the CSV columns. Left out: the device prints a header.")),
      [],
    ),
    separator: v.optional(v.pipe(v.string(), v.length(1), doc("Between CSV cells.")), ","),
    delimiter: v.optional(v.pipe(bytes, v.minLength(1), doc("End of a delimited frame, in hex.")), "0a"),
    start: v.optional(
      v.pipe(
        bytes,
        doc(
          "What a frame of fixed or given length begins with, in hex; without it a lost byte is found by the checksum only.",
        ),
      ),
      "",
    ),
    length: v.optional(
      v.pipe(integer(1, 65_536), doc("Bytes of each frame of fixed length, without start and checksum.")),
    ),
    lengthBytes: v.optional(
      v.pipe(
        v.picklist([1, 2]),
        doc("Bytes of the length before a frame; it counts what follows, without the checksum."),
      ),
      1,
    ),
    order: v.optional(
      v.pipe(v.picklist(["big", "little"]), doc("Order of bytes in the length and in binary fields.")),
      "big",
    ),
    checksum: v.optional(
      v.pipe(
        v.picklist(["none", "xor8", "sum8", "crc16-modbus"]),
        doc(
          "After a frame of fixed or given length, over length and content. For NMEA only `none` has a meaning: sentences without one are taken.",
        ),
      ),
    ),
    field: v.optional(
      v.pipe(
        v.array(
          v.strictObject({
            name: v.pipe(v.string(), v.nonEmpty(), doc("Name of the field, for the pointer of a reading.")),
            at: v.pipe(integer(0, 65_535), doc("Bytes from the beginning of the frame.")),
            type: v.pipe(v.picklist(BINARY_TYPES), doc("Type of the number.")),
            order: v.optional(
              v.pipe(v.picklist(["big", "little"]), doc("Order of its bytes, when it is another one.")),
            ),
          }),
        ),
        doc("The numbers in a binary frame."),
      ),
      [],
    ),
    silentAfterMs: v.optional(
      v.pipe(integer(100, 86_400_000), doc("A device that says nothing for so long is opened anew, in milliseconds.")),
    ),
    poll: v.optional(
      v.pipe(
        v.array(
          v.strictObject({
            line: v.pipe(v.string(), v.nonEmpty(), v.maxLength(4096), doc("What is sent, in the frame of the driver.")),
            intervalMs: v.pipe(integer(10, 86_400_000), doc("Time between two of it, in milliseconds.")),
            timeoutMs: v.optional(
              v.pipe(
                integer(1, 600_000),
                doc(
                  "How long the line is the answer's: then the question counts as unanswered, and the next is asked.",
                ),
              ),
              1000,
            ),
          }),
        ),
        v.maxLength(32),
        doc(
          "What to ask a device that says nothing by itself, one question at a time; what it answers is read like any other message.",
        ),
      ),
      [],
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
  v.forward(
    v.partialCheck(
      [["path"], ["usb"]],
      ({ path, usb }) => (path === undefined) !== (usb === undefined),
      "expected either path or usb",
    ),
    ["path"],
  ),
  v.forward(
    v.partialCheck(
      [["frame"], ["length"]],
      ({ frame, length }) => frame !== "fixed-length" || length !== undefined,
      "expected it for frames of fixed length",
    ),
    ["length"],
  ),
  v.forward(
    v.partialCheck(
      [["content"], ["field"]],
      ({ content, field }) => content !== "binary" || field.length > 0,
      "expected the fields of the binary frames",
    ),
    ["field"],
  ),
  v.forward(
    v.partialCheck(
      [["content"], ["command"]],
      ({ content, command }) => content !== "binary" || command.length === 0,
      "expected none, binary frames take no commands",
    ),
    ["command"],
  ),
  doc("A device on a serial line."),
);

export type SerialConfig = v.InferOutput<typeof serialSchema>;
export type SerialCommand = SerialConfig["command"][number];
