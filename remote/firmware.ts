import { randomUUID } from "node:crypto";
import * as v from "valibot";
import { backoff } from "../core/backoff.js";
import { systemClock, type Clock } from "../core/clock.js";
import { EdgeError, SyntaxInvalid } from "../core/errors.js";
import type { Log } from "../core/log.js";
import { FIRMWARE_PIECE_BYTES } from "../firmware-bridge/update/firmware-commands.js";
import type { SignedManifest } from "../firmware-bridge/update/manifest.js";
import { UPDATE_ENDS, UPDATE_STEPS } from "../firmware-bridge/update/update-store.js";
import { call, type CallOptions, type CallOutcome } from "./call.js";
import { PlatformUnavailable } from "./platform.js";
import type { Session } from "./session.js";

/** The device did not do it; `reason` is the device's, or "offline". */
export class FirmwareRefused extends EdgeError {
  override readonly code = "FIRMWARE_REFUSED";
  readonly reason: string;

  constructor(reason: string, message: string) {
    super(message);
    this.reason = reason;
  }
}

const count = v.pipe(v.number(), v.minValue(0));
const statusSchema = v.looseObject({
  floor: count,
  update: v.optional(
    v.looseObject({
      step: v.picklist([...UPDATE_STEPS, ...UPDATE_ENDS]),
      version: v.string(),
      counter: count,
      size: count,
      receivedBytes: count,
      uploadedBytes: count,
      previousVersion: v.optional(v.string()),
      reason: v.optional(v.string()),
    }),
  ),
});

/** What a device says of one board's firmware. */
export type FirmwareStatus = v.InferOutput<typeof statusSchema>;

/** How long a device or its board may be away. While the board restarts, nobody can ask it. */
export interface FirmwarePatience {
  readonly sendMs: number;
  readonly installMs: number;
}

export const FIRMWARE_PATIENCE: FirmwarePatience = { sendMs: 120_000, installMs: 600_000 };
const POLL_MS = 1000;

export interface RemoteFirmwareOptions {
  readonly session: Session;
  /** The board's driver. */
  readonly target: string;
  readonly log: Log;
  readonly clock?: Clock;
  readonly patience?: FirmwarePatience;
  /** For tests; `call` of this folder. */
  readonly send?: (options: CallOptions, signal: AbortSignal) => Promise<CallOutcome>;
}

export interface PushOptions {
  readonly image: Uint8Array;
  readonly signed: SignedManifest;
  /** Leave when the device has the image. */
  readonly wait: boolean;
  readonly onSent: (bytes: number) => void;
  readonly onStatus: (status: FirmwareStatus) => void;
}

/** One board of a device, to the operator: its firmware, over the ordinary command path. */
export class RemoteFirmware {
  readonly #options: RemoteFirmwareOptions;
  readonly #clock: Clock;
  readonly #patience: FirmwarePatience;

  constructor(options: RemoteFirmwareOptions) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.#patience = options.patience ?? FIRMWARE_PATIENCE;
  }

  /** @throws {FirmwareRefused} */
  async status(signal: AbortSignal): Promise<FirmwareStatus> {
    return parseStatus(await this.#ask("firmware-status", {}, 0, signal));
  }

  /** Goes back to what ran before; the answer is the status at its beginning. @throws {FirmwareRefused} */
  async rollback(signal: AbortSignal): Promise<FirmwareStatus> {
    return parseStatus(await this.#ask("firmware-rollback", {}, 0, signal));
  }

  /** @returns the new floor. @throws {FirmwareRefused} */
  async seal(signal: AbortSignal): Promise<number> {
    return v.parse(v.looseObject({ floor: count }), await this.#ask("firmware-seal", {}, 0, signal)).floor;
  }

  /**
   * Sends an image in pieces, from where an earlier push was cut, and waits for the end of the update.
   *
   * @throws {FirmwareRefused}
   */
  async push({ image, signed, wait, onSent, onStatus }: PushOptions, signal: AbortSignal): Promise<FirmwareStatus> {
    let offset = offsetOf(await this.#ask("firmware-begin", { ...signed }, 0, signal));
    while (offset < image.length) {
      onSent(offset);
      const piece = image.subarray(offset, offset + FIRMWARE_PIECE_BYTES);
      const args = { offset, data: Buffer.from(piece).toString("base64") };
      offset = offsetOf(await this.#ask("firmware-data", args, this.#patience.sendMs, signal));
    }
    onSent(offset);
    return wait ? this.untilEnd(onStatus, signal) : this.status(signal);
  }

  /** @throws {FirmwareRefused} when nothing is heard of the board for long; the update goes on without us. */
  async untilEnd(onStatus: (status: FirmwareStatus) => void, signal: AbortSignal): Promise<FirmwareStatus> {
    for (;;) {
      const status = parseStatus(await this.#ask("firmware-status", {}, this.#patience.installMs, signal));
      onStatus(status);
      if (!status.update || isEnd(status)) return status;
      await this.#clock.sleep(POLL_MS, signal);
    }
  }

  /** With one id until there is an answer: the device acts once. What will pass is asked again for `patienceMs`. */
  async #ask(
    command: string,
    args: Readonly<Record<string, string | number>>,
    patienceMs: number,
    signal: AbortSignal,
  ): Promise<unknown> {
    const { session, target, log, send = call } = this.#options;
    const { owner, address, platform, trust, outbound } = session;
    const untilMs = this.#clock.monotonicMs() + patienceMs;
    let id = randomUUID();
    for (const waitMs of backoff({ firstMs: 500, maxMs: 5000 })) {
      const outcome = await send(
        { platform, trust, outbound, owner, address, target, command, args, id, clock: this.#clock, log },
        signal,
      ).catch(unavailable);
      if (outcome.kind === "success") return outcome.result;
      const reason = "reason" in outcome ? outcome.reason : outcome.kind;
      if (!PASSING.has(reason) || this.#clock.monotonicMs() + waitMs >= untilMs)
        throw new FirmwareRefused(reason, `${command}: ${outcome.message}`);
      // An answer is kept under its id; only where none came, the same id asks for it again.
      if (outcome.kind === "refused" || outcome.kind === "failed") id = randomUUID();
      log.debug({ command, reason }, "asked again in a moment");
      await this.#clock.sleep(waitMs, signal);
    }
    throw new Error("a backoff has no end");
  }
}

/** While a board restarts its driver is away, and a device that has just started knows no commands yet. */
const PASSING: ReadonlySet<string> = new Set([
  "offline",
  "unknown",
  "driver-down",
  "unknown-command",
  "busy",
  "no-time",
]);

export const isEnd = ({ update }: FirmwareStatus): boolean => UPDATE_ENDS.some((end) => end === update?.step);

function unavailable(error: unknown): CallOutcome {
  if (!(error instanceof PlatformUnavailable)) throw error;
  return { kind: "offline", message: error.message };
}

function parseStatus(value: unknown): FirmwareStatus {
  const result = v.safeParse(statusSchema, value);
  if (!result.success) throw new SyntaxInvalid("the device's firmware status is not understood");
  return result.output;
}

function offsetOf(value: unknown): number {
  const result = v.safeParse(v.looseObject({ offset: v.pipe(v.number(), v.integer(), v.minValue(0)) }), value);
  if (!result.success) throw new SyntaxInvalid("the device gave no offset");
  return result.output.offset;
}
