import { isBits, type Table } from "./pdu.js";

/** Where a value lies. */
export interface Place {
  readonly unitId: number;
  readonly table: Table;
  readonly address: number;
  /** Registers or bits. */
  readonly count: number;
}

/** One request, and the places that its answer covers. */
export interface PlannedRead<P extends Place> {
  readonly unitId: number;
  readonly table: Table;
  readonly address: number;
  readonly count: number;
  readonly places: readonly P[];
}

/** Registers and bits that a request may have (Modbus Application Protocol V1.1b3, sections 6.1 to 6.4). */
const MAX_REGISTERS = 125;
const MAX_BITS = 2000;
/** Reading over a gap is cheaper than another request, as far as this. */
const MAX_GAP = { registers: 16, bits: 256 };

/** Few requests for many places. A device that does not have what lies in a gap says so; see the driver. */
export function planReads<P extends Place>(places: readonly P[]): PlannedRead<P>[] {
  const sorted = [...places].sort(
    (a, b) => a.unitId - b.unitId || Number(a.table > b.table) - Number(a.table < b.table) || a.address - b.address,
  );
  const reads: PlannedRead<P>[] = [];
  for (const place of sorted) {
    const last = reads.at(-1);
    const joined = last && join(last, place);
    if (joined) reads[reads.length - 1] = joined;
    else reads.push({ ...placeOf(place), places: [place] });
  }
  return reads;
}

function join<P extends Place>(read: PlannedRead<P>, place: P): PlannedRead<P> | undefined {
  if (read.unitId !== place.unitId || read.table !== place.table) return undefined;
  const end = read.address + read.count;
  const count = Math.max(end, place.address + place.count) - read.address;
  const bits = isBits(read.table);
  if (place.address - end > (bits ? MAX_GAP.bits : MAX_GAP.registers)) return undefined;
  return count > (bits ? MAX_BITS : MAX_REGISTERS) ? undefined : { ...read, count, places: [...read.places, place] };
}

const placeOf = ({ unitId, table, address, count }: Place): Place => ({ unitId, table, address, count });
