const BLOCK_BYTES = 128;
const MASK = 0xffff_ffff_ffff_ffffn;

const IV: readonly bigint[] = [
  ...[0x6a09e667f3bcc908n, 0xbb67ae8584caa73bn, 0x3c6ef372fe94f82bn, 0xa54ff53a5f1d36f1n],
  ...[0x510e527fade682d1n, 0x9b05688c2b3e6c1fn, 0x1f83d9abfb41bd6bn, 0x5be0cd19137e2179n],
];

/** Which word of the message a step takes: a row a round, as hexadecimal digits. */
const SIGMA = [
  ...["0123456789abcdef", "ea489fd61c02b753", "b8c052fdae367194", "7931dcbe265a40f8", "905724afe1bc683d"],
  ...["2c6a0b834d75fe19", "c51fed4a0763928b", "db7ec13950f4862a", "6fe9b308c2d714a5", "a2847615fb9e3cd0"],
];

/** Columns, then diagonals, of the 4 × 4 words. */
const STEPS = [
  ...[[0, 4, 8, 12] as const, [1, 5, 9, 13] as const, [2, 6, 10, 14] as const, [3, 7, 11, 15] as const],
  ...[[0, 5, 10, 15] as const, [1, 6, 11, 12] as const, [2, 7, 8, 13] as const, [3, 4, 9, 14] as const],
];

/**
 * BLAKE2b without key, with a digest of 1 to 64 bytes (RFC 7693). OpenSSL offers the one of 64 bytes only. Written for
 * the few short inputs of Argon2, not for speed.
 */
export function blake2b(input: Uint8Array, digestBytes: number): Buffer {
  const state = IV.map((word, index) => (index === 0 ? word ^ 0x0101_0000n ^ BigInt(digestBytes) : word));
  const blocks = Math.max(1, Math.ceil(input.length / BLOCK_BYTES));
  const padded = Buffer.concat([input], blocks * BLOCK_BYTES);
  for (let block = 0; block < blocks; block += 1) {
    const end = Math.min((block + 1) * BLOCK_BYTES, input.length);
    compress(state, padded.subarray(block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES), end, block === blocks - 1);
  }
  const digest = Buffer.alloc(64);
  state.forEach((word, index) => digest.writeBigUInt64LE(word, index * 8));
  return digest.subarray(0, digestBytes);
}

function compress(state: bigint[], block: Buffer, bytesSoFar: number, isLast: boolean): void {
  const message = Array.from({ length: 16 }, (_, index) => block.readBigUInt64LE(index * 8));
  const work = [...state, ...IV];
  const word = (index: number): bigint => work[index] ?? 0n;
  work[12] = word(12) ^ BigInt(bytesSoFar);
  if (isLast) work[14] = word(14) ^ MASK;
  for (let round = 0; round < 12; round += 1) {
    const row = SIGMA[round % 10] ?? "";
    STEPS.forEach(([a, b, c, d], step) => {
      [0, 1].forEach((half) => {
        const taken = message[Number.parseInt(row.charAt(2 * step + half), 16)] ?? 0n;
        work[a] = (word(a) + word(b) + taken) & MASK;
        work[d] = rotateRight(word(d) ^ word(a), half === 0 ? 32n : 16n);
        work[c] = (word(c) + word(d)) & MASK;
        work[b] = rotateRight(word(b) ^ word(c), half === 0 ? 24n : 63n);
      });
    });
  }
  for (let index = 0; index < 8; index += 1) state[index] = (state[index] ?? 0n) ^ word(index) ^ word(index + 8);
}

const rotateRight = (word: bigint, bits: bigint): bigint => ((word >> bits) | (word << (64n - bits))) & MASK;
