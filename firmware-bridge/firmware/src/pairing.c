/* Pairing, the board's side. docs/reference/link.md, section 2. */
#include "internal.h"

void atl_open_pairing(atl_link *link, bool open) { link->pair_state = open ? PAIR_OPEN : PAIR_CLOSED; }

void atl_forget(atl_link *link) {
  link->is_open = false;
  link->had_session = false;
  link->next.waiting = false;
  memset(&link->keys, 0, sizeof link->keys);
  new_identity(link);
}

uint32_t atl_digits(const atl_link *link) {
  part parts[] = {{link->pair_host_key, 32}, {link->record + REC_PUBLIC, 32}, {link->pair_host_nonce, 16}, {link->pair_nonce, 16}};
  uint8_t digest[64];
  hash_parts(digest, "atedge1 digits", parts, 4);
  /* 64 bits modulo 1,000,000, from the top byte down: no 64-bit division is pulled in. */
  uint32_t rest = 0;
  for (int i = 7; i >= 0; i--) rest = (rest << 8 | digest[i]) % 1000000u;
  return rest;
}

static bool paired(atl_link *link) {
  uint8_t shared[32];
  if (!atl_crypto_agree(shared, link->record + REC_SECRET, link->pair_host_key)) return false;
  part parts[] = {{shared, 32},
                  {link->pair_host_key, 32},
                  {link->record + REC_PUBLIC, 32},
                  {link->pair_host_nonce, 16},
                  {link->pair_nonce, 16}};
  hash32(link->record + REC_STATIC, "atedge1 static", parts, 5);
  memcpy(link->record + REC_HOST_KEY, link->pair_host_key, 32);
  link->record[REC_PAIRED] = 1;
  link->record[REC_HAS_ROOT] = 0;
  save_record(link);
  /* A session with the host before, if there was one, is over. */
  link->is_open = link->had_session = false;
  memset(&link->keys, 0, sizeof link->keys);
  memset(shared, 0, sizeof shared);
  return true;
}

static void finish(atl_link *link, bool equal) {
  bool done = equal && paired(link);
  link->pair_state = done ? PAIR_DONE : PAIR_CLOSED;
  link->config.on_event(link->config.context, done ? ATL_PAIRED : ATL_PAIRING_FAILED);
}

void atl_confirm_pairing(atl_link *link, bool equal) {
  if (link->pair_state == PAIR_REVEALED) finish(link, equal);
}

/* H(label, P, method, Sh, Sb, tail…) into `digest`. */
static void pair_hash(atl_link *link, uint8_t digest[64], const char *label, const uint8_t *a, size_t a_bytes,
                      const uint8_t *b, size_t b_bytes) {
  static const uint8_t none[32] = {0};
  const uint8_t *key = link->config.provisioning_key;
  uint8_t method = key ? 2 : 1;
  part parts[] = {{key ? key : none, 32},          {&method, 1}, {link->pair_host_key, 32},
                  {link->record + REC_PUBLIC, 32}, {a, a_bytes}, {b, b_bytes}};
  hash_parts(digest, label, parts, 6);
}

static void commitment(atl_link *link, uint8_t digest[64]) {
  pair_hash(link, digest, "atedge1 commit", link->pair_nonce, 16, link->pair_nonce, 0);
}

static void commit(atl_link *link, const uint8_t *frame) {
  uint8_t digest[64];
  bool repeat = link->pair_state >= PAIR_COMMITTED && same_bytes(frame + 3, link->pair_host_key, 32);
  if (!repeat && link->pair_state != PAIR_OPEN && link->pair_state != PAIR_COMMITTED) {
    refuse(link, REFUSE_CLOSED);
    return;
  }
  if (!repeat) {
    memcpy(link->pair_host_key, frame + 3, 32);
    link->config.port.random(link->config.context, link->pair_nonce, 16);
    link->pair_state = PAIR_COMMITTED;
  }
  commitment(link, digest);
  link->reply[0] = FRAME_PAIR_2;
  memcpy(link->reply + 1, link->record + REC_PUBLIC, 32);
  memcpy(link->reply + 33, digest, 32);
  link->reply_bytes = 65;
  link->reply_due = true;
}

static void reveal(atl_link *link, const uint8_t *frame) {
  uint8_t digest[64];
  bool first = link->pair_state == PAIR_COMMITTED;
  if (!first && !(link->pair_state > PAIR_COMMITTED && same_bytes(frame + 1, link->pair_host_nonce, 16))) {
    refuse(link, REFUSE_CLOSED);
    return;
  }
  commitment(link, digest);
  uint8_t promised[32];
  memcpy(promised, digest, 32);
  pair_hash(link, digest, "atedge1 pair-h", promised, 32, frame + 1, 16);
  if (!same_bytes(digest, frame + 17, TAG)) {
    refuse(link, REFUSE_FAILED);
    finish(link, false);
    return;
  }
  memcpy(link->pair_host_nonce, frame + 1, 16);
  pair_hash(link, digest, "atedge1 pair-b", link->pair_host_nonce, 16, link->pair_nonce, 16);
  link->reply[0] = FRAME_PAIR_4;
  memcpy(link->reply + 1, link->pair_nonce, 16);
  memcpy(link->reply + 17, digest, TAG);
  link->reply_bytes = 33;
  link->reply_due = true;
  if (!first) return;
  if (link->config.provisioning_key) {
    finish(link, true);
    return;
  }
  link->pair_state = PAIR_REVEALED;
  link->config.on_event(link->config.context, ATL_DIGITS);
}

void pairing_frame(atl_link *link, const uint8_t *frame, size_t count) {
  link->next.waiting = false; /* its reply makes room for ours */
  if (frame[0] == FRAME_PAIR_1 && count == 35) {
    if (frame[1] != LINK_VERSION) refuse(link, REFUSE_VERSION);
    else if (frame[2] != (link->config.provisioning_key ? 2 : 1)) refuse(link, REFUSE_CLOSED);
    else commit(link, frame);
  } else if (frame[0] == FRAME_PAIR_3 && count == 33) {
    reveal(link, frame);
  }
}
