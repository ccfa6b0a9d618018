/* Frames in and out: COBS, CRC, and which part takes a frame. docs/reference/link.md, section 1. */
#include "internal.h"

enum { MIN_FRAME = 80, MAX_FRAME = 2048, READ_AT_ONCE = 32, QUIET_MS = 100, NO_ZERO = 0xff };

bool atl_init(atl_link *link, const atl_config *config) {
  if (config->frame_bytes < MIN_FRAME || config->frame_bytes > MAX_FRAME || config->window < 1 || config->window > 15) {
    return false;
  }
  memset(link, 0, sizeof *link);
  link->config = *config;
  link->rx_code = NO_ZERO;
  link->piece_bytes = 1;
  link->tx_ms = now_ms(link) - QUIET_MS;
  session_init(link);
  return true;
}

static void frame_received(atl_link *link, uint8_t *frame, size_t count) {
  link->counters.frames_in++;
  if (count >= SEALED_AT + TAG + 2 && frame[0] == FRAME_SEALED) {
    session_sealed(link, frame, count);
    return;
  }
  if (count < 1 + CRC_BYTES || crc32_of(frame, count - CRC_BYTES) != get32(frame + count - CRC_BYTES)) {
    link->counters.bad_frames++;
    delivery_damaged(link);
    return;
  }
  count -= CRC_BYTES;
  if (frame[0] == FRAME_CLEAR) session_clear(link, frame + 1, count - 1);
  else if ((frame[0] & 0xf0) == 0x40) pairing_frame(link, frame, count);
  else session_frame(link, frame, count);
}

static void rx_store(atl_link *link, uint8_t byte) {
  if (link->rx_at < link->config.frame_bytes) link->config.rx_frame[link->rx_at++] = byte;
  else link->rx_bad = true;
}

static void rx_byte(atl_link *link, uint8_t byte) {
  if (byte != 0) {
    if (link->rx_left > 0) {
      rx_store(link, byte);
      link->rx_left--;
    } else {
      if (link->rx_code != NO_ZERO) rx_store(link, 0);
      link->rx_code = byte;
      link->rx_left = (uint8_t)(byte - 1);
    }
    return;
  }
  bool empty = link->rx_at == 0 && link->rx_left == 0 && link->rx_code == NO_ZERO;
  bool bad = link->rx_bad || link->rx_left > 0;
  uint16_t count = link->rx_at;
  link->rx_at = 0;
  link->rx_left = 0;
  link->rx_code = NO_ZERO;
  link->rx_bad = false;
  if (empty) return;
  if (!bad) {
    frame_received(link, link->config.rx_frame, count);
    return;
  }
  link->counters.bad_frames++;
  delivery_damaged(link);
}

/* COBS forward in place: the frame stands far enough behind that writing never overtakes reading. */
static size_t cobs(uint8_t *out, const uint8_t *frame, size_t count) {
  size_t code_at = 0, to = 1;
  for (size_t i = 0; i < count; i++) {
    uint8_t byte = frame[i];
    if (byte != 0) out[to++] = byte;
    if (byte != 0 && !(to - code_at == 0xff && i + 1 < count)) continue;
    out[code_at] = (uint8_t)(to - code_at);
    code_at = to++;
  }
  out[code_at] = (uint8_t)(to - code_at);
  return to;
}

/* The next frame of any kind, at `frame`; 0 when there is none. */
static size_t next_frame(atl_link *link, uint8_t *frame) {
  size_t count = 0;
  if (link->reply_due) {
    link->reply_due = false;
    count = link->reply_bytes;
    memcpy(frame, link->reply, count);
  } else if (link->knock_due) {
    link->knock_due = false;
    frame[0] = FRAME_KNOCK;
    frame[1] = LINK_VERSION;
    put32(frame + 2, link->boot);
    frame[6] = link->knock_reason;
    count = 7;
  }
  if (count > 0) {
    put32(frame + count, crc32_of(frame, count));
    return count + CRC_BYTES;
  }
  if (!link->is_open) return 0;
  size_t packet = delivery_next(link, frame + session_packet_at(link));
  if (packet == 0 || !session_wrap(link, frame, packet, &count)) return 0;
  return count;
}

/* True when the line took all there is. */
static bool tx_flush(atl_link *link) {
  while (link->tx_at < link->tx_end) {
    size_t taken = link->config.port.write(link->config.context, link->config.tx_frame + link->tx_at,
                                           (size_t)(link->tx_end - link->tx_at));
    if (taken == 0) return false;
    link->tx_at = (uint16_t)(link->tx_at + taken);
  }
  return true;
}

void atl_poll(atl_link *link) {
  uint8_t bytes[READ_AT_ONCE];
  uint8_t *tx = link->config.tx_frame;
  uint8_t *frame = tx + link->config.frame_bytes / 254 + 2;
  tx_flush(link);
  for (size_t count; (count = link->config.port.read(link->config.context, bytes, sizeof bytes)) > 0;) {
    for (size_t i = 0; i < count; i++) rx_byte(link, bytes[i]);
  }
  session_clock(link);
  while (tx_flush(link)) {
    size_t count = next_frame(link, frame);
    if (count == 0) return;
    uint32_t now = now_ms(link);
    /* A zero byte first, after a pause: it ends what noise has begun. */
    size_t start = passed(now, link->tx_ms, QUIET_MS) ? 0 : 1;
    link->tx_ms = now;
    tx[0] = 0;
    size_t end = 1 + cobs(tx + 1, frame, count);
    tx[end] = 0;
    link->tx_at = (uint16_t)start;
    link->tx_end = (uint16_t)(end + 1);
  }
}
