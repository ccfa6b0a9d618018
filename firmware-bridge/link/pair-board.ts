import { randomBytes } from "node:crypto";
import type { Clock } from "../../core/clock.js";
import { DeviceGone } from "../../core/errors.js";
import type { Port } from "../../core/port.js";
import { ChildSignal } from "../../core/scope.js";
import { CobsFramer } from "./cobs.js";
import { MAX_FRAME_BYTES, parseBoardFrame, toWire } from "./frames.js";
import { PairingFailed } from "./link-errors.js";
import type { LinkRecord } from "./link-record.js";
import { HostPairing, type PairingResult } from "./pairing.js";

export interface PairBoardOptions {
  readonly port: Port;
  readonly clock: Clock;
  /** 32 bytes; left out: six digits, and `confirm` is asked. */
  readonly provisioningKey?: Uint8Array | undefined;
  /** Shows the digits, and tells whether the board shows the same. */
  readonly confirm: (digits: string) => Promise<boolean>;
  readonly timeoutMs: number;
}

/**
 * Pairs with the board at the port. The caller stores the record.
 *
 * @throws {PairingFailed} when the board refuses, somebody is on the wire, the digits differ, or nothing comes in time.
 */
export async function pairBoard(options: PairBoardOptions, signal: AbortSignal): Promise<LinkRecord> {
  const result = await exchange(options, signal);
  if (result.digits === undefined || (await options.confirm(result.digits))) return result.record;
  throw new PairingFailed("the digits differ: somebody may be on the wire; nothing was stored");
}

async function exchange(
  { port, clock, provisioningKey, timeoutMs }: PairBoardOptions,
  signal: AbortSignal,
): Promise<PairingResult> {
  await using child = new ChildSignal(signal);
  const pairing = new HostPairing({ provisioningKey, random: randomBytes });
  const framer = new CobsFramer({ maxBytes: MAX_FRAME_BYTES });
  const send = async (): Promise<void> => {
    const frame = pairing.tick(clock.monotonicMs());
    if (frame) await port.write(Buffer.concat([Buffer.alloc(1), toWire(frame)]), child.signal);
  };
  const repeat = async (): Promise<never> => {
    const endMs = clock.monotonicMs() + timeoutMs;
    while (clock.monotonicMs() < endMs) {
      await send();
      const waitMs = Math.min(pairing.wakeAtMs, endMs) - clock.monotonicMs();
      await clock.sleep(Math.max(1, Math.ceil(waitMs)), child.signal);
    }
    if (!pairing.refusedAsClosed) throw new PairingFailed(`the board did not answer within ${timeoutMs} ms`);
    throw new PairingFailed("the board is not open for pairing, or pairs by the other method");
  };
  const receive = async (): Promise<PairingResult> => {
    for await (const chunk of port.read(child.signal)) {
      for (const bytes of framer.push(chunk)) {
        const frame = bytes && parseBoardFrame(bytes);
        const result = frame && pairing.receive(frame);
        if (result) return result;
      }
      await send();
    }
    child.signal.throwIfAborted();
    throw new DeviceGone(`${port.path} closed`);
  };
  const repeating = repeat();
  repeating.catch(() => undefined);
  const receiving = receive();
  try {
    return await Promise.race([receiving, repeating]);
  } finally {
    child.abort();
    await receiving.catch(() => undefined);
  }
}
