/* Compares crypto/small.c with libsodium: `crypto-compare ROUNDS`. Prints the rounds, or where they differ. */
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../src/atedge_link.h"

static int differs(const char *what, size_t count) {
  fprintf(stderr, "%s differs at %zu bytes\n", what, count);
  return 1;
}

/* Random bytes, or one of the edges where carries happen. */
static void some_bytes(uint8_t *bytes, size_t count) {
  uint32_t kind = randombytes_uniform(8);
  randombytes_buf(bytes, count);
  if (kind == 0) memset(bytes, 0xff, count);
  if (kind == 1) memset(bytes, 0, count);
  if (kind == 2) memset(bytes, 0xff, count / 2);
  if (kind == 3 && count > 0) memset(bytes + 1, 0xff, count - 1);
}

int main(int argc, char **argv) {
  long rounds = argc > 1 ? atol(argv[1]) : 100;
  static uint8_t box[16 + 600], expected[16 + 600], text[600];
  if (sodium_init() < 0) return 1;
  for (long round = 0; round < rounds; round++) {
    uint8_t a[32], b[32], mine[64], theirs[64], nonce[24];
    size_t count = randombytes_uniform(600);
    some_bytes(a, 32);
    some_bytes(b, 32);
    some_bytes(nonce, 24);
    some_bytes(text, count);
    atl_crypto_sha512(mine, text, count);
    crypto_hash_sha512(theirs, text, count);
    if (memcmp(mine, theirs, 64) != 0) return differs("SHA-512", count);
    memcpy(box + 16, text, count);
    atl_crypto_seal(box, count, nonce, a);
    crypto_secretbox_easy(expected, text, count, nonce, a);
    if (memcmp(box, expected, count + 16) != 0) return differs("secretbox", count);
    size_t changed = randombytes_uniform((uint32_t)count + 16);
    box[changed] ^= 1;
    if (atl_crypto_open(box, count, nonce, a)) return differs("a forged box", changed);
    box[changed] ^= 1;
    if (!atl_crypto_open(box, count, nonce, a) || memcmp(box + 16, text, count) != 0) return differs("opening", count);
    if (round % 8 != 0) continue;
    atl_crypto_public(mine, a);
    crypto_scalarmult_base(theirs, a);
    if (memcmp(mine, theirs, 32) != 0) return differs("the public key", 32);
    bool strong = atl_crypto_agree(mine, a, b);
    if (strong != (crypto_scalarmult(theirs, a, b) == 0)) return differs("weakness of a key", 32);
    if (strong && memcmp(mine, theirs, 32) != 0) return differs("X25519", 32);
  }
  printf("%ld rounds are equal\n", rounds);
  return 0;
}
