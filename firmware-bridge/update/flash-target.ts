import { EdgeError } from "../../core/errors.js";

/** A firmware slot of a board. */
export interface Slot {
  readonly active: boolean;
  /** Stays after the next reset. */
  readonly confirmed: boolean;
  /** Is booted once at the next reset. */
  readonly pending: boolean;
  readonly version: string;
  /** What the board calls the image by; see {@link FlashTarget.hashOf}. */
  readonly hash: Uint8Array;
}

/** A board that takes firmware, whatever it speaks. Every call may be repeated after a cut. */
export interface FlashTarget {
  /** The hash by which the board names this image. */
  hashOf(image: Uint8Array): Uint8Array;
  slots(signal: AbortSignal): Promise<readonly Slot[]>;
  /** Into the inactive slot; goes on where an upload of the same image was cut. The board has checked it at the end. */
  upload(image: Uint8Array, progress: (sentBytes: number) => void, signal: AbortSignal): Promise<void>;
  /** Boots the image once at the next reset. */
  test(hash: Uint8Array, signal: AbortSignal): Promise<void>;
  /** Keeps the active image. */
  confirm(hash: Uint8Array, signal: AbortSignal): Promise<void>;
  erase(signal: AbortSignal): Promise<void>;
  /** The board restarts; this target is of no use afterwards. */
  reset(signal: AbortSignal): Promise<void>;
  /** A command of the firmware that tells whether it works; left out where the board has none. */
  readonly selfTest?: (command: string, signal: AbortSignal) => Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
}

/** The board refused a step: bad state, hash differs, too large. Repeating it will not help. */
export class FlashRefused extends EdgeError {
  override readonly code: string = "FLASH_REFUSED";
}
