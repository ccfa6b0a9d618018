/* Delivery in order over frames that get lost. docs/reference/link.md, section 3. */
#include "internal.h"

enum { ASK = 0x80, DATA = 0x40, FIRST = 0x20, LAST = 0x10, NAK = FIRST, CREDIT = 0x0f };
enum { HEAD = 2, DATA_HEAD = 3, LENGTH = 2, MAX_TRIES = 12, MAX_WAIT_MS = 1000 };

void delivery_resume(atl_link *link) {
  link->under_way = 0;
  link->credit = link->host_window;
  link->timer_on = link->nak_due = link->nak_sent = false;
  link->wait_ms = link->config.retransmit_ms;
  link->tries = 0;
}

void delivery_reset(atl_link *link) {
  link->base = link->expected = link->ever_sent = 0;
  link->queue_end = link->queue_done = 0;
  link->ack_due = link->assembling = false;
  delivery_resume(link);
}

void delivery_damaged(atl_link *link) {
  if (link->is_open && !link->nak_sent) link->nak_due = true;
}

/* A piece of a queued message: where it is, and the step to the one after it. */
typedef struct {
  uint16_t message, offset, count;
  uint8_t flags;
} piece;

static bool piece_at(const atl_link *link, uint16_t message, uint16_t offset, piece *out) {
  if (message >= link->queue_end) return false;
  uint16_t length = get16(link->config.queue + message);
  uint16_t left = (uint16_t)(length - offset);
  out->message = message;
  out->offset = offset;
  out->count = left < link->piece_bytes ? left : link->piece_bytes;
  out->flags = (uint8_t)(DATA | (offset == 0 ? FIRST : 0) | (out->count == left ? LAST : 0));
  return true;
}

static bool next_piece(const atl_link *link, piece *current) {
  if (!(current->flags & LAST)) return piece_at(link, current->message, (uint16_t)(current->offset + current->count), current);
  uint16_t length = get16(link->config.queue + current->message);
  return piece_at(link, (uint16_t)(current->message + LENGTH + length), 0, current);
}

static void drop_piece(atl_link *link) {
  piece first;
  if (!piece_at(link, 0, link->queue_done, &first)) return;
  if (!(first.flags & LAST)) {
    link->queue_done = (uint16_t)(link->queue_done + first.count);
    return;
  }
  uint16_t used = (uint16_t)(LENGTH + get16(link->config.queue));
  link->queue_end = (uint16_t)(link->queue_end - used);
  link->queue_done = 0;
  memmove(link->config.queue, link->config.queue + used, link->queue_end);
}

static void acknowledged(atl_link *link, uint8_t ack, uint8_t credit, bool nak) {
  uint8_t count = (uint8_t)(ack - link->base);
  if (count > link->ever_sent) return;
  link->credit = credit;
  if (count > 0) {
    for (uint8_t i = 0; i < count; i++) drop_piece(link);
    link->base = ack;
    link->ever_sent = (uint8_t)(link->ever_sent - count);
    link->under_way = link->under_way > count ? (uint8_t)(link->under_way - count) : 0;
    link->wait_ms = link->config.retransmit_ms;
    link->tries = 0;
    link->timer_on = link->under_way > 0;
    link->resend_ms = now_ms(link);
  }
  if (nak) link->under_way = 0;
}

static void piece_received(atl_link *link, uint8_t flags, const uint8_t *bytes, size_t count) {
  if (flags & FIRST) {
    link->assembling = true;
    link->message_at = 0;
  }
  if (!link->assembling) return;
  if (count > (size_t)(link->config.message_bytes - link->message_at)) {
    link->assembling = false;
    link->counters.bad_frames++;
    return;
  }
  memcpy(link->config.message + link->message_at, bytes, count);
  link->message_at = (uint16_t)(link->message_at + count);
  if (!(flags & LAST)) return;
  link->assembling = false;
  message_received(link, link->config.message, link->message_at);
}

void delivery_packet(atl_link *link, const uint8_t *packet, size_t count) {
  if (count < HEAD || ((packet[0] & DATA) ? count <= DATA_HEAD : count != HEAD)) return;
  uint8_t flags = packet[0];
  if (flags & ASK) link->ack_due = true;
  acknowledged(link, packet[1], flags & CREDIT, !(flags & DATA) && (flags & NAK));
  if (!(flags & DATA)) {
    link->nak_sent = false; /* the answer of a host that has nothing to send again */
    return;
  }
  link->ack_due = true;
  uint8_t ahead = (uint8_t)(packet[2] - link->expected);
  if (ahead == 0) {
    link->expected++;
    link->nak_sent = link->nak_due = false;
    link->counters.received++;
    piece_received(link, flags, packet + DATA_HEAD, count - DATA_HEAD);
  } else if (ahead >= 0x80) {
    link->counters.repeated++;
  } else {
    delivery_damaged(link);
  }
}

static void retry(atl_link *link) {
  bool ask = link->credit == 0;
  link->tries++;
  if (link->tries > MAX_TRIES && !ask) link->heard_ms = now_ms(link) - 4u * link->keep_alive_ms; /* ends the session */
  if (!ask) link->under_way = 0;
  link->wait_ms = link->wait_ms * 2 < MAX_WAIT_MS ? link->wait_ms * 2 : MAX_WAIT_MS;
  link->resend_ms = now_ms(link);
}

size_t delivery_next(atl_link *link, uint8_t *packet) {
  if (link->timer_on && passed(now_ms(link), link->resend_ms, link->wait_ms)) retry(link);
  uint8_t limit = link->credit < link->host_window ? link->credit : link->host_window;
  size_t count = HEAD;
  piece current;
  packet[0] = 0;
  if (link->nak_due) {
    link->nak_due = false;
    link->nak_sent = true;
    link->counters.naks++;
    packet[0] = NAK | ASK;
  } else if (link->under_way < limit && piece_at(link, 0, link->queue_done, &current)) {
    bool there = true;
    for (uint8_t i = 0; there && i < link->under_way; i++) there = next_piece(link, &current);
    if (there) {
      packet[0] = current.flags;
      packet[2] = (uint8_t)(link->base + link->under_way);
      memcpy(packet + DATA_HEAD, link->config.queue + current.message + LENGTH + current.offset, current.count);
      count = (size_t)(DATA_HEAD + current.count);
      if (link->under_way < link->ever_sent) link->counters.resent++;
      else link->counters.sent++;
      link->under_way++;
      if (link->ever_sent < link->under_way) link->ever_sent = link->under_way;
      if (!link->timer_on) {
        link->timer_on = true;
        link->resend_ms = now_ms(link);
      }
    }
  }
  if (packet[0] == 0 && !link->ack_due) return 0;
  link->ack_due = false;
  packet[0] = (uint8_t)(packet[0] | link->config.window);
  packet[1] = link->expected;
  return count;
}
