import { fromUtf8, utf8 } from "../core/bytes.js";
import { SyntaxInvalid } from "../core/errors.js";

/** Integers beyond 2^53 come as `bigint`; a decimal fraction comes as the nearest number. */
export type CborValue =
  number | bigint | string | boolean | null | Uint8Array | readonly CborValue[] | ReadonlyMap<string, CborValue>;

export interface CborOptions {
  /** Take strings, arrays and maps of indefinite length too, as Zephyr sends them; `false` unless given. */
  readonly indefinite?: boolean;
}

const MAX_DEPTH = 8;
const BREAK = 0xff;

/**
 * One value of RFC 8949 in the subset that docs/reference/link.md names (section 4). Memory stays in proportion to the
 * input: a length is believed only as far as there are bytes.
 *
 * @throws {SyntaxInvalid} on anything else, and on bytes after it.
 */
export function decodeCbor(bytes: Uint8Array, options: CborOptions = {}): CborValue {
  const reader = new Reader(bytes, options.indefinite ?? false);
  const value = reader.value(0);
  if (reader.at < bytes.length) throw reader.fault("bytes after the value");
  return value;
}

class Reader {
  at = 0;
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #indefinite: boolean;

  constructor(bytes: Uint8Array, indefinite: boolean) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#indefinite = indefinite;
  }

  fault(what: string): SyntaxInvalid {
    return new SyntaxInvalid(`CBOR, byte ${this.at}: ${what}`);
  }

  value(depth: number): CborValue {
    if (depth > MAX_DEPTH) throw this.fault(`nested more than ${MAX_DEPTH} deep`);
    const initial = this.#byte();
    const major = initial >> 5;
    const info = initial & 0x1f;
    if (major === 7) return this.#simple(info);
    if (info === 31) return this.#open(major, depth);
    const argument = this.#argument(info);
    switch (major) {
      case 0:
        return argument;
      case 1:
        return typeof argument === "number" && argument < Number.MAX_SAFE_INTEGER
          ? -1 - argument
          : -1n - BigInt(argument);
      case 2:
        return this.#string(argument).slice();
      case 3:
        return this.#text(argument);
      case 4:
        return Array.from({ length: this.#count(argument, 1) }, () => this.value(depth + 1));
      case 5:
        return this.#map(this.#count(argument, 2), depth);
      default:
        if (argument !== 4) throw this.fault(`tag ${argument} is not supported`);
        return this.#decimal(depth);
    }
  }

  #byte(): number {
    const byte = this.#bytes[this.at];
    if (byte === undefined) throw this.fault("ends too early");
    this.at += 1;
    return byte;
  }

  #take(length: number): number {
    const from = this.at;
    if (length > this.#bytes.length - from) throw this.fault("ends too early");
    this.at += length;
    return from;
  }

  #argument(info: number): number | bigint {
    if (info < 24) return info;
    if (info === 24) return this.#view.getUint8(this.#take(1));
    if (info === 25) return this.#view.getUint16(this.#take(2));
    if (info === 26) return this.#view.getUint32(this.#take(4));
    if (info !== 27) throw this.fault("a reserved or indefinite length");
    const wide = this.#view.getBigUint64(this.#take(8));
    return wide <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(wide) : wide;
  }

  #string(length: number | bigint): Uint8Array {
    if (typeof length === "bigint") throw this.fault("ends too early");
    const from = this.#take(length);
    return this.#bytes.subarray(from, from + length);
  }

  #text(length: number | bigint): string {
    try {
      return fromUtf8(this.#string(length));
    } catch (cause) {
      throw new SyntaxInvalid(`CBOR, byte ${this.at}: bad text`, { cause });
    }
  }

  #count(argument: number | bigint, leastBytes: number): number {
    if (typeof argument === "bigint" || argument * leastBytes > this.#bytes.length - this.at) {
      throw this.fault("ends too early");
    }
    return argument;
  }

  #map(count: number, depth: number): ReadonlyMap<string, CborValue> {
    const map = new Map<string, CborValue>();
    for (let left = count; left > 0; left -= 1) this.#entry(map, depth);
    return map;
  }

  #entry(map: Map<string, CborValue>, depth: number): void {
    const key = this.value(depth + 1);
    if (typeof key !== "string") throw this.fault("a map key that is not a text");
    if (map.has(key)) throw this.fault("a map key that is there twice");
    map.set(key, this.value(depth + 1));
  }

  #open(major: number, depth: number): CborValue {
    if (!this.#indefinite || major < 2 || major > 5) throw this.fault("a reserved or indefinite length");
    const items: CborValue[] = [];
    const map = new Map<string, CborValue>();
    while (this.#bytes[this.at] !== BREAK) {
      if (major === 5) this.#entry(map, depth);
      else items.push(this.value(depth + 1));
    }
    this.at += 1;
    if (major === 5) return map;
    if (major === 4) return items;
    if (major === 3 && items.every((item) => typeof item === "string")) return items.join("");
    if (major === 2 && items.every((item) => item instanceof Uint8Array)) return Buffer.concat(items);
    throw this.fault("a piece of another type in a string");
  }

  #simple(info: number): CborValue {
    switch (info) {
      case 20:
        return false;
      case 21:
        return true;
      case 22:
        return null;
      case 25:
        return halfFloat(this.#view.getUint16(this.#take(2)));
      case 26:
        return this.#view.getFloat32(this.#take(4));
      case 27:
        return this.#view.getFloat64(this.#take(8));
      default:
        throw this.fault("a simple value that is not supported");
    }
  }

  #decimal(depth: number): number {
    const pair = this.value(depth + 1);
    if (!Array.isArray(pair) || pair.length !== 2) throw this.fault("a decimal fraction is [exponent, mantissa]");
    const [exponent, mantissa] = pair as readonly CborValue[];
    if (typeof exponent !== "number" || !Number.isInteger(exponent) || !isInteger(mantissa)) {
      throw this.fault("a decimal fraction is two integers");
    }
    return Number(`${mantissa}e${exponent}`);
  }
}

const isInteger = (value: CborValue | undefined): value is number | bigint =>
  typeof value === "bigint" || Number.isInteger(value);

function halfFloat(half: number): number {
  const exponent = (half >> 10) & 0x1f;
  const fraction = half & 0x3ff;
  const sign = half & 0x8000 ? -1 : 1;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction === 0 ? sign * Infinity : NaN;
  return sign * (1024 + fraction) * 2 ** (exponent - 25);
}

/** What {@link encodeCbor} takes: plain objects too. */
export type CborInput =
  CborValue | readonly CborInput[] | ReadonlyMap<string, CborInput> | { readonly [key: string]: CborInput };

/** Shortest definite form. A number with a fraction becomes a decimal fraction: no floating point on the other side. */
export function encodeCbor(value: CborInput): Uint8Array {
  const parts: Uint8Array[] = [];
  write(value, parts);
  return Buffer.concat(parts);
}

function write(value: CborInput, parts: Uint8Array[]): void {
  if (typeof value === "number") writeNumber(value, parts);
  else if (typeof value === "bigint") writeInteger(value, parts);
  else if (typeof value === "boolean") parts.push(Uint8Array.of(value ? 0xf5 : 0xf4));
  else if (value === null) parts.push(Uint8Array.of(0xf6));
  else if (typeof value === "string") {
    const text = utf8(value);
    parts.push(head(3, text.length), text);
  } else if (value instanceof Uint8Array) parts.push(head(2, value.length), value);
  else if (isArray(value)) {
    parts.push(head(4, value.length));
    for (const item of value) write(item, parts);
  } else {
    const entries = value instanceof Map ? [...value] : Object.entries(value);
    parts.push(head(5, entries.length));
    for (const [key, item] of entries as [string, CborInput][]) {
      write(key, parts);
      write(item, parts);
    }
  }
}

const isArray = (value: CborInput): value is readonly CborInput[] => Array.isArray(value);

function writeInteger(value: number | bigint, parts: Uint8Array[]): void {
  if (BigInt.asIntN(65, BigInt(value)) !== BigInt(value)) throw new RangeError("an integer of more than 64 bits");
  parts.push(value < 0 ? head(1, typeof value === "bigint" ? -1n - value : -1 - value) : head(0, value));
}

function writeNumber(value: number, parts: Uint8Array[]): void {
  if (Number.isSafeInteger(value) && !Object.is(value, -0)) return writeInteger(value, parts);
  const decimal = /^(-?\d)(?:\.(\d+))?e([+-]\d+)$/u.exec(value.toExponential());
  const [, first, rest = "", exponent] = decimal ?? [];
  const mantissa = Number(`${first}${rest}`);
  if (Number.isSafeInteger(mantissa) && mantissa !== 0) {
    parts.push(Uint8Array.of(0xc4, 0x82));
    writeInteger(Number(exponent) - rest.length, parts);
    writeInteger(mantissa, parts);
    return;
  }
  const float = new Uint8Array(9);
  float[0] = 0xfb;
  new DataView(float.buffer).setFloat64(1, value);
  parts.push(float);
}

function head(major: number, argument: number | bigint): Uint8Array {
  const type = major << 5;
  if (argument < 24) return Uint8Array.of(type | Number(argument));
  const width = argument < 0x100 ? 1 : argument < 0x10000 ? 2 : argument < 0x100000000 ? 4 : 8;
  const bytes = new Uint8Array(1 + width);
  const view = new DataView(bytes.buffer);
  bytes[0] = type | (24 + Math.log2(width));
  if (width === 8) view.setBigUint64(1, BigInt(argument));
  else if (width === 4) view.setUint32(1, Number(argument));
  else if (width === 2) view.setUint16(1, Number(argument));
  else view.setUint8(1, Number(argument));
  return bytes;
}
