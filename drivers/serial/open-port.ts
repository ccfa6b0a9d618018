import { readSync } from "node:fs";
import { access, constants } from "node:fs/promises";
import type { DriverDeps } from "../../core/driver.js";
import { codeOf, DeviceGone } from "../../core/errors.js";
import type { Port, Rs485Options } from "../../core/port.js";
import { untilAborted } from "../../core/scope.js";
import type { binding } from "./binding.js";
import { PortUnusable } from "./port-unusable.js";
import { setKernelRs485, writeWithRts } from "./rs485.js";

type Binding = Awaited<ReturnType<(typeof binding)["open"]>>;

const READ_BYTES = 16_384;

/**
 * Opens a tty for this process alone (flock). The library is loaded on the first call.
 *
 * Only its binding is used: its stream reads for ever, at full load, from a line that hung up during a read, because
 * it takes the 0 that a hung-up tty gives for an empty read.
 *
 * @throws {DeviceGone} when there is no such port, {PortUnusable} when it cannot be opened.
 */
export const openPort: DriverDeps["openPort"] = async (path, options, signal) => {
  await checkAccess(path);
  const { binding: library } = await import("./binding.js");
  signal.throwIfAborted();
  let binding: Binding;
  try {
    binding = await library.open({
      path,
      baudRate: options.baudRate,
      dataBits: options.dataBits ?? 8,
      parity: options.parity ?? "none",
      stopBits: options.stopBits ?? 1,
      lock: true,
    });
  } catch (cause) {
    throw new PortUnusable(`${path} cannot be opened; is another program using it?`, { cause });
  }
  const port = new TtyPort(path, binding, options.rs485?.mode === "rts" ? options.rs485 : undefined);
  try {
    signal.throwIfAborted();
    if (options.rs485) await port.prepare(options.rs485, signal);
    return port;
  } catch (error) {
    await port[Symbol.asyncDispose]();
    throw error;
  }
};

async function checkAccess(path: string): Promise<void> {
  try {
    await access(path, constants.R_OK | constants.W_OK);
  } catch (cause) {
    if (codeOf(cause) === "ENOENT") throw new DeviceGone(`${path} is not there; is the cable plugged in?`, { cause });
    throw new PortUnusable(`${path} may not be used; is the user in the group that owns it (dialout)?`, { cause });
  }
}

class TtyPort implements Port {
  readonly path: string;
  readonly #binding: Binding;
  readonly #rts: Rs485Options | undefined;
  readonly #gone = new AbortController();
  readonly #buffer = Buffer.allocUnsafe(READ_BYTES);
  #readable: Promise<void> | undefined;
  #writes: Promise<void> = Promise.resolve();
  #closed: Promise<void> | undefined;

  constructor(path: string, binding: Binding, rts: Rs485Options | undefined) {
    this.path = path;
    this.#binding = binding;
    this.#rts = rts;
  }

  /** Sets the line up for RS-485. @throws {PortUnusable} when the port has no such thing. */
  async prepare(rs485: Rs485Options, signal: AbortSignal): Promise<void> {
    const fd = this.#fd();
    if (rs485.mode === "kernel" && fd !== undefined) return setKernelRs485(this.path, fd, rs485, signal);
    await this.#binding.set({ rts: !rs485.rtsOnSend }).catch((cause: unknown) => {
      throw new PortUnusable(`${this.path} has no RTS to switch an RS-485 line by`, { cause });
    });
  }

  /** Nothing is read that is not asked for: what waits stays in the kernel, and the line's flow control takes over. */
  async *read(signal: AbortSignal): AsyncGenerator<Uint8Array> {
    while (!signal.aborted && !this.#gone.signal.aborted) {
      try {
        await untilAborted(this.#untilReadable(), signal);
      } catch (error) {
        if (error !== signal.reason) this.#hangUp(error);
        return;
      }
      const chunk = this.#readNow();
      if (chunk.length > 0) yield chunk;
    }
  }

  async write(bytes: Uint8Array, signal: AbortSignal): Promise<void> {
    const write = async (): Promise<void> => {
      signal.throwIfAborted();
      this.#gone.signal.throwIfAborted();
      const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
      const sending = this.#rts ? writeWithRts(this.#binding, buffer, this.#rts) : this.#binding.write(buffer);
      await sending.catch((error: unknown) => {
        throw this.#hangUp(error);
      });
    };
    const turn = this.#writes.then(write);
    this.#writes = turn.catch(() => undefined);
    await untilAborted(turn, signal);
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#hangUp(undefined);
    return (this.#closed ??= this.#binding.close());
  }

  /** A tty in non-blocking mode gives what is there, by a copy in memory; it needs no thread. */
  #readNow(): Uint8Array {
    const fd = this.#fd();
    if (fd === undefined) return Buffer.alloc(0);
    try {
      const count = readSync(fd, this.#buffer, 0, READ_BYTES, null);
      // With VMIN 1 an empty read is EAGAIN; 0 is a line that hung up (tty_io.c, hung_up_tty_read).
      if (count === 0) this.#hangUp(undefined);
      return Buffer.from(this.#buffer.subarray(0, count));
    } catch (error) {
      if (codeOf(error) !== "EAGAIN" && codeOf(error) !== "EINTR") this.#hangUp(error);
      return Buffer.alloc(0);
    }
  }

  /** One wait at a time, which outlives a reader that gave up. */
  #untilReadable(): Promise<void> {
    return (this.#readable ??= new Promise<void>((resolve, reject) => {
      if (!("poller" in this.#binding)) return reject(new PortUnusable("serial lines need Linux or macOS"));
      this.#binding.poller.once("readable", (error) => {
        this.#readable = undefined;
        if (error) reject(error);
        else resolve();
      });
    }));
  }

  #fd(): number | undefined {
    return "fd" in this.#binding ? (this.#binding.fd ?? undefined) : undefined;
  }

  #hangUp(cause: unknown): unknown {
    const options = cause === undefined ? undefined : { cause };
    if (!this.#gone.signal.aborted) this.#gone.abort(new DeviceGone(`${this.path} is closed`, options));
    return this.#gone.signal.reason;
  }
}
