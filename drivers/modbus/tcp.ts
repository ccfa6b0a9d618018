import { once } from "node:events";
import { connect, type Socket } from "node:net";
import type { Clock } from "../../core/clock.js";
import { DeviceGone, SyntaxInvalid } from "../../core/errors.js";
import { untilAborted } from "../../core/scope.js";
import { within } from "../within.js";
import type { ModbusTransport } from "./transport.js";

/** Transaction, protocol 0, length, unit (Modbus Messaging on TCP/IP V1.0b, section 3.1.3). */
const HEADER_BYTES = 7;
const MAX_PDU_BYTES = 253;

export interface TcpOptions {
  readonly host: string;
  readonly port: number;
  readonly clock: Clock;
  readonly timeoutMs: number;
}

/** @throws {DeviceGone} when nobody answers there. */
export async function openTcp(options: TcpOptions, signal: AbortSignal): Promise<ModbusTransport> {
  const { host, port, clock, timeoutMs } = options;
  const socket = connect({ host, port, noDelay: true });
  try {
    const what = { ms: Math.max(timeoutMs, 3000), clock, what: `connect to ${host}:${port}` };
    await within((inner) => once(socket, "connect", { signal: inner }), what, signal);
  } catch (cause) {
    socket.destroy();
    signal.throwIfAborted();
    throw new DeviceGone(`${host}:${port} cannot be reached`, { cause });
  }
  return new TcpTransport(socket, options);
}

class TcpTransport implements ModbusTransport {
  readonly #socket: Socket;
  readonly #options: TcpOptions;
  readonly #gone = new AbortController();
  #transaction = 0;
  #received = Buffer.alloc(0);
  #answer: { readonly transaction: number; readonly resolve: (pdu: Buffer) => void } | undefined;

  constructor(socket: Socket, options: TcpOptions) {
    this.#socket = socket;
    this.#options = options;
    socket.on("data", (chunk: Buffer) => this.#take(chunk));
    socket.on("error", (error) => this.#end(error));
    socket.on("close", () => this.#end(undefined));
  }

  async request(unitId: number, pdu: Buffer, signal: AbortSignal): Promise<Buffer> {
    const { clock, timeoutMs } = this.#options;
    const transaction = (this.#transaction = (this.#transaction + 1) & 0xffff);
    const header = Buffer.alloc(HEADER_BYTES);
    header.writeUInt16BE(transaction, 0);
    header.writeUInt16BE(pdu.length + 1, 4);
    header.writeUInt8(unitId, 6);
    const ask = (inner: AbortSignal): Promise<Buffer> => {
      const answered = new Promise<Buffer>((resolve) => (this.#answer = { transaction, resolve }));
      this.#socket.write(Buffer.concat([header, pdu]));
      return untilAborted(untilAborted(answered, this.#gone.signal), inner);
    };
    return await within(ask, { ms: timeoutMs, clock, what: `unit ${unitId}` }, signal);
  }

  untilGone(signal: AbortSignal): Promise<never> {
    return untilAborted(untilAborted(new Promise<never>(() => undefined), this.#gone.signal), signal);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#end(undefined);
    this.#socket.destroy();
  }

  #take(chunk: Buffer): void {
    this.#received = Buffer.concat([this.#received, chunk]);
    while (this.#received.length >= HEADER_BYTES) {
      const length = this.#received.readUInt16BE(4);
      if (this.#received.readUInt16BE(2) !== 0 || length < 2 || length > MAX_PDU_BYTES + 1) {
        this.#end(new SyntaxInvalid("Modbus: no frame of Modbus TCP"));
        this.#socket.destroy();
        return;
      }
      if (this.#received.length < length + HEADER_BYTES - 1) return;
      const transaction = this.#received.readUInt16BE(0);
      const pdu = Buffer.from(this.#received.subarray(HEADER_BYTES, length + HEADER_BYTES - 1));
      this.#received = this.#received.subarray(length + HEADER_BYTES - 1);
      // An answer that comes too late has another number.
      if (this.#answer?.transaction === transaction) this.#answer.resolve(pdu);
    }
  }

  #end(cause: unknown): void {
    const { host, port } = this.#options;
    const options = cause === undefined ? undefined : { cause };
    if (!this.#gone.signal.aborted) this.#gone.abort(new DeviceGone(`${host}:${port} is gone`, options));
  }
}
