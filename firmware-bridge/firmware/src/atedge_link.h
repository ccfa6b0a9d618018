/*
 * atedge link, the microcontroller's side. C99, no malloc, no floating point; the caller gives all buffers.
 * The wire is described byte by byte in docs/reference/link.md.
 *
 * Use: fill an atl_config, call atl_init once, then atl_poll as often as possible (each UART interrupt's worth of bytes
 * at least every few milliseconds). Everything else happens in callbacks, which run inside atl_poll.
 */
#ifndef ATEDGE_LINK_H
#define ATEDGE_LINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- what the caller provides ---------------------------------------------------------------------------------- */

#define ATL_STORE_BYTES 176

/* None of these may block for long. `context` is handed back as given. */
typedef struct {
  /* Bytes received since the last call, at most `max`; 0 when there are none. */
  size_t (*read)(void *context, uint8_t *bytes, size_t max);
  /* Takes at most `count` bytes for sending; returns how many. */
  size_t (*write)(void *context, const uint8_t *bytes, size_t count);
  /* Milliseconds since start, modulo 2^32. */
  uint32_t (*time_ms)(void *context);
  /* Bytes from a real random source: the keys hang on it. */
  void (*random)(void *context, uint8_t *bytes, size_t count);
  /*
   * Saves (or loads) the ATL_STORE_BYTES of secrets, so that a power cut leaves the old bytes or the new ones. Returns
   * false on failure, and for a load when nothing was saved. Saved at pairing and once a session.
   */
  bool (*store)(void *context, uint8_t *record, bool save);
} atl_port;

/* Why the board started; the KNOCK reasons of link.md. */
enum { ATL_POWER_ON, ATL_RESET_PIN, ATL_WATCHDOG, ATL_SOFTWARE, ATL_BROWN_OUT, ATL_FAULT, ATL_OTHER };

enum { ATL_DONE, ATL_REFUSED, ATL_UNKNOWN_OUTCOME };

typedef enum {
  ATL_CLOSED,  /* the host is gone; the board knocks by itself. What is queued waits */
  ATL_OPEN,    /* a new delivery: the queue is empty, send the info message first */
  ATL_RESUMED, /* new keys, same host: nothing was lost */
  ATL_DIGITS,  /* pairing: show atl_digits(), then call atl_confirm_pairing */
  ATL_PAIRED,
  ATL_PAIRING_FAILED
} atl_event;

struct atl_cursor;

typedef struct {
  atl_port port;
  void *context;
  /* Longest frame before COBS, 80 to 2048: reception and transmission need that much each. */
  uint16_t frame_bytes;
  /* Packets with data that fit between two polls: (frame_bytes + frame_bytes / 254 + 2) * window + 64 bytes. */
  uint8_t window;
  uint8_t reset_reason;
  /* Only for boards without cryptography; a paired board never talks in clear. */
  bool allow_clear;
  /* 32 bytes, or NULL: pairing by six digits. */
  const uint8_t *provisioning_key;
  uint32_t retransmit_ms;

  uint8_t *rx_frame;  /* frame_bytes */
  uint8_t *tx_frame;  /* frame_bytes + frame_bytes / 254 + 3 */
  uint8_t *message;   /* message_bytes: the longest message from the host */
  uint16_t message_bytes;
  uint8_t *queue;     /* queue_bytes: messages to the host until they are acknowledged, 2 bytes more each */
  uint16_t queue_bytes;

  void (*on_event)(void *context, atl_event event);
  /* One whole message from the host: kind and the elements after it. */
  void (*on_message)(void *context, uint8_t kind, struct atl_cursor *elements);
} atl_config;

/* ---- the link --------------------------------------------------------------------------------------------------- */

typedef struct {
  uint32_t frames_in, bad_frames, refused_frames, sent, resent, received, repeated, naks;
} atl_counters;

typedef struct {
  uint8_t seal[32], open[32];
  uint32_t sent, received;
} atl_keys;

/* A handshake that the host has not yet proved with a sealed frame, and what the session will be. */
typedef struct {
  atl_keys keys;
  uint8_t root[32], root_id[4], host_nonce[16];
  uint32_t index, host_boot;
  uint16_t host_frame, keep_alive_ms;
  uint8_t host_window;
  bool waiting, clear;
} atl_handshake;

/* Read nothing in it directly; it is here so that the caller can place it. */
typedef struct {
  atl_config config;
  atl_counters counters;
  uint8_t record[ATL_STORE_BYTES];
  uint32_t boot;
  /* Reception: COBS is undone byte by byte into rx_frame. */
  uint16_t rx_at;
  uint8_t rx_left, rx_code;
  bool rx_bad;
  /* Transmission: what of tx_frame is still to be written. */
  uint16_t tx_at, tx_end;
  uint32_t tx_ms;
  /* Session. */
  atl_keys keys;
  atl_handshake next;
  uint32_t host_boot;
  uint16_t piece_bytes, keep_alive_ms;
  uint8_t host_window;
  bool is_open, is_clear, had_session;
  uint32_t heard_ms, knock_ms;
  uint8_t knock_reason;
  bool knock_due;
  /* A handshake frame that waits for the line, without CRC; kept to answer a repeat. */
  uint8_t reply[73];
  uint8_t reply_bytes;
  bool reply_due;
  /* Pairing. */
  uint8_t pair_state;
  uint8_t pair_host_key[32], pair_host_nonce[16], pair_nonce[16];
  /* Delivery. */
  uint8_t base, under_way, ever_sent, credit, expected, tries;
  bool timer_on, ack_due, nak_due, nak_sent, assembling;
  uint16_t queue_end, queue_done, message_at;
  uint32_t resend_ms, wait_ms;
} atl_link;

/* False when the configuration is out of its bounds. */
bool atl_init(atl_link *link, const atl_config *config);

/* Receives, answers, sends, watches the clock. Never blocks. */
void atl_poll(atl_link *link);

bool atl_is_open(const atl_link *link);
bool atl_is_paired(const atl_link *link);

/* Lets one host pair, until it succeeded, failed or this is called with false. */
void atl_open_pairing(atl_link *link, bool open);
/* The six digits as a number, to be shown with leading zeros. */
uint32_t atl_digits(const atl_link *link);
/* A person says whether the digits are equal on both sides. */
void atl_confirm_pairing(atl_link *link, bool equal);
/* Forgets the host and makes a new key. */
void atl_forget(atl_link *link);

/* ---- messages --------------------------------------------------------------------------------------------------- */

/* Writes CBOR straight into the queue. Check atl_end: false means that nothing was queued. */
typedef struct {
  uint8_t *at, *end;
  atl_link *link;
  bool failed;
} atl_writer;

/* Begins a message of `elements` elements beside its kind. */
atl_writer atl_begin(atl_link *link, uint8_t kind, uint8_t elements);
bool atl_end(atl_writer *writer);

void atl_put_uint(atl_writer *writer, uint32_t value);
void atl_put_int(atl_writer *writer, int32_t value);
/* mantissa * 10^exponent, exactly: 21.5 is (215, -1). */
void atl_put_decimal(atl_writer *writer, int32_t mantissa, int8_t exponent);
void atl_put_bool(atl_writer *writer, bool value);
void atl_put_null(atl_writer *writer);
void atl_put_text(atl_writer *writer, const char *text);
void atl_put_bytes(atl_writer *writer, const uint8_t *bytes, size_t count);
void atl_put_array(atl_writer *writer, uint16_t count);
void atl_put_map(atl_writer *writer, uint16_t count);

/* One item of a readings message: [name, value, at, unit, class]; call it, put the value, then atl_reading_end. */
void atl_reading_begin(atl_writer *writer, const char *name);
void atl_reading_end(atl_writer *writer, uint32_t at_ms, const char *unit, uint8_t reading_class);

bool atl_log(atl_link *link, uint8_t level, const char *text);

/* Reads CBOR. After a failed read all further ones fail, and atl_failed is true. */
typedef struct atl_cursor {
  const uint8_t *at, *end;
  bool failed;
} atl_cursor;

bool atl_failed(const atl_cursor *cursor);
uint32_t atl_get_uint(atl_cursor *cursor);
int32_t atl_get_int(atl_cursor *cursor);
/* An integer or a decimal fraction as value * 10^scale, rounded towards zero: 21.5 with scale 2 is 2150. */
int32_t atl_get_scaled(atl_cursor *cursor, uint8_t scale);
bool atl_get_bool(atl_cursor *cursor);
/* The bytes stay in the message buffer, valid until the callback returns. */
const char *atl_get_text(atl_cursor *cursor, size_t *length);
const uint8_t *atl_get_bytes(atl_cursor *cursor, size_t *length);
uint16_t atl_get_array(atl_cursor *cursor);
uint16_t atl_get_map(atl_cursor *cursor);
void atl_skip(atl_cursor *cursor);
/* Sets *value to the value under `key` of the map at the cursor (which stays); false when it is not there. */
bool atl_find(const atl_cursor *map, const char *key, atl_cursor *value);
bool atl_text_is(const char *text, size_t length, const char *expected);

/* ---- cryptography: one of crypto/, or your own ------------------------------------------------------------------ */

void atl_crypto_public(uint8_t public_key[32], const uint8_t secret[32]);
/* X25519; false when the result is all zero. */
bool atl_crypto_agree(uint8_t shared[32], const uint8_t secret[32], const uint8_t peer[32]);
/* crypto_secretbox in place: `box` has 16 bytes of room, then `count` bytes. */
void atl_crypto_seal(uint8_t *box, size_t count, const uint8_t nonce[24], const uint8_t key[32]);
/* In place: `box` is a tag and `count` bytes; false, and the bytes as they were, when it is not authentic. */
bool atl_crypto_open(uint8_t *box, size_t count, const uint8_t nonce[24], const uint8_t key[32]);
void atl_crypto_sha512(uint8_t digest[64], const uint8_t *bytes, size_t count);

#ifdef __cplusplus
}
#endif
#endif
