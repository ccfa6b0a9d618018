/*
 * A board as a process: the link on a pty, secrets and two firmware slots in files of one folder. kill -9 is its power
 * cut. Prints `pty PATH`, then what happens, a line each; takes lines on stdin: `pair`, `confirm`, `reject`, `unpair`,
 * `reset N`, `burst N`, `counter N`, `counters`, `relay`.
 *
 * A firmware image here is `ATFW`, a behaviour letter, a version text ended by a newline, and anything. Behaviours:
 * G good, X crashes while it starts, L never speaks, S fails its self-test.
 */
#define _XOPEN_SOURCE 700
#define _DEFAULT_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "board_app.h"
#include "slots.h"
#include "slots_files.h"

static int line_fd = -1;
static const char *folder = ".";
static board_app app;
static uint32_t started_ms;
static uint8_t key[32];

static uint32_t monotonic_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint32_t)(now.tv_sec * 1000 + now.tv_nsec / 1000000);
}

static void die(const char *what) {
  perror(what);
  exit(1);
}

static size_t port_read(void *context, uint8_t *bytes, size_t max) {
  (void)context;
  ssize_t count = read(line_fd, bytes, max);
  return count > 0 ? (size_t)count : 0;
}

static size_t port_write(void *context, const uint8_t *bytes, size_t max) {
  (void)context;
  ssize_t count = write(line_fd, bytes, max);
  return count > 0 ? (size_t)count : 0;
}

static uint32_t port_time(void *context) {
  (void)context;
  return monotonic_ms() - started_ms;
}

static void port_random(void *context, uint8_t *bytes, size_t count) {
  (void)context;
  randombytes_buf(bytes, count);
}

static bool port_store(void *context, uint8_t *record, bool save) {
  (void)context;
  if (save) return file_replace(folder, "store.bin", record, ATL_STORE_BYTES);
  return file_load(folder, "store.bin", record, ATL_STORE_BYTES) == ATL_STORE_BYTES;
}

static void say(const char *text) {
  printf("%s\n", text);
  fflush(stdout);
}

static void on_event(atl_event event) {
  if (event == ATL_DIGITS) {
    printf("digits %06u\n", (unsigned)atl_digits(&app.link));
    fflush(stdout);
  } else {
    static const char *const names[] = {"closed", "open", "resumed", "digits", "paired", "pairing-failed"};
    say(names[event]);
  }
}

static void on_command(const char *name, size_t length) {
  printf("command %.*s\n", (int)length, name);
  fflush(stdout);
}

/* One line from stdin; false at its end. `reset` is set when the board is to restart. */
static void control(const char *line, int *reset) {
  unsigned number = 0;
  sscanf(line, "%*s %u", &number);
  if (strncmp(line, "pair", 4) == 0) atl_open_pairing(&app.link, true);
  else if (strncmp(line, "confirm", 7) == 0) atl_confirm_pairing(&app.link, true);
  else if (strncmp(line, "reject", 6) == 0) atl_confirm_pairing(&app.link, false);
  else if (strncmp(line, "unpair", 6) == 0) atl_forget(&app.link);
  else if (strncmp(line, "reset", 5) == 0) *reset = (int)number;
  else if (strncmp(line, "burst", 5) == 0) app.burst_left = number;
  else if (strncmp(line, "counters", 8) == 0) {
    const atl_counters *c = &app.link.counters;
    printf("counters in=%u bad=%u refused=%u sent=%u resent=%u received=%u repeated=%u naks=%u accepted=%u commands=%u\n",
           (unsigned)c->frames_in, (unsigned)c->bad_frames, (unsigned)c->refused_frames, (unsigned)c->sent,
           (unsigned)c->resent, (unsigned)c->received, (unsigned)c->repeated, (unsigned)c->naks,
           (unsigned)app.accepted_id, (unsigned)app.commands_done);
    fflush(stdout);
  } else if (strncmp(line, "counter", 7) == 0) app.link.keys.sent = number;
  else if (strncmp(line, "relay", 5) == 0) say(app.relay_on ? "relay on" : "relay off");
}

static void read_control(int *reset) {
  static char line[128];
  static size_t used;
  char byte;
  ssize_t count;
  while ((count = read(STDIN_FILENO, &byte, 1)) == 1) {
    if (byte == '\n') {
      line[used] = 0;
      used = 0;
      control(line, reset);
    } else if (used + 1 < sizeof line) {
      line[used++] = byte;
    }
  }
  if (count == 0) exit(0);
}

/* Runs one life of the board, and gives the reason of the reset that ended it. */
static int run(app_options options, uint32_t trial_ms) {
  static const atl_port port = {port_read, port_write, port_time, port_random, port_store};
  firmware running = slots_boot();
  started_ms = monotonic_ms();
  printf("boot slot=%d version=%s trial=%d\n", running.slot, running.version, running.trial);
  fflush(stdout);
  if (running.behaviour == 'X' || running.behaviour == 'L') {
    usleep(running.behaviour == 'X' ? 100000 : 1000000);
    return ATL_WATCHDOG;
  }
  options.version = running.version;
  options.self_test_passes = running.behaviour != 'S';
  app.on_event = on_event;
  app.on_command = on_command;
  if (!app_init(&app, &port, &options)) {
    fprintf(stderr, "the options are out of bounds\n");
    exit(2);
  }
  int reset = -1;
  while (reset < 0) {
    if (app_turn(&app)) return ATL_SOFTWARE;
    /* A firmware on trial that nobody confirms goes back by itself: the host may be gone for good. */
    if (slots_on_trial() && port_time(NULL) > trial_ms) return ATL_WATCHDOG;
    bool pending = app.link.tx_at < app.link.tx_end;
    struct pollfd fds[] = {{line_fd, (short)(POLLIN | (pending ? POLLOUT : 0)), 0}, {STDIN_FILENO, POLLIN, 0}};
    poll(fds, 2, app.burst_left > 0 ? 1 : 5);
    if (fds[1].revents != 0) read_control(&reset);
  }
  return reset;
}

static void open_line(const char *link_path) {
  line_fd = posix_openpt(O_RDWR | O_NOCTTY);
  if (line_fd < 0 || grantpt(line_fd) != 0 || unlockpt(line_fd) != 0) die("posix_openpt");
  const char *name = ptsname(line_fd);
  int slave = open(name, O_RDWR | O_NOCTTY); /* stays open, so that the pty outlives each host */
  struct termios raw;
  if (slave < 0 || tcgetattr(slave, &raw) != 0) die(name);
  cfmakeraw(&raw);
  tcsetattr(slave, TCSANOW, &raw);
  fcntl(line_fd, F_SETFL, O_NONBLOCK);
  if (link_path) {
    unlink(link_path);
    if (symlink(name, link_path) != 0) die(link_path);
  }
  printf("pty %s\n", name);
  fflush(stdout);
}

static void load_key(const char *path) {
  char hex[65] = {0};
  FILE *file = fopen(path, "r");
  size_t length = 0;
  if (!file || fread(hex, 1, 64, file) != 64 || sodium_hex2bin(key, 32, hex, 64, NULL, &length, NULL) != 0 || length != 32) {
    fprintf(stderr, "%s: expected 64 hexadecimal digits\n", path);
    exit(2);
  }
  fclose(file);
}

int main(int argc, char **argv) {
  app_options options = {.hardware = "host-board",
                         .reset_reason = ATL_POWER_ON,
                         .frame_bytes = 508,
                         .window = 2,
                         .reading_every_ms = 1000,
                         .retransmit_ms = 60};
  const char *link_path = NULL;
  uint32_t trial_ms = 30000;
  for (int option; (option = getopt(argc, argv, "d:l:f:w:r:t:T:k:cR:")) != -1;) {
    if (option == 'd') folder = optarg;
    else if (option == 'l') link_path = optarg;
    else if (option == 'f') options.frame_bytes = (uint16_t)atoi(optarg);
    else if (option == 'w') options.window = (uint8_t)atoi(optarg);
    else if (option == 'r') options.reading_every_ms = (uint32_t)atoi(optarg);
    else if (option == 't') options.retransmit_ms = (uint32_t)atoi(optarg);
    else if (option == 'T') trial_ms = (uint32_t)atoi(optarg);
    else if (option == 'R') options.reset_reason = (uint8_t)atoi(optarg);
    else if (option == 'c') options.allow_clear = true;
    else if (option == 'k') {
      load_key(optarg);
      options.provisioning_key = key;
    } else {
      fprintf(stderr, "usage: host-board -d FOLDER [-l LINK] [-f FRAME] [-w WINDOW] [-r READING_MS] [-t RETRANSMIT_MS] "
                      "[-T TRIAL_MS] [-k KEY_FILE] [-R RESET_REASON] [-c]\n");
      return 2;
    }
  }
  if (sodium_init() < 0) return 1;
  fcntl(STDIN_FILENO, F_SETFL, O_NONBLOCK);
  slots_open(folder);
  open_line(link_path);
  for (;;) options.reset_reason = (uint8_t)run(options, trial_ms);
}
