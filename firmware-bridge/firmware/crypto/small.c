/*
 * The link's cryptography for microcontrollers without a library of their own: small rather than fast, no tables that
 * depend on secrets, no branches on secrets. X25519 after RFC 7748, Salsa20 after D. J. Bernstein's specification,
 * Poly1305 after RFC 8439, SHA-512 after FIPS 180-4. Compared with libsodium byte by byte in test/firmware-bridge.
 */
#include <string.h>

#include "../src/atedge_link.h"

static uint32_t load32(const uint8_t *bytes) {
  return bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
}

static void save32(uint8_t *bytes, uint32_t value) {
  for (int i = 0; i < 4; i++) bytes[i] = (uint8_t)(value >> 8 * i);
}

/* ---- X25519: field elements are eight 32-bit words, modulo 2^256 - 38, twice the prime ---------------------------- */

typedef uint32_t field[8];

/* Adds 38 * carry, what 2^256 * carry is worth. */
static void fold(field out, uint64_t carry) {
  for (int round = 0; round < 2; round++) {
    carry *= 38;
    for (int i = 0; i < 8; i++) {
      carry += out[i];
      out[i] = (uint32_t)carry;
      carry >>= 32;
    }
  }
}

static void add(field out, const field a, const field b) {
  uint64_t carry = 0;
  for (int i = 0; i < 8; i++) {
    carry += (uint64_t)a[i] + b[i];
    out[i] = (uint32_t)carry;
    carry >>= 32;
  }
  fold(out, carry);
}

static void subtract(field out, const field a, const field b) {
  uint32_t borrow = 0;
  for (int i = 0; i < 8; i++) {
    uint64_t difference = (uint64_t)a[i] - b[i] - borrow;
    out[i] = (uint32_t)difference;
    borrow = (uint32_t)(difference >> 63);
  }
  /* A borrow was worth 2^256, which is 38; taking 38 away may borrow once more. */
  for (int round = 0; round < 2; round++) {
    uint64_t take = 38u * (uint64_t)borrow;
    borrow = 0;
    for (int i = 0; i < 8; i++) {
      uint64_t difference = (uint64_t)out[i] - take - borrow;
      out[i] = (uint32_t)difference;
      borrow = (uint32_t)(difference >> 63);
      take = 0;
    }
  }
}

static void multiply(field out, const field a, const field b) {
  uint32_t product[16] = {0};
  for (int i = 0; i < 8; i++) {
    uint64_t carry = 0;
    for (int j = 0; j < 8; j++) {
      carry += (uint64_t)a[i] * b[j] + product[i + j];
      product[i + j] = (uint32_t)carry;
      carry >>= 32;
    }
    product[i + 8] = (uint32_t)carry;
  }
  uint64_t carry = 0;
  for (int i = 0; i < 8; i++) {
    carry += (uint64_t)product[i + 8] * 38 + product[i];
    out[i] = (uint32_t)carry;
    carry >>= 32;
  }
  fold(out, carry);
}

/* To the power of p - 2 = 2^255 - 21, whose bits are all set but 2 and 4. */
static void invert(field out, const field a) {
  field result;
  memcpy(result, a, sizeof result);
  for (int bit = 253; bit >= 0; bit--) {
    multiply(result, result, result);
    if (bit != 2 && bit != 4) multiply(result, result, a);
  }
  memcpy(out, result, sizeof result);
}

/* The one representative below p = 2^255 - 19. */
static void reduce(field a) {
  for (int round = 0; round < 2; round++) {
    uint64_t carry = 19 * (uint64_t)(a[7] >> 31);
    a[7] &= 0x7fffffffu;
    for (int i = 0; i < 8; i++) {
      carry += a[i];
      a[i] = (uint32_t)carry;
      carry >>= 32;
    }
  }
  field raised;
  uint64_t carry = 19;
  for (int i = 0; i < 8; i++) {
    carry += a[i];
    raised[i] = (uint32_t)carry;
    carry >>= 32;
  }
  uint32_t above = 0u - (raised[7] >> 31);
  raised[7] &= 0x7fffffffu;
  for (int i = 0; i < 8; i++) a[i] = (a[i] & ~above) | (raised[i] & above);
}

static void swap(field a, field b, uint32_t when) {
  uint32_t mask = 0u - when;
  for (int i = 0; i < 8; i++) {
    uint32_t both = mask & (a[i] ^ b[i]);
    a[i] ^= both;
    b[i] ^= both;
  }
}

static void x25519(uint8_t out[32], const uint8_t secret[32], const uint8_t point[32]) {
  static const field a24 = {121665};
  field x1, x2 = {1}, z2 = {0}, x3, z3 = {1}, a, b, c, d, e;
  uint8_t scalar[32];
  memcpy(scalar, secret, 32);
  scalar[0] &= 248;
  scalar[31] = (uint8_t)((scalar[31] & 127) | 64);
  for (int i = 0; i < 8; i++) x1[i] = load32(point + 4 * i);
  x1[7] &= 0x7fffffffu;
  memcpy(x3, x1, sizeof x3);
  uint32_t swapped = 0;
  for (int t = 254; t >= 0; t--) {
    uint32_t bit = (uint32_t)(scalar[t >> 3] >> (t & 7)) & 1u;
    swap(x2, x3, swapped ^ bit);
    swap(z2, z3, swapped ^ bit);
    swapped = bit;
    add(a, x2, z2);
    subtract(b, x2, z2);
    add(c, x3, z3);
    subtract(d, x3, z3);
    multiply(d, d, a); /* DA */
    multiply(c, c, b); /* CB */
    multiply(a, a, a); /* AA */
    multiply(b, b, b); /* BB */
    add(x3, d, c);
    multiply(x3, x3, x3);
    subtract(z3, d, c);
    multiply(z3, z3, z3);
    multiply(z3, z3, x1);
    multiply(x2, a, b);
    subtract(e, a, b); /* E */
    multiply(b, e, a24);
    add(b, b, a);
    multiply(z2, e, b);
  }
  swap(x2, x3, swapped);
  swap(z2, z3, swapped);
  invert(z2, z2);
  multiply(x2, x2, z2);
  reduce(x2);
  for (int i = 0; i < 8; i++) save32(out + 4 * i, x2[i]);
  memset(scalar, 0, sizeof scalar);
}

void atl_crypto_public(uint8_t public_key[32], const uint8_t secret[32]) {
  static const uint8_t base[32] = {9};
  x25519(public_key, secret, base);
}

bool atl_crypto_agree(uint8_t shared[32], const uint8_t secret[32], const uint8_t peer[32]) {
  x25519(shared, secret, peer);
  uint8_t any = 0;
  for (int i = 0; i < 32; i++) any |= shared[i];
  return any != 0;
}

/* ---- XSalsa20 ------------------------------------------------------------------------------------------------------ */

static uint32_t rotate(uint32_t value, int by) { return value << by | value >> (32 - by); }

static void quarter(uint32_t *x, int a, int b, int c, int d) {
  x[b] ^= rotate(x[a] + x[d], 7);
  x[c] ^= rotate(x[b] + x[a], 9);
  x[d] ^= rotate(x[c] + x[b], 13);
  x[a] ^= rotate(x[d] + x[c], 18);
}

/* The state of a key and 16 bytes of input, and what 20 rounds make of it. */
static void rounds(uint32_t start[16], uint32_t x[16], const uint8_t key[32], const uint8_t input[16]) {
  static const uint8_t sigma[] = "expand 32-byte k";
  for (int i = 0; i < 4; i++) {
    start[5 * i] = load32(sigma + 4 * i);
    start[1 + i] = load32(key + 4 * i);
    start[6 + i] = load32(input + 4 * i);
    start[11 + i] = load32(key + 16 + 4 * i);
  }
  memcpy(x, start, 64);
  for (int round = 0; round < 10; round++) {
    for (int i = 0; i < 4; i++) quarter(x, 5 * i, (5 * i + 4) % 16, (5 * i + 8) % 16, (5 * i + 12) % 16);
    for (int i = 0; i < 4; i++) quarter(x, 5 * i, 4 * i + (i + 1) % 4, 4 * i + (i + 2) % 4, 4 * i + (i + 3) % 4);
  }
}

typedef struct {
  uint8_t key[32], input[16], block[64];
} stream;

static void stream_block(stream *s, uint32_t number) {
  uint32_t start[16], x[16];
  save32(s->input + 8, number);
  rounds(start, x, s->key, s->input);
  for (int i = 0; i < 16; i++) save32(s->block + 4 * i, x[i] + start[i]);
}

/* HSalsa20 of the nonce's first 16 bytes gives the key, its last 8 the Salsa20 nonce. */
static void stream_open(stream *s, const uint8_t nonce[24], const uint8_t key[32]) {
  uint32_t start[16], x[16];
  rounds(start, x, key, nonce);
  for (int i = 0; i < 4; i++) {
    save32(s->key + 4 * i, x[5 * i]);
    save32(s->key + 16 + 4 * i, x[6 + i]);
  }
  memcpy(s->input, nonce + 16, 8);
  memset(s->input + 8, 0, 8);
  stream_block(s, 0);
}

/* The first 32 bytes of the stream are the Poly1305 key; the text begins after them. */
static void stream_xor(stream *s, uint8_t *bytes, size_t count) {
  for (size_t i = 0; i < count; i++) {
    size_t at = i + 32;
    if (at % 64 == 0) stream_block(s, (uint32_t)(at / 64));
    bytes[i] ^= s->block[at % 64];
  }
}

/* ---- Poly1305: the accumulator is five 32-bit words, below 2^131 --------------------------------------------------- */

static void poly_block(uint32_t h[5], const uint32_t r[4], const uint8_t block[17]) {
  uint32_t product[9] = {0};
  uint64_t carry = 0;
  for (int i = 0; i < 4; i++) {
    carry += (uint64_t)h[i] + load32(block + 4 * i);
    h[i] = (uint32_t)carry;
    carry >>= 32;
  }
  h[4] += (uint32_t)carry + block[16];
  for (int i = 0; i < 5; i++) {
    carry = 0;
    for (int j = 0; j < 4; j++) {
      carry += (uint64_t)h[i] * r[j] + product[i + j];
      product[i + j] = (uint32_t)carry;
      carry >>= 32;
    }
    product[i + 4] = (uint32_t)carry;
  }
  /* 2^130 is 5: what is above it comes back as (above * 4) + above, and above * 4 stands there at a word's edge. */
  carry = 0;
  for (int i = 0; i < 5; i++) {
    uint32_t low = i < 4 ? product[i] : product[4] & 3u;
    uint32_t four = i == 0 ? product[4] & ~3u : i < 4 ? product[4 + i] : product[8];
    uint32_t next = i < 4 ? product[5 + i] : 0;
    uint32_t one = (i < 4 ? product[4 + i] : product[8]) >> 2 | next << 30;
    carry += (uint64_t)low + four + one;
    h[i] = (uint32_t)carry;
    carry >>= 32;
  }
}

static void poly1305(uint8_t tag[16], const uint8_t *bytes, size_t count, const uint8_t key[32]) {
  static const uint32_t clamp[4] = {0x0fffffff, 0x0ffffffc, 0x0ffffffc, 0x0ffffffc};
  uint32_t r[4], h[5] = {0};
  for (int i = 0; i < 4; i++) r[i] = load32(key + 4 * i) & clamp[i];
  while (count > 0) {
    uint8_t block[17] = {0};
    size_t part = count < 16 ? count : 16;
    memcpy(block, bytes, part);
    block[part] = 1;
    poly_block(h, r, block);
    bytes += part;
    count -= part;
  }
  /* Modulo 2^130 - 5: twice, fold what is above 2^130; then take the prime away if that is possible. */
  for (int round = 0; round < 2; round++) {
    uint64_t carry = (uint64_t)(h[4] >> 2) * 5;
    h[4] &= 3;
    for (int i = 0; i < 5; i++) {
      carry += h[i];
      h[i] = (uint32_t)carry;
      carry >>= 32;
    }
  }
  uint32_t raised[5];
  uint64_t carry = 5;
  for (int i = 0; i < 5; i++) {
    carry += h[i];
    raised[i] = (uint32_t)carry;
    carry >>= 32;
  }
  uint32_t above = 0u - (raised[4] >> 2 & 1u);
  carry = 0;
  for (int i = 0; i < 4; i++) {
    carry += (uint64_t)((h[i] & ~above) | (raised[i] & above)) + load32(key + 16 + 4 * i);
    save32(tag + 4 * i, (uint32_t)carry);
    carry >>= 32;
  }
}

/* ---- secretbox ----------------------------------------------------------------------------------------------------- */

void atl_crypto_seal(uint8_t *box, size_t count, const uint8_t nonce[24], const uint8_t key[32]) {
  stream s;
  uint8_t poly_key[32];
  stream_open(&s, nonce, key);
  memcpy(poly_key, s.block, 32);
  stream_xor(&s, box + 16, count);
  poly1305(box, box + 16, count, poly_key);
  memset(&s, 0, sizeof s);
}

bool atl_crypto_open(uint8_t *box, size_t count, const uint8_t nonce[24], const uint8_t key[32]) {
  stream s;
  uint8_t tag[16], difference = 0;
  stream_open(&s, nonce, key);
  poly1305(tag, box + 16, count, s.block);
  for (int i = 0; i < 16; i++) difference |= (uint8_t)(tag[i] ^ box[i]);
  if (difference == 0) stream_xor(&s, box + 16, count);
  memset(&s, 0, sizeof s);
  return difference == 0;
}

/* ---- SHA-512: constants are the first 64 bits of the fractions of cube and square roots of primes -------------------- */

static const uint64_t ROUND[80] = {
    UINT64_C(0x428a2f98d728ae22), UINT64_C(0x7137449123ef65cd), UINT64_C(0xb5c0fbcfec4d3b2f), UINT64_C(0xe9b5dba58189dbbc),
    UINT64_C(0x3956c25bf348b538), UINT64_C(0x59f111f1b605d019), UINT64_C(0x923f82a4af194f9b), UINT64_C(0xab1c5ed5da6d8118),
    UINT64_C(0xd807aa98a3030242), UINT64_C(0x12835b0145706fbe), UINT64_C(0x243185be4ee4b28c), UINT64_C(0x550c7dc3d5ffb4e2),
    UINT64_C(0x72be5d74f27b896f), UINT64_C(0x80deb1fe3b1696b1), UINT64_C(0x9bdc06a725c71235), UINT64_C(0xc19bf174cf692694),
    UINT64_C(0xe49b69c19ef14ad2), UINT64_C(0xefbe4786384f25e3), UINT64_C(0x0fc19dc68b8cd5b5), UINT64_C(0x240ca1cc77ac9c65),
    UINT64_C(0x2de92c6f592b0275), UINT64_C(0x4a7484aa6ea6e483), UINT64_C(0x5cb0a9dcbd41fbd4), UINT64_C(0x76f988da831153b5),
    UINT64_C(0x983e5152ee66dfab), UINT64_C(0xa831c66d2db43210), UINT64_C(0xb00327c898fb213f), UINT64_C(0xbf597fc7beef0ee4),
    UINT64_C(0xc6e00bf33da88fc2), UINT64_C(0xd5a79147930aa725), UINT64_C(0x06ca6351e003826f), UINT64_C(0x142929670a0e6e70),
    UINT64_C(0x27b70a8546d22ffc), UINT64_C(0x2e1b21385c26c926), UINT64_C(0x4d2c6dfc5ac42aed), UINT64_C(0x53380d139d95b3df),
    UINT64_C(0x650a73548baf63de), UINT64_C(0x766a0abb3c77b2a8), UINT64_C(0x81c2c92e47edaee6), UINT64_C(0x92722c851482353b),
    UINT64_C(0xa2bfe8a14cf10364), UINT64_C(0xa81a664bbc423001), UINT64_C(0xc24b8b70d0f89791), UINT64_C(0xc76c51a30654be30),
    UINT64_C(0xd192e819d6ef5218), UINT64_C(0xd69906245565a910), UINT64_C(0xf40e35855771202a), UINT64_C(0x106aa07032bbd1b8),
    UINT64_C(0x19a4c116b8d2d0c8), UINT64_C(0x1e376c085141ab53), UINT64_C(0x2748774cdf8eeb99), UINT64_C(0x34b0bcb5e19b48a8),
    UINT64_C(0x391c0cb3c5c95a63), UINT64_C(0x4ed8aa4ae3418acb), UINT64_C(0x5b9cca4f7763e373), UINT64_C(0x682e6ff3d6b2b8a3),
    UINT64_C(0x748f82ee5defb2fc), UINT64_C(0x78a5636f43172f60), UINT64_C(0x84c87814a1f0ab72), UINT64_C(0x8cc702081a6439ec),
    UINT64_C(0x90befffa23631e28), UINT64_C(0xa4506cebde82bde9), UINT64_C(0xbef9a3f7b2c67915), UINT64_C(0xc67178f2e372532b),
    UINT64_C(0xca273eceea26619c), UINT64_C(0xd186b8c721c0c207), UINT64_C(0xeada7dd6cde0eb1e), UINT64_C(0xf57d4f7fee6ed178),
    UINT64_C(0x06f067aa72176fba), UINT64_C(0x0a637dc5a2c898a6), UINT64_C(0x113f9804bef90dae), UINT64_C(0x1b710b35131c471b),
    UINT64_C(0x28db77f523047d84), UINT64_C(0x32caab7b40c72493), UINT64_C(0x3c9ebe0a15c9bebc), UINT64_C(0x431d67c49c100d4c),
    UINT64_C(0x4cc5d4becb3e42b6), UINT64_C(0x597f299cfc657e2a), UINT64_C(0x5fcb6fab3ad6faec), UINT64_C(0x6c44198c4a475817),
};
static const uint64_t START[8] = {
    UINT64_C(0x6a09e667f3bcc908), UINT64_C(0xbb67ae8584caa73b), UINT64_C(0x3c6ef372fe94f82b), UINT64_C(0xa54ff53a5f1d36f1),
    UINT64_C(0x510e527fade682d1), UINT64_C(0x9b05688c2b3e6c1f), UINT64_C(0x1f83d9abfb41bd6b), UINT64_C(0x5be0cd19137e2179),
};

static uint64_t rotate64(uint64_t value, int by) { return value >> by | value << (64 - by); }

static void sha512_block(uint64_t state[8], const uint8_t block[128]) {
  uint64_t w[16], v[8];
  for (int i = 0; i < 16; i++) {
    w[i] = 0;
    for (int j = 0; j < 8; j++) w[i] = w[i] << 8 | block[8 * i + j];
  }
  memcpy(v, state, sizeof v);
  for (int t = 0; t < 80; t++) {
    uint64_t *word = &w[t % 16];
    if (t >= 16) {
      uint64_t early = w[(t + 1) % 16], late = w[(t + 14) % 16];
      *word += (rotate64(early, 1) ^ rotate64(early, 8) ^ early >> 7) + w[(t + 9) % 16] +
               (rotate64(late, 19) ^ rotate64(late, 61) ^ late >> 6);
    }
    uint64_t sum1 = rotate64(v[4], 14) ^ rotate64(v[4], 18) ^ rotate64(v[4], 41);
    uint64_t choice = (v[4] & v[5]) ^ (~v[4] & v[6]);
    uint64_t first = v[7] + sum1 + choice + ROUND[t] + *word;
    uint64_t sum0 = rotate64(v[0], 28) ^ rotate64(v[0], 34) ^ rotate64(v[0], 39);
    uint64_t majority = (v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]);
    memmove(v + 1, v, 7 * sizeof *v);
    v[4] += first;
    v[0] = first + sum0 + majority;
  }
  for (int i = 0; i < 8; i++) state[i] += v[i];
}

void atl_crypto_sha512(uint8_t digest[64], const uint8_t *bytes, size_t count) {
  uint64_t state[8];
  uint8_t block[128];
  size_t left = count;
  memcpy(state, START, sizeof state);
  for (; left >= 128; left -= 128, bytes += 128) sha512_block(state, bytes);
  memset(block, 0, sizeof block);
  memcpy(block, bytes, left);
  block[left] = 0x80;
  if (left >= 112) {
    sha512_block(state, block);
    memset(block, 0, sizeof block);
  }
  for (int i = 0; i < 8; i++) block[120 + i] = (uint8_t)((uint64_t)count * 8 >> (56 - 8 * i));
  sha512_block(state, block);
  for (int i = 0; i < 64; i++) digest[i] = (uint8_t)(state[i / 8] >> (56 - 8 * (i % 8)));
}
