/*
 * The whole board, its example program included, fed with what a fuzzer makes up. The input is a list of steps, each a
 * byte that says what, a length and that many bytes: raw bytes on the line, a frame with a right CRC, a sealed frame
 * with the next counter, time that passes, what a person or the program does.
 */
#include <stdlib.h>
#include <string.h>

#include "../examples/board_app.h"
#include "../examples/slots.h"
#include "../src/internal.h"

enum { RAW, FRAME, SEALED, TIME, PERSON, STEPS };

static board_app app;
static uint8_t line[4096];
static size_t line_at, line_end;
static uint32_t now, counter;

static size_t port_read(void *context, uint8_t *bytes, size_t max) {
  (void)context;
  size_t count = line_end - line_at < max ? line_end - line_at : max;
  memcpy(bytes, line + line_at, count);
  line_at += count;
  return count;
}

/* Takes a part only, sometimes nothing, as a UART does. */
static size_t port_write(void *context, const uint8_t *bytes, size_t count) {
  (void)context, (void)bytes;
  static uint32_t calls;
  size_t room = calls++ % 7 * 40;
  return count < room ? count : room;
}

static uint32_t port_time(void *context) {
  (void)context;
  return now;
}

static void port_random(void *context, uint8_t *bytes, size_t count) {
  (void)context;
  for (size_t i = 0; i < count; i++) bytes[i] = (uint8_t)(i + 1);
}

/* A board that is paired already, with a root, so that RESUME reaches a session. */
static bool is_paired;

static bool port_store(void *context, uint8_t *record, bool save) {
  (void)context;
  if (save || !is_paired) return save;
  memset(record, 0, ATL_STORE_BYTES);
  record[REC_VERSION] = record[REC_PAIRED] = record[REC_HAS_ROOT] = 1;
  put32(record + REC_CRC, crc32_of(record, REC_CRC));
  return true;
}

uint8_t slots_state(slot_info out[2]) {
  memset(out, 0, 2 * sizeof *out);
  out[0].used = true;
  memset(out[0].version, 'v', sizeof out[0].version - 1);
  return SLOT_OK;
}
uint8_t slots_begin(const uint8_t sha256[32], uint32_t size, uint32_t *offset) {
  *offset = sha256[31] + size;
  return SLOT_OK;
}
uint8_t slots_data(uint32_t offset, const uint8_t *bytes, uint32_t count, uint32_t *next) {
  *next = offset + count + (count > 0 ? bytes[count - 1] : 0);
  return SLOT_OK;
}
uint8_t slots_finish(void) { return SLOT_OK; }
uint8_t slots_test(const uint8_t sha256[32]) { return sha256[31]; }
uint8_t slots_confirm(const uint8_t sha256[32]) { return sha256[31]; }
uint8_t slots_erase(void) { return SLOT_OK; }

static void poll_all(void) {
  for (int turn = 0; turn < 4; turn++) app_turn(&app);
  line_at = line_end = 0;
  if (app.link.queue_end > APP_QUEUE_BYTES || app.link.message_at > APP_MESSAGE_BYTES || app.link.rx_at > APP_FRAME_MAX) abort();
}

static void put(const uint8_t *bytes, size_t count) {
  if (count > sizeof line - line_end) return;
  memcpy(line + line_end, bytes, count);
  line_end += count;
}

/* COBS without ends of runs at 254: the frames made here are shorter. */
static void put_frame(const uint8_t *frame, size_t count) {
  size_t start = 0;
  for (size_t i = 0; i <= count; i++) {
    if (i < count && frame[i] != 0) continue;
    uint8_t code = (uint8_t)(i - start + 1);
    put(&code, 1);
    put(frame + start, i - start);
    start = i + 1;
  }
  put((const uint8_t[]){0}, 1);
}

static void step(uint8_t what, const uint8_t *bytes, size_t count) {
  uint8_t frame[280];
  if (what == RAW) put(bytes, count);
  if (what == FRAME && count > 0) {
    memcpy(frame, bytes, count);
    put32(frame + count, crc32_of(frame, count));
    put_frame(frame, count + CRC_BYTES);
  }
  if (what == SEALED) {
    memset(frame, 0, SEALED_AT + TAG);
    frame[0] = FRAME_SEALED;
    put32(frame + 1, ++counter);
    memcpy(frame + SEALED_AT + TAG, bytes, count);
    put_frame(frame, SEALED_AT + TAG + count);
  }
  if (what == TIME && count > 0) now += bytes[0] * 20u;
  if (what == PERSON && count > 0) {
    if (bytes[0] % 5 == 0) atl_open_pairing(&app.link, true);
    if (bytes[0] % 5 == 1) atl_confirm_pairing(&app.link, true);
    if (bytes[0] % 5 == 2) atl_confirm_pairing(&app.link, false);
    if (bytes[0] % 5 == 3) atl_forget(&app.link);
    if (bytes[0] % 5 == 4) app.burst_left = bytes[0];
  }
  poll_all();
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size) {
  static const atl_port port = {port_read, port_write, port_time, port_random, port_store};
  static uint8_t key[32];
  if (size < 1) return 0;
  app_options options = {.version = "1",
                         .hardware = "fuzz",
                         .frame_bytes = input[0] & 1 ? 94 : 508,
                         .window = (uint8_t)(1 + (input[0] >> 1) % 4),
                         .allow_clear = (input[0] & 16) != 0,
                         .provisioning_key = input[0] & 32 ? key : NULL,
                         .reading_every_ms = 500,
                         .retransmit_ms = 60,
                         .self_test_passes = true};
  is_paired = (input[0] & 8) != 0;
  now = 0;
  counter = 0;
  line_at = line_end = 0;
  if (!app_init(&app, &port, &options)) abort();
  for (size_t at = 1; at + 2 <= size;) {
    size_t count = input[at + 1];
    if (count > size - at - 2) count = size - at - 2;
    step(input[at] % STEPS, input + at + 2, count > 250 ? 250 : count);
    at += 2 + count;
  }
  return 0;
}
