/* CBOR (RFC 8949) as far as the link uses it. docs/reference/link.md, section 4. */
#include "internal.h"

enum { KIND_TIME = 5, KIND_UPTIME = 6, KIND_LOG = 7, MAX_DEPTH = 8, LENGTH = 2 };
enum { UINT, NEGATIVE, BYTES, TEXT, ARRAY, MAP, TAGGED, SIMPLE };
enum { CBOR_FALSE = 0xf4, CBOR_TRUE = 0xf5, CBOR_NULL = 0xf6, DECIMAL = 4 };

/* ---- writing ---------------------------------------------------------------------------------------------------- */

static void put_byte(atl_writer *writer, uint8_t byte) {
  if (writer->at < writer->end) *writer->at++ = byte;
  else writer->failed = true;
}

static void put_head(atl_writer *writer, uint8_t major, uint32_t value) {
  uint8_t type = (uint8_t)(major << 5);
  if (value < 24) {
    put_byte(writer, (uint8_t)(type | value));
    return;
  }
  uint8_t width = value > 0xffff ? 2 : value > 0xff ? 1 : 0;
  put_byte(writer, (uint8_t)(type | (24 + width)));
  for (int shift = 8 * (1 << width) - 8; shift >= 0; shift -= 8) put_byte(writer, (uint8_t)(value >> shift));
}

atl_writer atl_begin(atl_link *link, uint8_t kind, uint8_t elements) {
  uint8_t *queue = link->config.queue;
  uint16_t room = (uint16_t)(link->config.queue_bytes - link->queue_end);
  atl_writer writer = {queue + link->queue_end + LENGTH, queue + link->config.queue_bytes, link, false};
  if (!link->is_open || room < LENGTH) {
    writer.failed = true;
    writer.at = writer.end;
  }
  atl_put_array(&writer, (uint16_t)(elements + 1));
  atl_put_uint(&writer, kind);
  return writer;
}

bool atl_end(atl_writer *writer) {
  if (writer->failed) return false;
  atl_link *link = writer->link;
  uint8_t *start = link->config.queue + link->queue_end;
  put16(start, (uint16_t)(writer->at - start - LENGTH));
  link->queue_end = (uint16_t)(writer->at - link->config.queue);
  return true;
}

void atl_put_uint(atl_writer *writer, uint32_t value) { put_head(writer, UINT, value); }

void atl_put_int(atl_writer *writer, int32_t value) {
  if (value < 0) put_head(writer, NEGATIVE, ~(uint32_t)value);
  else put_head(writer, UINT, (uint32_t)value);
}

void atl_put_decimal(atl_writer *writer, int32_t mantissa, int8_t exponent) {
  put_head(writer, TAGGED, DECIMAL);
  atl_put_array(writer, 2);
  atl_put_int(writer, exponent);
  atl_put_int(writer, mantissa);
}

void atl_put_bool(atl_writer *writer, bool value) { put_byte(writer, value ? CBOR_TRUE : CBOR_FALSE); }

void atl_put_null(atl_writer *writer) { put_byte(writer, CBOR_NULL); }

static void put_string(atl_writer *writer, uint8_t major, const uint8_t *bytes, size_t count) {
  put_head(writer, major, (uint32_t)count);
  if (writer->failed || count > (size_t)(writer->end - writer->at)) {
    writer->failed = true;
    return;
  }
  if (count > 0) memcpy(writer->at, bytes, count);
  writer->at += count;
}

void atl_put_text(atl_writer *writer, const char *text) { put_string(writer, TEXT, (const uint8_t *)text, strlen(text)); }

void atl_put_bytes(atl_writer *writer, const uint8_t *bytes, size_t count) { put_string(writer, BYTES, bytes, count); }

void atl_put_array(atl_writer *writer, uint16_t count) { put_head(writer, ARRAY, count); }

void atl_put_map(atl_writer *writer, uint16_t count) { put_head(writer, MAP, count); }

void atl_reading_begin(atl_writer *writer, const char *name) {
  atl_put_array(writer, 5);
  atl_put_text(writer, name);
}

void atl_reading_end(atl_writer *writer, uint32_t at_ms, const char *unit, uint8_t reading_class) {
  atl_put_uint(writer, at_ms);
  if (unit) atl_put_text(writer, unit);
  else atl_put_null(writer);
  atl_put_uint(writer, reading_class);
}

bool atl_log(atl_link *link, uint8_t level, const char *text) {
  atl_writer writer = atl_begin(link, KIND_LOG, 2);
  atl_put_uint(&writer, level);
  atl_put_text(&writer, text);
  return atl_end(&writer);
}

/* ---- reading ---------------------------------------------------------------------------------------------------- */

bool atl_failed(const atl_cursor *cursor) { return cursor->failed; }

static uint32_t fail(atl_cursor *cursor) {
  cursor->failed = true;
  cursor->at = cursor->end;
  return 0;
}

/* The head of an item: its major type, and its argument as far as 32 bits hold it. */
static uint32_t get_head(atl_cursor *cursor, uint8_t *major, bool *wide) {
  *wide = false;
  *major = 0xff;
  if (cursor->at >= cursor->end) return fail(cursor);
  uint8_t initial = *cursor->at++;
  uint8_t info = initial & 0x1f;
  *major = initial >> 5;
  if (info < 24) return info;
  if (info > 27) return fail(cursor);
  size_t width = (size_t)1 << (info - 24);
  if (width > (size_t)(cursor->end - cursor->at)) return fail(cursor);
  uint32_t value = 0;
  while (width-- > 0) {
    if (value >> 24) *wide = true;
    value = value << 8 | *cursor->at++;
  }
  return value;
}

static uint32_t get_of(atl_cursor *cursor, uint8_t expected) {
  uint8_t major;
  bool wide;
  uint32_t value = get_head(cursor, &major, &wide);
  return major == expected && !wide ? value : fail(cursor);
}

uint32_t atl_get_uint(atl_cursor *cursor) { return get_of(cursor, UINT); }

int32_t atl_get_int(atl_cursor *cursor) {
  uint8_t major;
  bool wide;
  uint32_t value = get_head(cursor, &major, &wide);
  if (wide || value > 0x7fffffffu || (major != UINT && major != NEGATIVE)) return (int32_t)fail(cursor);
  return major == UINT ? (int32_t)value : -1 - (int32_t)value;
}

int32_t atl_get_scaled(atl_cursor *cursor, uint8_t scale) {
  int32_t exponent = 0;
  if (cursor->at < cursor->end && *cursor->at == (TAGGED << 5 | DECIMAL)) {
    cursor->at++;
    if (atl_get_array(cursor) != 2) return (int32_t)fail(cursor);
    exponent = atl_get_int(cursor);
  }
  int32_t value = atl_get_int(cursor);
  if (exponent > 32 || exponent < -320) return (int32_t)fail(cursor);
  int32_t steps = exponent + scale;
  for (; steps < 0 && value != 0; steps++) value /= 10;
  for (; steps > 0 && value != 0; steps--) {
    if (value > 214748364 || value < -214748364) return (int32_t)fail(cursor);
    value *= 10;
  }
  return value;
}

bool atl_get_bool(atl_cursor *cursor) {
  uint8_t byte = cursor->at < cursor->end ? *cursor->at++ : 0;
  if (byte != CBOR_TRUE && byte != CBOR_FALSE) fail(cursor);
  return byte == CBOR_TRUE;
}

static const uint8_t *get_string(atl_cursor *cursor, uint8_t major, size_t *length) {
  *length = get_of(cursor, major);
  if (*length > (size_t)(cursor->end - cursor->at)) *length = fail(cursor);
  const uint8_t *bytes = cursor->at;
  cursor->at += *length;
  return bytes;
}

const char *atl_get_text(atl_cursor *cursor, size_t *length) { return (const char *)get_string(cursor, TEXT, length); }

const uint8_t *atl_get_bytes(atl_cursor *cursor, size_t *length) { return get_string(cursor, BYTES, length); }

/* An item is at least one byte, so a count is believed only as far as there are bytes. */
static uint16_t get_count(atl_cursor *cursor, uint8_t major, uint32_t least) {
  uint32_t count = get_of(cursor, major);
  if (count > 0xffff || count * least > (size_t)(cursor->end - cursor->at)) return (uint16_t)fail(cursor);
  return (uint16_t)count;
}

uint16_t atl_get_array(atl_cursor *cursor) { return get_count(cursor, ARRAY, 1); }

uint16_t atl_get_map(atl_cursor *cursor) { return get_count(cursor, MAP, 2); }

/* Items still to be skipped a level; no recursion, so the stack is bounded. */
void atl_skip(atl_cursor *cursor) {
  uint32_t left[MAX_DEPTH] = {1};
  int depth = 0;
  while (depth >= 0 && !cursor->failed) {
    if (left[depth] == 0) {
      depth--;
      continue;
    }
    left[depth]--;
    uint8_t major;
    bool wide;
    uint32_t value = get_head(cursor, &major, &wide);
    uint32_t items = 0;
    if (cursor->failed) return;
    if (major == BYTES || major == TEXT) {
      if (wide || value > (size_t)(cursor->end - cursor->at)) fail(cursor);
      else cursor->at += value;
    } else if (major == TAGGED) {
      items = 1;
    } else if (major == ARRAY || major == MAP) {
      if (wide || value > (size_t)(cursor->end - cursor->at)) fail(cursor);
      items = major == MAP ? value * 2 : value;
    }
    if (items == 0) continue;
    if (++depth >= MAX_DEPTH) fail(cursor);
    else left[depth] = items;
  }
}

bool atl_text_is(const char *text, size_t length, const char *expected) {
  return strlen(expected) == length && memcmp(text, expected, length) == 0;
}

bool atl_find(const atl_cursor *map, const char *key, atl_cursor *value) {
  atl_cursor cursor = *map;
  for (uint16_t left = atl_get_map(&cursor); left > 0 && !cursor.failed; left--) {
    size_t length;
    const char *text = atl_get_text(&cursor, &length);
    if (cursor.failed) return false;
    *value = cursor;
    if (atl_text_is(text, length, key)) return true;
    atl_skip(&cursor);
  }
  return false;
}

/* ---- what came -------------------------------------------------------------------------------------------------- */

static void answer_time(atl_link *link, atl_cursor elements) {
  atl_skip(&elements);
  uint32_t token = atl_get_uint(&elements);
  if (elements.failed) return;
  atl_writer writer = atl_begin(link, KIND_UPTIME, 2);
  atl_put_uint(&writer, token);
  atl_put_uint(&writer, now_ms(link));
  atl_end(&writer);
}

void message_received(atl_link *link, const uint8_t *message, size_t count) {
  atl_cursor cursor = {message, message + count, false};
  uint16_t elements = atl_get_array(&cursor);
  uint32_t kind = atl_get_uint(&cursor);
  if (cursor.failed || elements == 0 || kind > 0xff) {
    link->counters.bad_frames++;
    return;
  }
  if (kind == KIND_TIME) answer_time(link, cursor);
  link->config.on_message(link->config.context, (uint8_t)kind, &cursor);
}
