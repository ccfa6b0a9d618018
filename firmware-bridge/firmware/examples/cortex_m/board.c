/*
 * The example board on a bare Cortex-M3 (LM3S6965): no operating system, no C library beyond memcpy and its like. Runs
 * under `qemu-system-arm -M lm3s6965evb -semihosting`; UART0 is the link.
 *
 * What the emulated chip does not have comes from the debugger's semihosting interface (Arm, "Semihosting for AArch32
 * and AArch64"): random bytes, a file for the stored secrets, a file `provision.key` with 32 bytes, and text output. A
 * real board uses its random number generator and its flash there.
 */
#include <string.h>

#include "../board_app.h"
#include "../slots.h"

#define REGISTER(address) (*(volatile uint32_t *)(address))
#define UART_DATA REGISTER(0x4000c000)
#define UART_FLAGS REGISTER(0x4000c018)
#define UART_CONTROL REGISTER(0x4000c030)
#define UART_LINE REGISTER(0x4000c02c)
#define UART_MASK REGISTER(0x4000c038)
#define UART_CLEAR REGISTER(0x4000c044)
#define SYSTICK_CONTROL REGISTER(0xe000e010)
#define SYSTICK_RELOAD REGISTER(0xe000e014)
#define NVIC_ENABLE REGISTER(0xe000e100)
#define APPLICATION_RESET REGISTER(0xe000ed0c)

enum { RX_EMPTY = 1 << 4, TX_FULL = 1 << 5, CLOCK_HZ = 12500000, UART0_IRQ = 5 };

/* ---- semihosting ------------------------------------------------------------------------------------------------- */

enum { SYS_OPEN = 1, SYS_CLOSE = 2, SYS_WRITE0 = 4, SYS_WRITE = 5, SYS_READ = 6, READ_BINARY = 1, WRITE_BINARY = 5 };

static uint32_t host(uint32_t operation, const void *arguments) {
  register uint32_t r0 __asm__("r0") = operation;
  register const void *r1 __asm__("r1") = arguments;
  __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
  return r0;
}

/* Reads or writes a whole file of the debugger's folder; true when all bytes went. */
static bool file(const char *name, uint32_t mode, void *bytes, size_t count) {
  uint32_t open[] = {(uint32_t)(uintptr_t)name, mode, (uint32_t)strlen(name)};
  uint32_t handle = host(SYS_OPEN, open);
  if (handle == 0xffffffffu) return false;
  uint32_t move[] = {handle, (uint32_t)(uintptr_t)bytes, (uint32_t)count};
  uint32_t left = host(mode == READ_BINARY ? SYS_READ : SYS_WRITE, move);
  host(SYS_CLOSE, &handle);
  return left == 0;
}

static void say(const char *text) { host(SYS_WRITE0, text); }

/* ---- the port ---------------------------------------------------------------------------------------------------- */

static volatile uint32_t ticks;
/* Filled by the interrupt: what a window of frames takes. */
static volatile uint8_t received[2048];
static volatile uint16_t received_in, received_out;

void systick_handler(void);
void uart_handler(void);
void reset_handler(void);

void systick_handler(void) { ticks++; }

void uart_handler(void) {
  UART_CLEAR = 0x7ff;
  while (!(UART_FLAGS & RX_EMPTY)) {
    received[received_in] = (uint8_t)UART_DATA;
    uint16_t next = (uint16_t)((received_in + 1) % sizeof received);
    if (next != received_out) received_in = next; /* a host that keeps to the window never fills it */
  }
}

static size_t port_read(void *context, uint8_t *bytes, size_t max) {
  (void)context;
  size_t count = 0;
  while (count < max && received_out != received_in) {
    bytes[count++] = received[received_out];
    received_out = (uint16_t)((received_out + 1) % sizeof received);
  }
  return count;
}

static size_t port_write(void *context, const uint8_t *bytes, size_t max) {
  (void)context;
  size_t count = 0;
  while (count < max && !(UART_FLAGS & TX_FULL)) UART_DATA = bytes[count++];
  return count;
}

static uint32_t port_time(void *context) {
  (void)context;
  return ticks;
}

static void port_random(void *context, uint8_t *bytes, size_t count) {
  (void)context;
  while (!file("/dev/urandom", READ_BINARY, bytes, count)) {
  }
}

static bool port_store(void *context, uint8_t *record, bool save) {
  (void)context;
  return file("store.bin", save ? WRITE_BINARY : READ_BINARY, record, ATL_STORE_BYTES);
}

/* ---- this example has no second slot ------------------------------------------------------------------------------- */

uint8_t slots_state(slot_info out[2]) {
  memset(out, 0, 2 * sizeof *out);
  return SLOT_NOT_SUPPORTED;
}
uint8_t slots_begin(const uint8_t sha256[32], uint32_t size, uint32_t *offset) {
  (void)sha256, (void)size, (void)offset;
  return SLOT_NOT_SUPPORTED;
}
uint8_t slots_data(uint32_t offset, const uint8_t *bytes, uint32_t count, uint32_t *next) {
  (void)offset, (void)bytes, (void)count, (void)next;
  return SLOT_NOT_SUPPORTED;
}
uint8_t slots_finish(void) { return SLOT_NOT_SUPPORTED; }
uint8_t slots_test(const uint8_t sha256[32]) {
  (void)sha256;
  return SLOT_NOT_SUPPORTED;
}
uint8_t slots_confirm(const uint8_t sha256[32]) {
  (void)sha256;
  return SLOT_NOT_SUPPORTED;
}
uint8_t slots_erase(void) { return SLOT_NOT_SUPPORTED; }

/* ---- start --------------------------------------------------------------------------------------------------------- */

static void on_event(atl_event event) {
  static const char *const names[] = {"closed\n", "open\n", "resumed\n", "digits\n", "paired\n", "pairing-failed\n"};
  say(names[event]);
}

static void run(void) {
  static board_app app;
  static uint8_t key[32];
  static const atl_port port = {port_read, port_write, port_time, port_random, port_store};
  app_options options = {.version = "1.0.0",
                         .hardware = "lm3s6965",
                         .reset_reason = ATL_POWER_ON,
                         .frame_bytes = 508,
                         .window = 2,
                         .reading_every_ms = 100,
                         .retransmit_ms = 100,
                         .self_test_passes = true};
  if (file("provision.key", READ_BINARY, key, sizeof key)) options.provisioning_key = key;
  app.on_event = on_event;
  if (!app_init(&app, &port, &options)) say("bad options\n");
  if (!atl_is_paired(&app.link)) atl_open_pairing(&app.link, true);
  say("boot\n");
  while (!app_turn(&app)) {
    /* Until the next millisecond or byte, unless there is something left to send. */
    if (app.link.tx_at == app.link.tx_end && received_in == received_out) __asm__ volatile("wfi");
  }
  APPLICATION_RESET = 0x05fa0004;
}

extern uint32_t data_start, data_end, data_load, bss_start, bss_end;
extern void stack_top(void); /* where the stack begins; a function's type, as the table wants it */

void reset_handler(void) {
  memcpy(&data_start, &data_load, (size_t)((uint8_t *)&data_end - (uint8_t *)&data_start));
  memset(&bss_start, 0, (size_t)((uint8_t *)&bss_end - (uint8_t *)&bss_start));
  UART_LINE = 0x70; /* 8 bits, FIFO */
  UART_CONTROL = 0x301;
  UART_MASK = 0x50; /* bytes came, or came and paused */
  NVIC_ENABLE = 1u << UART0_IRQ;
  SYSTICK_RELOAD = CLOCK_HZ / 1000 - 1;
  SYSTICK_CONTROL = 7;
  run();
  for (;;) {
  }
}

static void fault_handler(void) {
  say("fault\n");
  APPLICATION_RESET = 0x05fa0004;
}

__attribute__((section(".vectors"), used)) static void (*const vectors[16 + 8])(void) = {
    [0] = stack_top, [1] = reset_handler,  [2] = fault_handler,   [3] = fault_handler,
    [4] = fault_handler,              [5] = fault_handler,  [6] = fault_handler,   [11] = fault_handler,
    [14] = fault_handler,             [15] = systick_handler, [16 + UART0_IRQ] = uart_handler,
};
