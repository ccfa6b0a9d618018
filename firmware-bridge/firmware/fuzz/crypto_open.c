/* Cryptography that lets everything through, so that a fuzzer reaches what lies behind it. Never for a board. */
#include <string.h>

#include "../src/atedge_link.h"

void atl_crypto_public(uint8_t public_key[32], const uint8_t secret[32]) { memcpy(public_key, secret, 32); }

bool atl_crypto_agree(uint8_t shared[32], const uint8_t secret[32], const uint8_t peer[32]) {
  for (int i = 0; i < 32; i++) shared[i] = secret[i] ^ peer[i];
  return peer[0] != 0xff;
}

void atl_crypto_seal(uint8_t *box, size_t count, const uint8_t nonce[24], const uint8_t key[32]) {
  (void)count, (void)nonce, (void)key;
  memset(box, 0, 16);
}

bool atl_crypto_open(uint8_t *box, size_t count, const uint8_t nonce[24], const uint8_t key[32]) {
  (void)count, (void)nonce, (void)key;
  return box[0] != 0xff;
}

void atl_crypto_sha512(uint8_t digest[64], const uint8_t *bytes, size_t count) {
  memset(digest, 0, 64);
  for (size_t i = 0; i < count; i++) digest[i % 64] = (uint8_t)(digest[i % 64] * 31 + bytes[i]);
}
