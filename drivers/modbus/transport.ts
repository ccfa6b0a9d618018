import type { Disposable } from "../../core/scope.js";

/** A way to the devices of one bus. One request at a time; the caller keeps that. */
export interface ModbusTransport extends Disposable {
  /**
   * The answer to a request, both without address and checksum.
   *
   * @throws {TimedOut} when none comes, {DeviceGone} when the way is gone, {SyntaxInvalid} for a damaged answer.
   */
  request(unitId: number, pdu: Buffer, signal: AbortSignal): Promise<Buffer>;
  /** Rejects with {DeviceGone} when the way is gone, or with the signal's reason. */
  untilGone(signal: AbortSignal): Promise<never>;
}
