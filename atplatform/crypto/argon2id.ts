import { blake2b } from "./blake2b.js";

export interface Argon2idParams {
  /** At least 8 for each of `parallelism`. */
  readonly memoryKiB: number;
  readonly iterations: number;
  readonly parallelism: number;
  /** 4 to 64. */
  readonly keyBytes: number;
}

const VERSION = 0x13;
const TYPE_ID = 2;
/** Of 64 bits; a block is 1 KiB. Held as 32-bit halves, the low one first. */
const BLOCK_WORDS = 128;
const BLOCK_HALVES = 2 * BLOCK_WORDS;
const SLICES = 4;

/**
 * Argon2id (RFC 9106), version 0x13, without secret and associated data. Unlike the RFC it takes a salt of any length:
 * atPlatform key files are salted with their passphrase, however short. Blocks the thread: 10 MiB twice over take some
 * 0.3 s on a fast processor, and the memory asked for is held meanwhile.
 */
export function argon2id(password: Uint8Array, salt: Uint8Array, params: Argon2idParams): Buffer {
  const { iterations, parallelism, keyBytes } = params;
  const laneBlocks = SLICES * Math.floor(params.memoryKiB / (SLICES * parallelism));
  const memory = new Memory(laneBlocks, parallelism, iterations);
  const seed = blake2b(
    Buffer.concat([
      uint32s(parallelism, keyBytes, params.memoryKiB, iterations, VERSION, TYPE_ID),
      ...[uint32s(password.length), password, uint32s(salt.length), salt, uint32s(0, 0)],
    ]),
    64,
  );
  for (let lane = 0; lane < parallelism; lane += 1) {
    for (let block = 0; block < 2; block += 1) {
      const bytes = longHash(Buffer.concat([seed, uint32s(block, lane)]), BLOCK_HALVES * 4);
      memory.set(lane * laneBlocks + block, bytes);
    }
  }
  for (let pass = 0; pass < iterations; pass += 1) {
    for (let slice = 0; slice < SLICES; slice += 1) {
      for (let lane = 0; lane < parallelism; lane += 1) memory.fillSegment(pass, slice, lane);
    }
  }
  return longHash(memory.lastColumn(), keyBytes);
}

/** H' of RFC 9106, 3.3: of any length. */
function longHash(input: Uint8Array, bytes: number): Buffer {
  const prefixed = Buffer.concat([uint32s(bytes), input]);
  if (bytes <= 64) return blake2b(prefixed, bytes);
  const parts: Buffer[] = [];
  let digest = blake2b(prefixed, 64);
  let left = bytes;
  for (; left > 64; left -= 32) {
    parts.push(digest.subarray(0, 32));
    digest = blake2b(digest, left - 32 > 64 ? 64 : left - 32);
  }
  return Buffer.concat([...parts, digest]);
}

function uint32s(...values: readonly number[]): Buffer {
  const bytes = Buffer.alloc(4 * values.length);
  values.forEach((value, index) => bytes.writeUInt32LE(value, 4 * index));
  return bytes;
}

/** The lanes of blocks, one after the other. */
class Memory {
  readonly #halves: Uint32Array;
  readonly #laneBlocks: number;
  readonly #segmentBlocks: number;
  readonly #lanes: number;
  readonly #iterations: number;
  readonly #zero = new Uint32Array(BLOCK_HALVES);
  readonly #addresses = new Uint32Array(BLOCK_HALVES);

  constructor(laneBlocks: number, lanes: number, iterations: number) {
    this.#laneBlocks = laneBlocks;
    this.#segmentBlocks = laneBlocks / SLICES;
    this.#lanes = lanes;
    this.#iterations = iterations;
    this.#halves = new Uint32Array(laneBlocks * lanes * BLOCK_HALVES);
  }

  set(block: number, bytes: Buffer): void {
    const target = this.#block(block);
    for (let half = 0; half < BLOCK_HALVES; half += 1) target[half] = bytes.readUInt32LE(4 * half);
  }

  fillSegment(pass: number, slice: number, lane: number): void {
    const isIndependent = pass === 0 && slice < 2;
    for (let index = pass === 0 && slice === 0 ? 2 : 0; index < this.#segmentBlocks; index += 1) {
      const column = slice * this.#segmentBlocks + index;
      const current = lane * this.#laneBlocks + column;
      const previous = this.#block(column === 0 ? current + this.#laneBlocks - 1 : current - 1);
      if (isIndependent && (index % BLOCK_WORDS === 0 || (index === 2 && slice === 0))) {
        this.#nextAddresses([pass, lane, slice, Math.floor(index / BLOCK_WORDS) + 1]);
      }
      const random = isIndependent ? this.#addresses : previous;
      const at = isIndependent ? 2 * (index % BLOCK_WORDS) : 0;
      const reference = this.#reference({
        pass,
        slice,
        lane,
        index,
        random: random[at] ?? 0,
        other: random[at + 1] ?? 0,
      });
      mixBlocks(previous, this.#block(reference), this.#block(current), pass > 0);
    }
  }

  /** The XOR of the last block of each lane. */
  lastColumn(): Buffer {
    const bytes = Buffer.alloc(BLOCK_HALVES * 4);
    for (let half = 0; half < BLOCK_HALVES; half += 1) {
      let value = 0;
      for (let lane = 1; lane <= this.#lanes; lane += 1) value ^= this.#block(lane * this.#laneBlocks - 1)[half] ?? 0;
      bytes.writeUInt32LE(value >>> 0, 4 * half);
    }
    return bytes;
  }

  #block(block: number): Uint32Array {
    return this.#halves.subarray(block * BLOCK_HALVES, (block + 1) * BLOCK_HALVES);
  }

  /** RFC 9106, 3.4.1.2: the addresses do not depend on the password. */
  #nextAddresses([pass, lane, slice, counter]: readonly [number, number, number, number]): void {
    const input = new Uint32Array(BLOCK_HALVES);
    const blocks = this.#laneBlocks * this.#lanes;
    [pass, lane, slice, blocks, this.#iterations, TYPE_ID, counter].forEach((word, index) => (input[2 * index] = word));
    mixBlocks(this.#zero, input, this.#addresses, false);
    mixBlocks(this.#zero, this.#addresses.slice(), this.#addresses, false);
  }

  /** RFC 9106, 3.4.2: which block goes into the next one. `random` and `other` are J1 and J2. */
  #reference(at: {
    readonly pass: number;
    readonly slice: number;
    readonly lane: number;
    readonly index: number;
    readonly random: number;
    readonly other: number;
  }): number {
    const { pass, slice, index } = at;
    const isFirst = pass === 0;
    const lane = isFirst && slice === 0 ? at.lane : at.other % this.#lanes;
    const whole = isFirst ? slice * this.#segmentBlocks : this.#laneBlocks - this.#segmentBlocks;
    const area = lane === at.lane ? whole + index - 1 : whole - (index === 0 ? 1 : 0);
    const back = highProduct(area, highProduct(at.random, at.random));
    const start = isFirst ? 0 : ((slice + 1) % SLICES) * this.#segmentBlocks;
    return lane * this.#laneBlocks + ((start + area - 1 - back) % this.#laneBlocks);
  }
}

const mixed = new Uint32Array(BLOCK_HALVES);
const joined = new Uint32Array(BLOCK_HALVES);

/** The compression function G of RFC 9106, 3.5; `into` is overwritten, or from the second pass on XORed. */
function mixBlocks(x: Uint32Array, y: Uint32Array, into: Uint32Array, xor: boolean): void {
  for (let half = 0; half < BLOCK_HALVES; half += 1) joined[half] = (x[half] ?? 0) ^ (y[half] ?? 0);
  mixed.set(joined);
  for (let row = 0; row < 8; row += 1) permute(32 * row, 4);
  for (let column = 0; column < 8; column += 1) permute(4 * column, 32);
  for (let half = 0; half < BLOCK_HALVES; half += 1) {
    const value = (mixed[half] ?? 0) ^ (joined[half] ?? 0);
    into[half] = xor ? (into[half] ?? 0) ^ value : value;
  }
}

/** P of RFC 9106, 3.6, over 16 words: pairs of words, `stride` halves from one pair to the next. */
function permute(start: number, stride: number): void {
  for (let column = 0; column < 4; column += 1) step(start, stride, column, column, column, column);
  for (let row = 0; row < 4; row += 1) step(start, stride, row, (row + 1) & 3, (row + 2) & 3, (row + 3) & 3);
}

/** A step of BLAKE2b in which additions have become `a + b + 2 · low(a) · low(b)`. */
function step(start: number, stride: number, a: number, b: number, c: number, d: number): void {
  const atA = start + (a >> 1) * stride + 2 * (a & 1);
  const atB = start + ((b >> 1) + 2) * stride + 2 * (b & 1);
  const atC = start + ((c >> 1) + 4) * stride + 2 * (c & 1);
  const atD = start + ((d >> 1) + 6) * stride + 2 * (d & 1);
  add(atA, atB);
  turn(atD, atA, 32);
  add(atC, atD);
  turn(atB, atC, 24);
  add(atA, atB);
  turn(atD, atA, 16);
  add(atC, atD);
  turn(atB, atC, 63);
}

function add(target: number, other: number): void {
  const xl = mixed[target] ?? 0;
  const yl = mixed[other] ?? 0;
  const low = Math.imul(xl, yl);
  const twice = low << 1;
  const carry = (highProduct(xl, yl) << 1) | (low >>> 31);
  // The carry out of the lower halves, of two additions.
  const first = (xl + yl) | 0;
  const sum = (first + twice) | 0;
  const over = (first >>> 0 < xl ? 1 : 0) + (sum >>> 0 < twice >>> 0 ? 1 : 0);
  mixed[target] = sum;
  mixed[target + 1] = ((mixed[target + 1] ?? 0) + (mixed[other + 1] ?? 0) + carry + over) | 0;
}

/** XOR, then a rotation to the right. */
function turn(target: number, other: number, bits: 16 | 24 | 32 | 63): void {
  const low = (mixed[target] ?? 0) ^ (mixed[other] ?? 0);
  const high = (mixed[target + 1] ?? 0) ^ (mixed[other + 1] ?? 0);
  if (bits === 32) {
    mixed[target] = high;
    mixed[target + 1] = low;
  } else if (bits === 63) {
    mixed[target] = (low << 1) | (high >>> 31);
    mixed[target + 1] = (high << 1) | (low >>> 31);
  } else {
    mixed[target] = (low >>> bits) | (high << (32 - bits));
    mixed[target + 1] = (high >>> bits) | (low << (32 - bits));
  }
}

/** The upper 32 bits of the product of two unsigned 32-bit numbers. */
function highProduct(x: number, y: number): number {
  const xl = x & 0xffff;
  const xh = x >>> 16;
  const yl = y & 0xffff;
  const yh = y >>> 16;
  const lowHigh = xl * yh;
  const highLow = xh * yl;
  const middle = ((xl * yl) >>> 16) + (lowHigh & 0xffff) + (highLow & 0xffff);
  return (xh * yh + (lowHigh >>> 16) + (highLow >>> 16) + (middle >>> 16)) >>> 0;
}
