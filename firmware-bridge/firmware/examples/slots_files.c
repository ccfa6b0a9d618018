/* The two slots as files `slot0.bin` and `slot1.bin`, the boot loader's memory as `slots.bin`. */
#define _XOPEN_SOURCE 700
#include "slots_files.h"

#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { IMAGE_MAX = 1 << 20, NONE = 0xff };

/* What survives a reset. */
typedef struct {
  uint8_t active, previous, pending, confirmed;
  uint8_t upload_sha256[32];
  uint32_t upload_size;
  /* Of images that came by an update; a boot loader boots no other in their place. */
  uint8_t known[2], sha256[2][32];
} memory;

static const char *base = ".";
static memory flash;

static void path_of(char path[512], const char *folder, const char *name) { snprintf(path, 512, "%s/%s", folder, name); }

static void slot_path(char path[512], int slot) { path_of(path, base, slot == 0 ? "slot0.bin" : "slot1.bin"); }

bool file_replace(const char *folder, const char *name, const void *bytes, size_t count) {
  char path[512], temporary[520];
  path_of(path, folder, name);
  snprintf(temporary, sizeof temporary, "%s.new", path);
  int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC, 0600);
  if (fd < 0) return false;
  bool written = write(fd, bytes, count) == (ssize_t)count && fsync(fd) == 0;
  close(fd);
  return written && rename(temporary, path) == 0;
}

size_t file_load(const char *folder, const char *name, void *bytes, size_t max) {
  char path[512];
  path_of(path, folder, name);
  int fd = open(path, O_RDONLY);
  if (fd < 0) return 0;
  ssize_t count = read(fd, bytes, max);
  close(fd);
  return count > 0 ? (size_t)count : 0;
}

static bool remember(void) { return file_replace(base, "slots.bin", &flash, sizeof flash); }

static bool hash_of(int slot, uint8_t sha256[32], uint32_t *size) {
  char path[512];
  uint8_t block[4096];
  crypto_hash_sha256_state state;
  slot_path(path, slot);
  FILE *file = fopen(path, "rb");
  if (!file) return false;
  crypto_hash_sha256_init(&state);
  *size = 0;
  for (size_t count; (count = fread(block, 1, sizeof block, file)) > 0; *size += (uint32_t)count) {
    crypto_hash_sha256_update(&state, block, count);
  }
  fclose(file);
  crypto_hash_sha256_final(&state, sha256);
  return true;
}

static bool image_of(int slot, firmware *out) {
  char path[512], head[40] = {0};
  slot_path(path, slot);
  FILE *file = fopen(path, "rb");
  if (!file) return false;
  size_t count = fread(head, 1, sizeof head - 1, file);
  fclose(file);
  char *end = memchr(head, '\n', count);
  if (count < 6 || memcmp(head, "ATFW", 4) != 0 || !end || end - head > 36) return false;
  *end = 0;
  out->slot = slot;
  out->behaviour = head[4];
  snprintf(out->version, sizeof out->version, "%.31s", head + 5);
  return true;
}

static bool slot_is(int slot, const uint8_t sha256[32]) {
  uint8_t found[32];
  uint32_t size;
  return hash_of(slot, found, &size) && memcmp(found, sha256, 32) == 0;
}

/* The slot holds what the update put there; what a factory wrote is taken as it is. */
static bool is_sound(int slot, firmware *image) {
  return image_of(slot, image) && (!flash.known[slot] || slot_is(slot, flash.sha256[slot]));
}

void slots_open(const char *folder) {
  base = folder;
  if (file_load(base, "slots.bin", &flash, sizeof flash) != sizeof flash) {
    memset(&flash, 0, sizeof flash);
    flash.pending = NONE;
    flash.confirmed = 1;
  }
}

firmware slots_boot(void) {
  firmware image = {0};
  if (flash.pending != NONE && is_sound(flash.pending, &image)) {
    flash.previous = flash.active;
    flash.active = flash.pending;
    flash.confirmed = 0;
  } else if (!flash.confirmed) {
    flash.active = flash.previous;
    flash.confirmed = 1;
  }
  flash.pending = NONE;
  if (!is_sound(flash.active, &image)) {
    flash.confirmed = 1;
    if (is_sound(1 - flash.active, &image)) {
      flash.active = (uint8_t)(1 - flash.active);
    } else {
      image = (firmware){flash.active, 'G', "none", false}; /* a factory board: the loader's own small program */
    }
  }
  remember();
  image.trial = !flash.confirmed;
  return image;
}

bool slots_on_trial(void) { return !flash.confirmed; }

uint8_t slots_state(slot_info out[2]) {
  for (uint8_t i = 0; i < 2; i++) {
    firmware image = {0};
    memset(&out[i], 0, sizeof out[i]);
    if (!image_of(i, &image) || !hash_of(i, out[i].sha256, &out[i].size)) continue;
    out[i].used = true;
    memcpy(out[i].version, image.version, sizeof out[i].version);
    if (i == flash.active) out[i].flags = (uint8_t)(SLOT_ACTIVE | (flash.confirmed ? SLOT_CONFIRMED : 0));
    if (i == flash.pending) out[i].flags |= SLOT_PENDING;
  }
  return SLOT_OK;
}

static int inactive(void) { return 1 - flash.active; }

uint8_t slots_begin(const uint8_t sha256[32], uint32_t size, uint32_t *offset) {
  char path[512];
  struct stat status;
  slot_path(path, inactive());
  *offset = 0;
  if (!flash.confirmed || flash.pending != NONE) return SLOT_BAD_STATE;
  if (size == 0 || size > IMAGE_MAX) return SLOT_TOO_LARGE;
  bool same = size == flash.upload_size && memcmp(sha256, flash.upload_sha256, 32) == 0;
  if (same && stat(path, &status) == 0 && status.st_size <= (off_t)size) {
    *offset = (uint32_t)status.st_size;
    return SLOT_OK;
  }
  int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
  if (fd < 0) return SLOT_FLASH_ERROR;
  close(fd);
  memcpy(flash.upload_sha256, sha256, 32);
  flash.upload_size = size;
  flash.known[inactive()] = 0;
  return remember() ? SLOT_OK : SLOT_FLASH_ERROR;
}

uint8_t slots_data(uint32_t offset, const uint8_t *bytes, uint32_t count, uint32_t *next) {
  char path[512];
  struct stat status;
  slot_path(path, inactive());
  *next = 0;
  if (flash.upload_size == 0 || flash.pending != NONE || stat(path, &status) != 0) return SLOT_BAD_STATE;
  *next = (uint32_t)status.st_size;
  if (offset != *next) return SLOT_OK; /* the answer tells where to go on */
  if (count > flash.upload_size - offset) return SLOT_TOO_LARGE;
  int fd = open(path, O_WRONLY | O_APPEND);
  if (fd < 0) return SLOT_FLASH_ERROR;
  bool written = write(fd, bytes, count) == (ssize_t)count;
  close(fd);
  if (!written) return SLOT_FLASH_ERROR;
  *next = offset + count;
  return SLOT_OK;
}

uint8_t slots_finish(void) {
  uint8_t sha256[32];
  uint32_t size;
  if (flash.upload_size == 0 || !hash_of(inactive(), sha256, &size)) return SLOT_BAD_STATE;
  if (size == flash.upload_size && memcmp(sha256, flash.upload_sha256, 32) == 0) return SLOT_OK;
  if (size == flash.upload_size) slots_erase(); /* whole, and wrong: nothing to go on with */
  return SLOT_HASH_DIFFERS;
}

uint8_t slots_test(const uint8_t sha256[32]) {
  if (slot_is(flash.active, sha256)) return SLOT_OK; /* asked again after the restart */
  if (!flash.confirmed) return SLOT_BAD_STATE;
  if (!slot_is(inactive(), sha256)) return SLOT_HASH_DIFFERS;
  flash.pending = (uint8_t)inactive();
  flash.known[flash.pending] = 1;
  memcpy(flash.sha256[flash.pending], sha256, 32);
  return remember() ? SLOT_OK : SLOT_FLASH_ERROR;
}

uint8_t slots_confirm(const uint8_t sha256[32]) {
  if (!slot_is(flash.active, sha256)) return SLOT_BAD_STATE;
  flash.confirmed = 1;
  return remember() ? SLOT_OK : SLOT_FLASH_ERROR;
}

uint8_t slots_erase(void) {
  char path[512];
  slot_path(path, inactive());
  if (!flash.confirmed) return SLOT_BAD_STATE;
  unlink(path);
  flash.pending = NONE;
  flash.upload_size = 0;
  flash.known[inactive()] = 0;
  return remember() ? SLOT_OK : SLOT_FLASH_ERROR;
}
