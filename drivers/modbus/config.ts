import * as v from "valibot";
import { doc, driverId, filePath, integer, readingClass, readingName, rs485, unit } from "../config-parts.js";
import { REGISTER_TYPES } from "./values.js";

const place = {
  unitId: v.optional(v.pipe(integer(0, 255), doc("Number of the device on the bus.")), 1),
  address: v.pipe(integer(0, 65_535), doc("Address as on the wire, from 0; a manual's 40001 is 0.")),
  type: v.optional(v.pipe(v.picklist(REGISTER_TYPES), doc("Type of the number in the registers.")), "u16"),
  wordOrder: v.optional(
    v.pipe(v.picklist(["big", "little"]), doc("Whether the high or the low register comes first.")),
    "big",
  ),
  scale: v.optional(
    v.pipe(
      v.number(),
      v.check((scale) => Number.isFinite(scale) && scale !== 0, "expected a number other than 0"),
      doc("The number in the register is multiplied by this; what is written is divided by it."),
    ),
    1,
  ),
};

const reading = v.strictObject({
  name: readingName,
  unit: v.optional(unit),
  class: v.optional(readingClass, "measurement"),
  table: v.optional(
    v.pipe(v.picklist(["holding", "input", "coil", "discrete"]), doc("The table it is in.")),
    "holding",
  ),
  ...place,
});

const command = v.strictObject({
  name: v.pipe(
    v.string(),
    v.regex(/^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$/u, "expected letters, digits, _, . and -"),
    doc("Name of the command; it takes `value`, writes it, reads it back and answers with what it read."),
  ),
  table: v.optional(v.pipe(v.picklist(["holding", "coil"]), doc("The table it writes.")), "holding"),
  minimum: v.optional(v.pipe(v.number(), doc("Least value that may be written."))),
  maximum: v.optional(v.pipe(v.number(), doc("Greatest value that may be written."))),
  ...place,
});

/** Keys of `type = "modbus"`. */
export const modbusSchema = v.pipe(
  v.strictObject({
    id: driverId,
    type: v.literal("modbus"),
    path: v.optional(
      v.pipe(filePath, doc("Serial port of an RTU bus. Either this or `host`."), v.examples(["/dev/ttyUSB0"])),
    ),
    baud: v.optional(v.pipe(integer(300, 4_000_000), doc("Bits per second of the bus.")), 19_200),
    rs485: v.optional(rs485),
    parity: v.optional(v.pipe(v.picklist(["none", "even", "odd"]), doc("Parity of the bus.")), "even"),
    stopBits: v.optional(v.pipe(v.picklist([1, 2]), doc("Stop bits of the bus.")), 1),
    host: v.optional(v.pipe(v.string(), v.nonEmpty(), doc("Host of a Modbus TCP device or gateway."))),
    port: v.optional(v.pipe(integer(1, 65_535), doc("Its port.")), 502),
    intervalMs: v.optional(
      v.pipe(integer(20, 86_400_000), doc("Time between two rounds of readings, in milliseconds.")),
      10_000,
    ),
    timeoutMs: v.optional(v.pipe(integer(10, 60_000), doc("Longest wait for an answer, in milliseconds.")), 1000),
    reading: v.optional(v.pipe(v.array(reading), doc("What to read; neighbours are read together.")), []),
    command: v.optional(v.pipe(v.array(command), doc("What can be written on command.")), []),
  }),
  v.forward(
    v.partialCheck(
      [["path"], ["host"]],
      ({ path, host }) => (path === undefined) !== (host === undefined),
      "expected either path or host",
    ),
    ["path"],
  ),
  doc("Devices on a Modbus, RTU on a serial line or TCP. We are the one master."),
);

export type ModbusConfig = v.InferOutput<typeof modbusSchema>;
export type ModbusReading = ModbusConfig["reading"][number];
export type ModbusCommand = ModbusConfig["command"][number];
