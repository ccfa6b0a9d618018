/* The link's cryptography by libsodium. */
#include <sodium.h>

#include "../src/atedge_link.h"

void atl_crypto_public(uint8_t public_key[32], const uint8_t secret[32]) { crypto_scalarmult_base(public_key, secret); }

bool atl_crypto_agree(uint8_t shared[32], const uint8_t secret[32], const uint8_t peer[32]) {
  return crypto_scalarmult(shared, secret, peer) == 0;
}

void atl_crypto_seal(uint8_t *box, size_t count, const uint8_t nonce[24], const uint8_t key[32]) {
  crypto_secretbox_detached(box + 16, box, box + 16, count, nonce, key);
}

bool atl_crypto_open(uint8_t *box, size_t count, const uint8_t nonce[24], const uint8_t key[32]) {
  return crypto_secretbox_open_detached(box + 16, box + 16, box, count, nonce, key) == 0;
}

void atl_crypto_sha512(uint8_t digest[64], const uint8_t *bytes, size_t count) { crypto_hash_sha512(digest, bytes, count); }
