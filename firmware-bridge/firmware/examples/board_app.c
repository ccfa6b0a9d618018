#include "board_app.h"

#include <string.h>

#include "slots.h"

enum { COMMAND = 2, RECEIPT = 4, UPDATE = 9, READINGS = 1, ANSWER = 3, INFO = 8, UPDATED = 10 };
enum { OP_STATE = 1, OP_BEGIN, OP_DATA, OP_FINISH, OP_TEST, OP_CONFIRM, OP_ERASE, OP_RESET };

static uint32_t uptime(board_app *app) { return app->link.config.port.time_ms(app->link.config.context); }

static void command_info(atl_writer *writer, const char *name, bool idempotent, const char *schema) {
  atl_put_array(writer, 3);
  atl_put_text(writer, name);
  atl_put_bool(writer, idempotent);
  if (schema) atl_put_text(writer, schema);
  else atl_put_null(writer);
}

static bool send_info(board_app *app) {
  atl_writer writer = atl_begin(&app->link, INFO, 5);
  atl_put_text(&writer, app->options.version);
  atl_put_text(&writer, app->options.hardware);
  atl_put_uint(&writer, app->options.reset_reason);
  atl_put_uint(&writer, uptime(app));
  atl_put_array(&writer, 6);
  command_info(&writer, "relay", true, "{\"type\":\"object\",\"properties\":{\"on\":{\"type\":\"boolean\"}},\"required\":[\"on\"]}");
  command_info(&writer, "echo", true, NULL);
  command_info(&writer, "double", true, NULL);
  command_info(&writer, "mute", false, NULL);
  command_info(&writer, "burst", false, NULL);
  command_info(&writer, "self-test", true, NULL);
  return atl_end(&writer);
}

static bool send_reading(board_app *app) {
  uint32_t now = uptime(app);
  atl_writer writer = atl_begin(&app->link, READINGS, 2);
  atl_put_uint(&writer, app->reading_id + 1);
  atl_put_array(&writer, 2);
  atl_reading_begin(&writer, "temperature");
  atl_put_decimal(&writer, (int32_t)(200 + app->reading_id % 50), -1);
  atl_reading_end(&writer, now, "Cel", 0);
  atl_reading_begin(&writer, "number");
  atl_put_uint(&writer, app->reading_id + 1);
  atl_reading_end(&writer, now, NULL, 0);
  if (!atl_end(&writer)) return false;
  app->reading_id++;
  return true;
}

/* Begins the answer; the caller puts the result. */
static atl_writer answer(board_app *app, uint32_t id, uint8_t status) {
  atl_writer writer = atl_begin(&app->link, ANSWER, 3);
  atl_put_uint(&writer, id);
  atl_put_uint(&writer, status);
  return writer;
}

static void answer_text(board_app *app, uint32_t id, uint8_t status, const char *text) {
  atl_writer writer = answer(app, id, status);
  atl_put_text(&writer, text);
  atl_end(&writer);
}

static void run_relay(board_app *app, uint32_t id, const atl_cursor *args) {
  atl_cursor value;
  bool on = atl_find(args, "on", &value) && atl_get_bool(&value);
  if (!atl_find(args, "on", &value) || (atl_get_bool(&value), atl_failed(&value))) {
    answer_text(app, id, ATL_REFUSED, "on: expected true or false");
    return;
  }
  app->relay_on = on;
  atl_writer writer = answer(app, id, ATL_DONE);
  atl_put_map(&writer, 1);
  atl_put_text(&writer, "on");
  atl_put_bool(&writer, app->relay_on);
  atl_end(&writer);
}

static void run_echo(board_app *app, uint32_t id, const atl_cursor *args) {
  atl_cursor value;
  size_t length = 0;
  const char *text = NULL;
  if (atl_find(args, "text", &value)) text = atl_get_text(&value, &length);
  if (!text || atl_failed(&value)) {
    answer_text(app, id, ATL_REFUSED, "text: expected a text");
    return;
  }
  atl_writer writer = answer(app, id, ATL_DONE);
  atl_put_array(&writer, 1);
  atl_put_bytes(&writer, (const uint8_t *)text, length);
  if (!atl_end(&writer)) answer_text(app, id, ATL_REFUSED, "too long for the queue");
}

static void run_double(board_app *app, uint32_t id, const atl_cursor *args) {
  atl_cursor value;
  int32_t hundredths = atl_find(args, "value", &value) ? atl_get_scaled(&value, 2) : 0;
  if (hundredths > INT32_MAX / 2 || hundredths < INT32_MIN / 2) {
    answer_text(app, id, ATL_REFUSED, "value: too large");
    return;
  }
  atl_writer writer = answer(app, id, ATL_DONE);
  atl_put_decimal(&writer, hundredths * 2, -2);
  atl_end(&writer);
}

/* Sends this many readings as fast as the line takes them. */
static void run_burst(board_app *app, uint32_t id, const atl_cursor *args) {
  atl_cursor value;
  app->burst_left = atl_find(args, "count", &value) ? atl_get_uint(&value) : 0;
  answer_text(app, id, ATL_DONE, "on their way");
}

static void on_command(board_app *app, atl_cursor *elements) {
  size_t length;
  uint32_t id = atl_get_uint(elements);
  const char *name = atl_get_text(elements, &length);
  if (atl_failed(elements)) return;
  app->commands_done++;
  if (app->on_command) app->on_command(name, length);
  if (atl_text_is(name, length, "relay")) run_relay(app, id, elements);
  else if (atl_text_is(name, length, "echo")) run_echo(app, id, elements);
  else if (atl_text_is(name, length, "double")) run_double(app, id, elements);
  else if (atl_text_is(name, length, "burst")) run_burst(app, id, elements);
  else if (atl_text_is(name, length, "mute")) return; /* never answers */
  else if (!atl_text_is(name, length, "self-test")) answer_text(app, id, ATL_REFUSED, "no such command");
  else if (app->options.self_test_passes) answer_text(app, id, ATL_DONE, "passed");
  else answer_text(app, id, ATL_REFUSED, "the sensor does not answer");
}

static void put_slots(atl_writer *writer, uint8_t *code) {
  slot_info slots[2];
  *code = slots_state(slots);
  atl_put_uint(writer, *code);
  atl_put_array(writer, (uint16_t)(slots[0].used + slots[1].used));
  for (uint8_t i = 0; i < 2; i++) {
    if (!slots[i].used) continue;
    atl_put_array(writer, 5);
    atl_put_uint(writer, i);
    atl_put_text(writer, slots[i].version);
    atl_put_bytes(writer, slots[i].sha256, 32);
    atl_put_uint(writer, slots[i].size);
    atl_put_uint(writer, slots[i].flags);
  }
}

static void on_update(board_app *app, atl_cursor *elements) {
  uint32_t operation = atl_get_uint(elements), offset = 0;
  size_t length = 0;
  uint8_t code = SLOT_BAD_REQUEST;
  const uint8_t *sha256 = NULL;
  bool tells_offset = operation == OP_BEGIN || operation == OP_DATA;
  if (operation == OP_BEGIN || operation == OP_TEST || operation == OP_CONFIRM) {
    sha256 = atl_get_bytes(elements, &length);
    if (length != 32) sha256 = NULL;
  }
  atl_writer writer = atl_begin(&app->link, UPDATED, tells_offset || operation == OP_STATE ? 3 : 2);
  atl_put_uint(&writer, operation);
  if (operation == OP_STATE) {
    put_slots(&writer, &code);
    atl_end(&writer);
    return;
  }
  if (operation == OP_BEGIN && sha256) {
    uint32_t size = atl_get_uint(elements);
    if (!atl_failed(elements)) code = slots_begin(sha256, size, &offset);
  } else if (operation == OP_DATA) {
    uint32_t at = atl_get_uint(elements);
    const uint8_t *bytes = atl_get_bytes(elements, &length);
    if (!atl_failed(elements)) code = slots_data(at, bytes, (uint32_t)length, &offset);
  } else if (operation == OP_FINISH) code = slots_finish();
  else if (operation == OP_TEST && sha256) code = slots_test(sha256);
  else if (operation == OP_CONFIRM && sha256) code = slots_confirm(sha256);
  else if (operation == OP_ERASE) code = slots_erase();
  else if (operation == OP_RESET) code = SLOT_OK;
  atl_put_uint(&writer, code);
  if (tells_offset) atl_put_uint(&writer, offset);
  atl_end(&writer);
  if (operation == OP_RESET) app->reset_due = true;
}

static void on_message(void *context, uint8_t kind, atl_cursor *elements) {
  board_app *app = context;
  if (kind == COMMAND) on_command(app, elements);
  else if (kind == UPDATE) on_update(app, elements);
  else if (kind == RECEIPT) app->accepted_id = atl_get_uint(elements);
}

static void on_event(void *context, atl_event event) {
  board_app *app = context;
  if (event == ATL_OPEN) app->info_due = true;
  if (app->on_event) app->on_event(event);
}

bool app_init(board_app *app, const atl_port *port, const app_options *options) {
  void (*event)(atl_event) = app->on_event;
  void (*command)(const char *, size_t) = app->on_command;
  memset(app, 0, sizeof *app);
  app->on_event = event;
  app->on_command = command;
  app->options = *options;
  atl_config config = {
      .port = *port,
      .context = app,
      .frame_bytes = options->frame_bytes,
      .window = options->window,
      .reset_reason = options->reset_reason,
      .allow_clear = options->allow_clear,
      .provisioning_key = options->provisioning_key,
      .retransmit_ms = options->retransmit_ms,
      .rx_frame = app->rx_frame,
      .tx_frame = app->tx_frame,
      .message = app->message,
      .message_bytes = sizeof app->message,
      .queue = app->queue,
      .queue_bytes = sizeof app->queue,
      .on_event = on_event,
      .on_message = on_message,
  };
  if (!atl_init(&app->link, &config)) return false;
  app->uptime_of_reading = uptime(app);
  return true;
}

bool app_turn(board_app *app) {
  atl_poll(&app->link);
  if (!atl_is_open(&app->link)) return app->reset_due;
  if (app->info_due) app->info_due = !send_info(app);
  if (app->info_due) return false;
  uint32_t every = app->options.reading_every_ms;
  if (every > 0 && (uint32_t)(uptime(app) - app->uptime_of_reading) >= every && send_reading(app)) {
    app->uptime_of_reading = uptime(app);
  }
  /* Bulk leaves room for answers. */
  while (app->burst_left > 0 && app->link.queue_end < APP_QUEUE_BYTES / 2 && send_reading(app)) app->burst_left--;
  return app->reset_due && app->link.queue_end == 0;
}
