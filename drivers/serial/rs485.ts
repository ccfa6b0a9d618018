import { spawn } from "node:child_process";
import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import type { Rs485Options } from "../../core/port.js";
import { PortUnusable } from "./port-unusable.js";

/** Bits of `flags` (linux/serial.h). */
const ENABLED = 1;
const RTS_ON_SEND = 2;
const RTS_AFTER_SEND = 4;
const ENOTTY = "25";

/**
 * Node has no ioctl(2). Perl has, and is on every Debian (package perl-base). The port is its standard input: 0x542f is
 * TIOCSRS485 and 0x542e TIOCGRS485 (asm-generic/ioctls.h, as on x86 and Arm). It prints what the kernel made of it.
 */
const PERL = `
my $rs485 = pack("H*", $ARGV[0]);
ioctl(STDIN, 0x542f, $rs485) or do { print STDERR $! + 0; exit 1 };
ioctl(STDIN, 0x542e, $rs485) or do { print STDERR $! + 0; exit 1 };
print unpack("H64", $rs485);`;

/** `struct serial_rs485` of linux/serial.h: flags, two delays in milliseconds, 20 bytes for later. */
export function rs485Struct({ rtsOnSend, delayBeforeMs, delayAfterMs }: Rs485Options): Buffer {
  const struct = Buffer.alloc(32);
  const words = [ENABLED | (rtsOnSend ? RTS_ON_SEND : RTS_AFTER_SEND), delayBeforeMs, delayAfterMs];
  // Raspberry Pi and PC: the kernel's order is the processor's, which is little-endian.
  words.forEach((word, at) => struct.writeUInt32LE(word, at * 4));
  return struct;
}

/** Has the driver of the UART switch the line. @throws {PortUnusable} when it cannot. */
export async function setKernelRs485(
  path: string,
  fd: number,
  options: Rs485Options,
  signal: AbortSignal,
): Promise<void> {
  const child = spawn("perl", ["-e", PERL, rs485Struct(options).toString("hex")], {
    stdio: [fd, "pipe", "pipe"],
    env: { PATH: "/usr/bin:/bin", LC_ALL: "C" },
    signal,
  });
  let [made, errno] = ["", ""];
  child.stdout?.setEncoding("latin1").on("data", (text: string) => (made += text));
  child.stderr?.setEncoding("latin1").on("data", (text: string) => (errno += text));
  await once(child, "close").catch((cause: unknown) => {
    signal.throwIfAborted();
    throw new PortUnusable(`${path}: rs485.mode = "kernel" needs perl (Debian package perl-base)`, { cause });
  });
  const isEnabled = made.length >= 8 && (Buffer.from(made, "hex").readUInt32LE(0) & ENABLED) !== 0;
  if (isEnabled) return;
  const why =
    errno === "" || errno === ENOTTY ? "the driver of this port has no RS-485 mode" : `error ${errno.slice(0, 20)}`;
  throw new PortUnusable(
    `${path}: ${why}; leave rs485 out when the adapter switches by itself, or try rs485.mode = "rts"`,
  );
}

/** What of a port switches the line. */
export interface RtsPort {
  set(options: { readonly rts: boolean }): Promise<void>;
  write(bytes: Buffer): Promise<void>;
  drain(): Promise<void>;
}

/** Sends with RTS at its level for sending, until the last bit has left. */
export async function writeWithRts(
  port: RtsPort,
  bytes: Buffer,
  { rtsOnSend, delayBeforeMs, delayAfterMs }: Rs485Options,
): Promise<void> {
  await port.set({ rts: rtsOnSend });
  try {
    if (delayBeforeMs > 0) await sleep(delayBeforeMs);
    await port.write(bytes);
    await port.drain();
    if (delayAfterMs > 0) await sleep(delayAfterMs);
  } finally {
    await port.set({ rts: !rtsOnSend });
  }
}
