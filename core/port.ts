/** How the direction of a half-duplex RS-485 line is switched, where the adapter does not do it by itself. */
export interface Rs485Options {
  /** `kernel`: by the UART's own driver, to the bit. `rts`: by us around each write, to some milliseconds. */
  readonly mode: "kernel" | "rts";
  /** Level of RTS while sending. */
  readonly rtsOnSend: boolean;
  readonly delayBeforeMs: number;
  readonly delayAfterMs: number;
}

export interface PortOptions {
  readonly baudRate: number;
  readonly dataBits?: 7 | 8;
  readonly parity?: "none" | "even" | "odd";
  readonly stopBits?: 1 | 2;
  readonly rs485?: Rs485Options;
}

/** A byte stream to a device, whoever opened it: a tty, a pty, a pair in a test. */
export interface Port {
  readonly path: string;
  /** Chunks as they come; ends when the port closes or `signal` aborts. One reader at a time. */
  read(signal: AbortSignal): AsyncIterable<Uint8Array>;
  /** Resolves when the bytes have left our side. @throws DeviceGone when the port is closed. */
  write(bytes: Uint8Array, signal: AbortSignal): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
}
