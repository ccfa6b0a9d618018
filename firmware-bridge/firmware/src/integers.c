#include "internal.h"

uint16_t get16(const uint8_t *bytes) { return (uint16_t)(bytes[0] | bytes[1] << 8); }

uint32_t get32(const uint8_t *bytes) { return get16(bytes) | (uint32_t)get16(bytes + 2) << 16; }

void put16(uint8_t *bytes, uint16_t value) {
  bytes[0] = (uint8_t)value;
  bytes[1] = (uint8_t)(value >> 8);
}

void put32(uint8_t *bytes, uint32_t value) {
  put16(bytes, (uint16_t)value);
  put16(bytes + 2, (uint16_t)(value >> 16));
}

uint32_t crc32_of(const uint8_t *bytes, size_t count) {
  uint32_t crc = 0xffffffffu;
  while (count-- > 0) {
    crc ^= *bytes++;
    for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (0xedb88320u & (0u - (crc & 1u)));
  }
  return ~crc;
}

void hash_parts(uint8_t digest[64], const char *label, const part *parts, size_t count) {
  uint8_t input[168];
  size_t used = 16;
  memset(input, 0, 16);
  memcpy(input, label, strlen(label));
  for (size_t i = 0; i < count; i++) {
    memcpy(input + used, parts[i].bytes, parts[i].count);
    used += parts[i].count;
  }
  atl_crypto_sha512(digest, input, used);
  memset(input, 0, sizeof input);
}

void hash32(uint8_t out[32], const char *label, const part *parts, size_t count) {
  uint8_t digest[64];
  hash_parts(digest, label, parts, count);
  memcpy(out, digest, 32);
}

bool same_bytes(const uint8_t *a, const uint8_t *b, size_t count) {
  uint8_t difference = 0;
  while (count-- > 0) difference |= (uint8_t)(*a++ ^ *b++);
  return difference == 0;
}

uint32_t now_ms(atl_link *link) { return link->config.port.time_ms(link->config.context); }

bool passed(uint32_t now, uint32_t since, uint32_t ms) { return (uint32_t)(now - since) >= ms; }
