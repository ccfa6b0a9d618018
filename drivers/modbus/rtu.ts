import type { Clock } from "../../core/clock.js";
import { DeviceGone, SyntaxInvalid } from "../../core/errors.js";
import type { Port } from "../../core/port.js";
import { ChildSignal, untilAborted } from "../../core/scope.js";
import { checksumOf } from "../checksum.js";
import { within } from "../within.js";
import { answerLength } from "./pdu.js";
import type { ModbusTransport } from "./transport.js";

const MAX_FRAME_BYTES = 256;

export interface RtuOptions {
  readonly port: Port;
  readonly clock: Clock;
  readonly baudRate: number;
  readonly timeoutMs: number;
}

/** Modbus RTU on a serial line (Modbus over Serial Line V1.02, section 2.5.1). */
export class RtuTransport implements ModbusTransport {
  readonly #options: RtuOptions;
  readonly #reading: Promise<never>;
  readonly #closed = new AbortController();
  #received = Buffer.alloc(0);
  #wake: (() => void) | undefined;

  constructor(options: RtuOptions) {
    this.#options = options;
    this.#reading = this.#read();
    this.#reading.catch(() => undefined);
  }

  async request(unitId: number, pdu: Buffer, signal: AbortSignal): Promise<Buffer> {
    const { port, clock, baudRate, timeoutMs } = this.#options;
    await using child = new ChildSignal(signal);
    // Silence of 3.5 characters of 11 bits parts frames, 1.75 ms from 19,200 baud on.
    await clock.sleep(Math.ceil(baudRate > 19_200 ? 1.75 : 38_500 / baudRate), child.signal);
    this.#received = Buffer.alloc(0); // A late answer to an earlier request.
    const body = Buffer.concat([Buffer.from([unitId]), pdu]);
    const options = { ms: timeoutMs, clock, what: `unit ${unitId}` };
    const ask = async (inner: AbortSignal): Promise<Buffer> => {
      await port.write(Buffer.concat([body, checksumOf("crc16-modbus", body)]), inner);
      return this.#answer(unitId, inner);
    };
    return await Promise.race([this.#reading, within(ask, options, child.signal)]);
  }

  untilGone(signal: AbortSignal): Promise<never> {
    return untilAborted(this.#reading, signal);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed.abort();
    await this.#options.port[Symbol.asyncDispose]();
  }

  async #answer(unitId: number, signal: AbortSignal): Promise<Buffer> {
    for (;;) {
      const length = answerLength(this.#received.subarray(1));
      if (length !== undefined && this.#received.length >= length + 3) {
        const frame = this.#received.subarray(0, length + 3);
        const body = frame.subarray(0, -2);
        if (!checksumOf("crc16-modbus", body).equals(frame.subarray(-2))) {
          throw new SyntaxInvalid(`Modbus: false checksum in the answer of unit ${unitId}`);
        }
        if (frame[0] !== unitId) throw new SyntaxInvalid(`Modbus: unit ${frame[0] ?? 0} answers for unit ${unitId}`);
        return Buffer.from(body.subarray(1));
      }
      await untilAborted(new Promise<void>((resolve) => (this.#wake = resolve)), signal);
    }
  }

  async #read(): Promise<never> {
    const { port } = this.#options;
    for await (const chunk of port.read(this.#closed.signal)) {
      this.#received = Buffer.concat([this.#received, chunk]).subarray(0, MAX_FRAME_BYTES);
      this.#wake?.();
    }
    throw new DeviceGone(`${port.path} went away`);
  }
}
