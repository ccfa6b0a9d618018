import { SyntaxInvalid } from "../../core/errors.js";
import { type CborInput, type CborValue, decodeCbor, encodeCbor } from "../cbor.js";

export type SmpOperation = "read" | "read-response" | "write" | "write-response";

/** SMP Protocol Specification (Zephyr), "Frame: The envelope". */
export interface SmpPacket {
  readonly operation: SmpOperation;
  /** 0: errors are `rc`; 1: errors of a group are `err: { group, rc }`. */
  readonly version: 0 | 1;
  readonly group: number;
  readonly command: number;
  readonly sequence: number;
  readonly body: ReadonlyMap<string, CborValue>;
}

const OPERATIONS: readonly SmpOperation[] = ["read", "read-response", "write", "write-response"];
const HEADER_BYTES = 8;

export function formatSmpPacket(
  packet: Omit<SmpPacket, "body"> & { readonly body: Readonly<Record<string, CborInput>> },
): Uint8Array {
  const body = encodeCbor(packet.body);
  const header = Buffer.alloc(HEADER_BYTES);
  header.writeUInt8((packet.version << 3) | OPERATIONS.indexOf(packet.operation), 0);
  header.writeUInt16BE(body.length, 2);
  header.writeUInt16BE(packet.group, 4);
  header.writeUInt8(packet.sequence, 6);
  header.writeUInt8(packet.command, 7);
  return Buffer.concat([header, body]);
}

/** @throws {SyntaxInvalid} */
export function parseSmpPacket(bytes: Uint8Array): SmpPacket {
  const packet = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (packet.length < HEADER_BYTES) throw new SyntaxInvalid("SMP: shorter than its header");
  const first = packet.readUInt8(0);
  const operation = OPERATIONS[first & 7];
  if (!operation || first >> 5 !== 0) throw new SyntaxInvalid("SMP: unknown operation");
  if (packet.readUInt16BE(2) !== packet.length - HEADER_BYTES)
    throw new SyntaxInvalid("SMP: length differs from its header's");
  const body =
    packet.length === HEADER_BYTES ? new Map() : decodeCbor(packet.subarray(HEADER_BYTES), { indefinite: true });
  if (!(body instanceof Map)) throw new SyntaxInvalid("SMP: the body is not a map");
  return {
    operation,
    version: (first >> 3) & 3 ? 1 : 0,
    group: packet.readUInt16BE(4),
    sequence: packet.readUInt8(6),
    command: packet.readUInt8(7),
    body: body as ReadonlyMap<string, CborValue>,
  };
}
