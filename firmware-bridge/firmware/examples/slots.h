/* Two firmware slots and the boot loader's memory of them. Codes are those of link.md, section 4. */
#ifndef SLOTS_H
#define SLOTS_H

#include <stdbool.h>
#include <stdint.h>

enum { SLOT_OK, SLOT_NOT_SUPPORTED, SLOT_BAD_STATE, SLOT_FLASH_ERROR, SLOT_HASH_DIFFERS, SLOT_TOO_LARGE, SLOT_BAD_REQUEST };
enum { SLOT_ACTIVE = 1, SLOT_CONFIRMED = 2, SLOT_PENDING = 4 };

typedef struct {
  bool used;
  char version[32];
  uint8_t sha256[32];
  uint32_t size;
  uint8_t flags;
} slot_info;

uint8_t slots_state(slot_info out[2]);
/* Begins, or goes on with, an upload into the inactive slot. */
uint8_t slots_begin(const uint8_t sha256[32], uint32_t size, uint32_t *offset);
uint8_t slots_data(uint32_t offset, const uint8_t *bytes, uint32_t count, uint32_t *next);
uint8_t slots_finish(void);
uint8_t slots_test(const uint8_t sha256[32]);
uint8_t slots_confirm(const uint8_t sha256[32]);
uint8_t slots_erase(void);

#endif
