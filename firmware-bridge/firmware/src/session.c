/* Handshakes and sealing, the board's side. docs/reference/link.md, section 2. */
#include "internal.h"

enum { MAX_STEPS = 64, KNOCK_EVERY_MS = 1000, NO_SESSION_EVERY_MS = 200 };
static const uint32_t REKEY_AT = 0x80000000u, STOP_AT = 0xfffffff0u;

bool atl_is_open(const atl_link *link) { return link->is_open; }

bool atl_is_paired(const atl_link *link) { return link->record[REC_PAIRED] == 1; }

void save_record(atl_link *link) {
  put32(link->record + REC_CRC, crc32_of(link->record, REC_CRC));
  link->config.port.store(link->config.context, link->record, true);
}

void new_identity(atl_link *link) {
  memset(link->record, 0, sizeof link->record);
  link->record[REC_VERSION] = 1;
  link->config.port.random(link->config.context, link->record + REC_SECRET, 32);
  atl_crypto_public(link->record + REC_PUBLIC, link->record + REC_SECRET);
  save_record(link);
}

void session_init(atl_link *link) {
  uint8_t boot[4];
  link->config.port.random(link->config.context, boot, sizeof boot);
  link->boot = get32(boot);
  bool loaded = link->config.port.store(link->config.context, link->record, false);
  if (!loaded || link->record[REC_VERSION] != 1 || get32(link->record + REC_CRC) != crc32_of(link->record, REC_CRC)) {
    new_identity(link);
  }
  link->knock_ms = now_ms(link);
  knock(link, link->config.reset_reason);
}

void knock(atl_link *link, uint8_t reason) {
  link->knock_reason = reason;
  link->knock_due = true;
  link->knock_ms = now_ms(link);
}

void refuse(atl_link *link, uint8_t reason) {
  link->reply[0] = FRAME_REFUSE;
  link->reply[1] = reason;
  link->reply_bytes = 2;
  link->reply_due = true;
  link->next.waiting = false;
}

static void ratchet(uint8_t root[32]) {
  part parts[] = {{root, 32}};
  uint8_t next[32];
  hash32(next, "atedge1 ratchet", parts, 1);
  memcpy(root, next, 32);
}

/* Ends the reply of `count` bytes with its tag, and keeps what the session will be. */
static void offer(atl_link *link, uint8_t root[32], uint32_t index, const uint8_t script[32], size_t count) {
  part parts[] = {{root, 32}, {script, 32}};
  uint8_t digest[64];
  hash_parts(digest, "atedge1 tag", parts, 2);
  memcpy(link->reply + count, digest, TAG);
  link->reply_bytes = (uint8_t)(count + TAG);
  hash_parts(digest, "atedge1 session", parts, 2);
  memcpy(link->next.keys.open, digest, 32);
  memcpy(link->next.keys.seal, digest + 32, 32);
  memcpy(link->next.root, root, 32);
  ratchet(link->next.root);
  link->next.index = index + 1;
  memset(digest, 0, sizeof digest);
}

static void script_of(uint8_t script[32], const uint8_t *frame, size_t frame_bytes, const uint8_t *reply, size_t reply_bytes) {
  part parts[] = {{frame, frame_bytes}, {reply, reply_bytes}};
  hash32(script, "atedge1 script", parts, 2);
}

static bool resume(atl_link *link, const uint8_t *frame, size_t count) {
  const uint8_t *id = frame + 1 + HOST_HELLO_BYTES;
  uint32_t asked = get32(id + 4), own = get32(link->record + REC_INDEX);
  bool known = link->record[REC_HAS_ROOT] == 1 && same_bytes(id, link->record + REC_ROOT_ID, 4);
  if (!known || (asked > own && asked - own > MAX_STEPS)) return false;
  uint8_t root[32], script[32];
  memcpy(root, link->record + REC_ROOT, 32);
  for (; own < asked; own++) ratchet(root);
  uint8_t *reply = link->reply + 1 + BOARD_HELLO_BYTES;
  put32(reply, own);
  link->config.port.random(link->config.context, reply + 4, 16);
  script_of(script, frame, count, link->reply, 29);
  memcpy(link->next.root_id, id, 4);
  offer(link, root, own, script, 29);
  return true;
}

static bool renew(atl_link *link, const uint8_t *frame, size_t count) {
  uint8_t secret[32], shared[32], script[32], digest[64];
  uint8_t *reply = link->reply + 1 + BOARD_HELLO_BYTES;
  link->config.port.random(link->config.context, secret, sizeof secret);
  atl_crypto_public(reply, secret);
  link->config.port.random(link->config.context, reply + 32, 16);
  if (!atl_crypto_agree(shared, secret, frame + 1 + HOST_HELLO_BYTES + 16)) return false;
  script_of(script, frame, count, link->reply, 57);
  part parts[] = {{link->record + REC_STATIC, 32}, {shared, 32}, {script, 32}};
  uint8_t root[32];
  hash32(root, "atedge1 root", parts, 3);
  part id[] = {{root, 32}};
  hash_parts(digest, "atedge1 root id", id, 1);
  memcpy(link->next.root_id, digest, 4);
  offer(link, root, 0, script, 57);
  memset(secret, 0, sizeof secret);
  memset(shared, 0, sizeof shared);
  return true;
}

static bool take_hello(atl_handshake *next, const uint8_t *hello) {
  next->host_boot = get32(hello + 1);
  next->host_frame = get16(hello + 5);
  next->host_window = hello[7];
  next->keep_alive_ms = get16(hello + 8);
  return next->host_frame >= 80 && next->host_window >= 1 && next->host_window <= 15;
}

void session_frame(atl_link *link, const uint8_t *frame, size_t count) {
  uint8_t type = frame[0];
  size_t fields = type == FRAME_RESUME ? 24 : type == FRAME_RENEW ? 48 : type == FRAME_OPEN_CLEAR ? 16 : 0;
  if (fields == 0 || count != 1 + HOST_HELLO_BYTES + fields) return;
  const uint8_t *nonce = frame + 1 + HOST_HELLO_BYTES + (type == FRAME_RESUME ? 8 : 0);
  atl_handshake *next = &link->next;
  if (next->waiting && same_bytes(nonce, next->host_nonce, 16)) {
    link->reply_due = true; /* a repeat gets the same answer */
    return;
  }
  next->waiting = false; /* whatever becomes of this one, the handshake before is over */
  bool paired = atl_is_paired(link);
  if (frame[1] != LINK_VERSION) refuse(link, REFUSE_VERSION);
  else if (type == FRAME_OPEN_CLEAR && (paired || !link->config.allow_clear)) refuse(link, REFUSE_CLEAR);
  else if (type != FRAME_OPEN_CLEAR && link->pair_state == PAIR_REVEALED) refuse(link, REFUSE_UNCONFIRMED);
  else if (type != FRAME_OPEN_CLEAR && !paired) refuse(link, REFUSE_NOT_PAIRED);
  else if (take_hello(next, frame + 1)) {
    link->reply[0] = (uint8_t)(type + (FRAME_RESUMED - FRAME_RESUME));
    link->reply[1] = LINK_VERSION;
    put32(link->reply + 2, link->boot);
    put16(link->reply + 6, link->config.frame_bytes);
    link->reply[8] = link->config.window;
    next->clear = type == FRAME_OPEN_CLEAR;
    if (type == FRAME_RESUME && !resume(link, frame, count)) {
      refuse(link, REFUSE_ROOT);
      return;
    }
    if (type == FRAME_RENEW && !renew(link, frame, count)) return;
    if (next->clear) {
      memcpy(link->reply + 9, nonce, 16);
      link->reply_bytes = 25;
    }
    memcpy(next->host_nonce, nonce, 16);
    next->waiting = true;
    link->reply_due = true;
    link->knock_due = false;
    link->knock_ms = now_ms(link); /* the host has time to answer before the next knock */
  }
}

/* The host has proved that it has the new session too. */
static void promote(atl_link *link) {
  atl_handshake *next = &link->next;
  next->waiting = false;
  link->reply_due = link->knock_due = false;
  link->keys = next->keys;
  link->is_clear = next->clear;
  if (!next->clear) {
    memcpy(link->record + REC_ROOT, next->root, 32);
    memcpy(link->record + REC_ROOT_ID, next->root_id, 4);
    put32(link->record + REC_INDEX, next->index);
    link->record[REC_HAS_ROOT] = 1;
    save_record(link);
  }
  memset(&next->keys, 0, sizeof next->keys);
  uint16_t frame = next->host_frame < link->config.frame_bytes ? next->host_frame : link->config.frame_bytes;
  link->piece_bytes = (uint16_t)(frame - FRAME_OVERHEAD);
  link->host_window = next->host_window;
  link->keep_alive_ms = next->keep_alive_ms;
  bool same = link->had_session && link->host_boot == next->host_boot;
  link->host_boot = next->host_boot;
  link->had_session = link->is_open = true;
  link->heard_ms = now_ms(link);
  if (link->pair_state == PAIR_DONE) link->pair_state = PAIR_CLOSED;
  if (same) delivery_resume(link);
  else delivery_reset(link);
  link->config.on_event(link->config.context, same ? ATL_RESUMED : ATL_OPEN);
}

static bool open_with(const atl_keys *keys, uint8_t *frame, size_t count) {
  uint8_t nonce[24] = {0};
  uint32_t counter = get32(frame + 1);
  memcpy(nonce, frame + 1, 4);
  return counter > keys->received && atl_crypto_open(frame + SEALED_AT, count - SEALED_AT - TAG, nonce, keys->open);
}

void session_sealed(atl_link *link, uint8_t *frame, size_t count) {
  bool usable = link->is_open && !link->is_clear;
  if (!(usable && open_with(&link->keys, frame, count))) {
    if (!(link->next.waiting && !link->next.clear && open_with(&link->next.keys, frame, count))) {
      link->counters.refused_frames++;
      delivery_damaged(link);
      if (!usable && passed(now_ms(link), link->knock_ms, NO_SESSION_EVERY_MS)) knock(link, KNOCK_NO_SESSION);
      return;
    }
    promote(link);
  }
  link->keys.received = get32(frame + 1);
  link->heard_ms = now_ms(link);
  delivery_packet(link, frame + SEALED_AT + TAG, count - SEALED_AT - TAG);
}

void session_clear(atl_link *link, const uint8_t *packet, size_t count) {
  if (link->next.waiting && link->next.clear) promote(link);
  if (!link->is_open || !link->is_clear) {
    link->counters.refused_frames++;
    if (link->config.allow_clear && passed(now_ms(link), link->knock_ms, NO_SESSION_EVERY_MS)) knock(link, KNOCK_NO_SESSION);
    return;
  }
  link->heard_ms = now_ms(link);
  delivery_packet(link, packet, count);
}

size_t session_packet_at(const atl_link *link) { return link->is_clear ? 1 : SEALED_AT + TAG; }

bool session_wrap(atl_link *link, uint8_t *frame, size_t packet_bytes, size_t *frame_bytes) {
  if (link->is_clear) {
    frame[0] = FRAME_CLEAR;
    put32(frame + 1 + packet_bytes, crc32_of(frame, 1 + packet_bytes));
    *frame_bytes = 1 + packet_bytes + CRC_BYTES;
    return true;
  }
  if (link->keys.sent >= STOP_AT) return false;
  uint8_t nonce[24] = {0};
  frame[0] = FRAME_SEALED;
  put32(frame + 1, ++link->keys.sent);
  memcpy(nonce, frame + 1, 4);
  atl_crypto_seal(frame + SEALED_AT, packet_bytes, nonce, link->keys.seal);
  *frame_bytes = SEALED_AT + TAG + packet_bytes;
  return true;
}

void session_clock(atl_link *link) {
  uint32_t now = now_ms(link);
  if (link->is_open && passed(now, link->heard_ms, 4u * link->keep_alive_ms)) {
    link->is_open = false;
    memset(&link->keys, 0, sizeof link->keys);
    link->config.on_event(link->config.context, ATL_CLOSED);
    knock(link, KNOCK_NO_SESSION);
  }
  bool worn = link->is_open && !link->is_clear && link->keys.sent >= REKEY_AT;
  if ((!link->is_open || worn) && passed(now, link->knock_ms, KNOCK_EVERY_MS)) {
    knock(link, worn ? KNOCK_COUNTER : link->had_session ? KNOCK_NO_SESSION : link->config.reset_reason);
  }
}
