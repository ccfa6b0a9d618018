/* The program of the example boards, the same on the host and on a Cortex-M: a thermometer, a relay, updates. */
#ifndef BOARD_APP_H
#define BOARD_APP_H

#include "../src/atedge_link.h"

enum { APP_FRAME_MAX = 2048, APP_MESSAGE_BYTES = 1200, APP_QUEUE_BYTES = 2048 };

typedef struct {
  const char *version;
  const char *hardware;
  uint8_t reset_reason;
  uint16_t frame_bytes;
  uint8_t window;
  bool allow_clear;
  const uint8_t *provisioning_key;
  uint32_t reading_every_ms; /* 0: none */
  uint32_t retransmit_ms;
  bool self_test_passes;
} app_options;

typedef struct {
  atl_link link;
  app_options options;
  uint32_t uptime_of_reading;
  uint32_t reading_id, accepted_id;
  uint32_t burst_left;
  uint32_t commands_done;
  bool info_due, relay_on, reset_due;
  void (*on_event)(atl_event event);
  void (*on_command)(const char *name, size_t length);
  uint8_t rx_frame[APP_FRAME_MAX];
  uint8_t tx_frame[APP_FRAME_MAX + APP_FRAME_MAX / 254 + 3];
  uint8_t message[APP_MESSAGE_BYTES];
  uint8_t queue[APP_QUEUE_BYTES];
} board_app;

bool app_init(board_app *app, const atl_port *port, const app_options *options);
/* One turn: polls the link and sends what is due. True when the host has asked for a reset and may have its answer. */
bool app_turn(board_app *app);

#endif
