#ifndef SLOTS_FILES_H
#define SLOTS_FILES_H

#include <stdbool.h>
#include <stddef.h>

#include "slots.h"

typedef struct {
  int slot;
  char behaviour;
  char version[32];
  bool trial;
} firmware;

void slots_open(const char *folder);
/* The boot loader: takes a pending slot on trial, goes back from a trial that was not confirmed, skips a bad image. */
firmware slots_boot(void);
bool slots_on_trial(void);

/* Whole files, replaced so that a crash leaves the old content or the new. */
bool file_replace(const char *folder, const char *name, const void *bytes, size_t count);
size_t file_load(const char *folder, const char *name, void *bytes, size_t max);

#endif
