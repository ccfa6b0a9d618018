import { EdgeError, SyntaxInvalid } from "../../core/errors.js";

/** The four tables of a Modbus device (Modbus Application Protocol V1.1b3, section 4.3). */
export type Table = "coil" | "discrete" | "input" | "holding";

/** The device answered with an exception (section 7); it did nothing. */
export class ModbusException extends EdgeError {
  override readonly code: string = "MODBUS_EXCEPTION";
  readonly exception: number;

  constructor(exception: number) {
    super(`the device answers with exception ${exception} (${EXCEPTIONS[exception] ?? "unknown"})`);
    this.exception = exception;
  }
}

const EXCEPTIONS: Readonly<Record<number, string>> = {
  1: "illegal function",
  2: "illegal data address",
  3: "illegal data value",
  4: "device failure",
  5: "acknowledged, takes longer",
  6: "device busy",
  8: "memory parity error",
  10: "gateway path unavailable",
  11: "gateway target does not respond",
};

const READ: Readonly<Record<Table, number>> = { coil: 1, discrete: 2, holding: 3, input: 4 };
const WRITE_COIL = 5;
const WRITE_REGISTER = 6;
const WRITE_REGISTERS = 16;

export const isBits = (table: Table): boolean => table === "coil" || table === "discrete";

export function readRequest(table: Table, address: number, count: number): Buffer {
  return words(READ[table], address, count);
}

export function writeCoilRequest(address: number, on: boolean): Buffer {
  return words(WRITE_COIL, address, on ? 0xff00 : 0);
}

/** One register by function 6, several by function 16. `data` has two bytes a register, big-endian. */
export function writeRegistersRequest(address: number, data: Buffer): Buffer {
  if (data.length === 2) return words(WRITE_REGISTER, address, data.readUInt16BE(0));
  return Buffer.concat([words(WRITE_REGISTERS, address, data.length / 2), Buffer.from([data.length]), data]);
}

/**
 * The data of an answer to a read: bits packed, least significant first, or registers.
 *
 * @throws {ModbusException}, {SyntaxInvalid} for an answer of another size.
 */
export function readAnswer(table: Table, count: number, pdu: Buffer): Buffer {
  checkFunction(READ[table], pdu);
  const expected = isBits(table) ? Math.ceil(count / 8) : count * 2;
  if (pdu[1] !== expected || pdu.length !== expected + 2) throw new SyntaxInvalid("Modbus: an answer of another size");
  return pdu.subarray(2);
}

/** @throws {ModbusException}, {SyntaxInvalid} unless the answer repeats what was written. */
export function checkWriteAnswer(request: Buffer, pdu: Buffer): void {
  checkFunction(request[0] ?? 0, pdu);
  if (!pdu.equals(request.subarray(0, 5))) throw new SyntaxInvalid("Modbus: the answer is to another request");
}

/** How many bytes the answer that begins so has, without address and checksum; `undefined` until it can be told. */
export function answerLength(beginning: Buffer): number | undefined {
  const [fn, size] = beginning;
  if (fn === undefined) return undefined;
  if (fn >= 0x80) return 2;
  if (fn >= 5) return 5;
  return size === undefined ? undefined : size + 2;
}

function checkFunction(expected: number, pdu: Buffer): void {
  if (pdu[0] === (expected | 0x80)) throw new ModbusException(pdu[1] ?? 0);
  if (pdu[0] !== expected) throw new SyntaxInvalid("Modbus: the answer is of another function");
}

function words(fn: number, first: number, second: number): Buffer {
  const pdu = Buffer.alloc(5);
  pdu.writeUInt8(fn, 0);
  pdu.writeUInt16BE(first, 1);
  pdu.writeUInt16BE(second, 3);
  return pdu;
}
