import type { KeyObject } from "node:crypto";
import { EdgeError } from "../core/errors.js";
import type { PeerRecords } from "../messages/peer-trust.js";

/** Server or link do not answer now; nothing is wrong with what was asked. Trying again may help. */
export class PlatformUnavailable extends EdgeError {
  override readonly code = "PLATFORM_UNAVAILABLE";
}

/** A notification as it came. Everything in it is only what an atServer says. */
export interface Incoming {
  readonly id: string;
  readonly from: string;
  /** Without `@to:` and `@from`, e.g. `telemetry.north.atedge`. */
  readonly key: string;
  /** `@to:key@from`, what a seal covers. */
  readonly atKey: string;
  /** When our atServer got it, milliseconds since 1970. */
  readonly epochMillis: number;
  readonly isEncrypted: boolean;
  /** @throws {PlatformUnavailable} @throws {EdgeError} when it cannot be decrypted. */
  decrypt(signal: AbortSignal): Promise<{ readonly text: string; readonly aesKey: Uint8Array }>;
}

/** Where a monitor goes on after a restart, as JSON text that only the platform understands. */
export interface ResumeState {
  load(): string | undefined;
  save(state: string): Promise<void>;
}

/** What watching and calling need of the atPlatform: all of it as one atSign, texts encrypted on the way. */
export interface Platform extends PeerRecords {
  readonly atSign: string;
  /** Signs in the name of our atSign. */
  readonly privateKey: KeyObject;
  /** The AES key for what we send to `peer`; made when there is none. */
  sharedKeyFor(peer: string, signal: AbortSignal): Promise<{ readonly aesKey: Uint8Array }>;
  /** Writes the record `@peer:name@us`. */
  putShared(peer: string, name: string, text: string, signal: AbortSignal): Promise<void>;
  /** Resolves when our own atServer has taken it. The same id again is no second notification. */
  notify(
    message: {
      readonly id: string;
      readonly to: string;
      readonly name: string;
      readonly text: string;
      readonly aesKey: Uint8Array;
      readonly ttlnMs: number;
    },
    signal: AbortSignal,
  ): Promise<void>;
  /**
   * For ever, reconnecting by itself, repeats dropped. Begins where `resume` ended, else with what our atServer has
   * stored since a time (milliseconds since 1970, its clock), or with what comes from now on.
   */
  notifications(
    options: { readonly regex: string; readonly resume?: ResumeState; readonly since?: number | "live" },
    signal: AbortSignal,
  ): AsyncIterable<Incoming>;
}
