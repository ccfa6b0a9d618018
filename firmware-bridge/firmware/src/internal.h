/* Shared by the files of the library; nothing here is for callers. */
#ifndef ATL_INTERNAL_H
#define ATL_INTERNAL_H

#include <string.h>

#include "atedge_link.h"

enum {
  FRAME_KNOCK = 0x10,
  FRAME_REFUSE = 0x11,
  FRAME_RESUME = 0x20,
  FRAME_RENEW = 0x21,
  FRAME_OPEN_CLEAR = 0x22,
  FRAME_RESUMED = 0x30,
  FRAME_RENEWED = 0x31,
  FRAME_OPENED_CLEAR = 0x32,
  FRAME_PAIR_1 = 0x40,
  FRAME_PAIR_2 = 0x41,
  FRAME_PAIR_3 = 0x42,
  FRAME_PAIR_4 = 0x43,
  FRAME_SEALED = 0x50,
  FRAME_CLEAR = 0x51
};

enum { REFUSE_NOT_PAIRED = 1, REFUSE_ROOT, REFUSE_VERSION, REFUSE_CLEAR, REFUSE_CLOSED, REFUSE_FAILED, REFUSE_UNCONFIRMED };
enum { KNOCK_NO_SESSION = 16, KNOCK_COUNTER = 17 };
enum { PAIR_CLOSED, PAIR_OPEN, PAIR_COMMITTED, PAIR_REVEALED, PAIR_DONE };

enum { LINK_VERSION = 1, CRC_BYTES = 4, HOST_HELLO_BYTES = 10, BOARD_HELLO_BYTES = 8, FRAME_OVERHEAD = 24, SEALED_AT = 5, TAG = 16 };

/* The record that the port stores. */
enum {
  REC_VERSION = 0,
  REC_PAIRED = 1,
  REC_HAS_ROOT = 2,
  REC_SECRET = 4,
  REC_HOST_KEY = 36,
  REC_STATIC = 68,
  REC_ROOT = 100,
  REC_ROOT_ID = 132,
  REC_INDEX = 136,
  REC_PUBLIC = 140,
  REC_CRC = 172
};

typedef struct {
  const uint8_t *bytes;
  size_t count;
} part;

/* integers.c: little-endian, CRC-32, hashes over parts */
uint16_t get16(const uint8_t *bytes);
uint32_t get32(const uint8_t *bytes);
void put16(uint8_t *bytes, uint16_t value);
void put32(uint8_t *bytes, uint32_t value);
uint32_t crc32_of(const uint8_t *bytes, size_t count);
/* SHA-512 over the label padded to 16 bytes and the parts, at most 168 bytes in all. */
void hash_parts(uint8_t digest[64], const char *label, const part *parts, size_t count);
void hash32(uint8_t out[32], const char *label, const part *parts, size_t count);
bool same_bytes(const uint8_t *a, const uint8_t *b, size_t count);
uint32_t now_ms(atl_link *link);
/* True when `ms` have passed since `since`, modulo 2^32. */
bool passed(uint32_t now, uint32_t since, uint32_t ms);

/* session.c */
void session_init(atl_link *link);
void session_frame(atl_link *link, const uint8_t *frame, size_t count);
void session_sealed(atl_link *link, uint8_t *frame, size_t count);
void session_clear(atl_link *link, const uint8_t *packet, size_t count);
void session_clock(atl_link *link);
/* Room for a packet in the frame being built, and its end: false when nothing more may be sealed. */
bool session_wrap(atl_link *link, uint8_t *frame, size_t packet_bytes, size_t *frame_bytes);
size_t session_packet_at(const atl_link *link);
void save_record(atl_link *link);
void refuse(atl_link *link, uint8_t reason);
void knock(atl_link *link, uint8_t reason);
void new_identity(atl_link *link);

/* pairing.c */
void pairing_frame(atl_link *link, const uint8_t *frame, size_t count);

/* delivery.c */
void delivery_reset(atl_link *link);
void delivery_resume(atl_link *link);
void delivery_damaged(atl_link *link);
void delivery_packet(atl_link *link, const uint8_t *packet, size_t count);
/* Builds the next packet; 0 when there is nothing to send. */
size_t delivery_next(atl_link *link, uint8_t *packet);

/* messages.c */
void message_received(atl_link *link, const uint8_t *message, size_t count);

#endif
