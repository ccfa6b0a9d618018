import { randomUUID } from "node:crypto";
import { systemClock } from "../core/clock.js";
import { EdgeError } from "../core/errors.js";
import type { Log } from "../core/log.js";
import type { JsonObject } from "../messages/json-field.js";
import { call } from "./call.js";
import type { Session } from "./session.js";

/** The device did not take it; the message has its reason. */
export class ReleaseNotTaken extends EdgeError {
  override readonly code = "RELEASE_NOT_TAKEN";
}

export interface PushReleaseOptions {
  readonly session: Session;
  readonly log: Log;
  readonly file: Uint8Array;
  readonly signed: { readonly signed: string; readonly signature: string };
  readonly onSent: (bytes: number) => void;
}

const PIECE_BYTES = 16_384;
const TIMEOUT_MS = 30_000;
/** A piece whose answer was lost is sent again; the device takes it once. */
const TRIES = 5;
/** A device reads 100 requests of a caller in ten seconds, and answers no more. */
const PIECE_EVERY_MS = 125;
const LOOK_EVERY_MS = 2000;

/** Sends a release in pieces, from where an earlier push was cut. @throws {ReleaseNotTaken} */
export async function pushRelease(options: PushReleaseOptions, signal: AbortSignal): Promise<void> {
  const { file, signed, onSent } = options;
  let offset = offsetOf(await ask("update-begin", { ...signed }, options, signal));
  while (offset < file.length) {
    onSent(offset);
    const rested = systemClock.sleep(PIECE_EVERY_MS, signal);
    const data = Buffer.from(file.subarray(offset, offset + PIECE_BYTES)).toString("base64");
    offset = offsetOf(await ask("update-data", { offset, data }, options, signal));
    await rested;
  }
  onSent(file.length);
}

/** How the last update of a device ended, as far as we know the words. */
export interface Ended {
  readonly outcome: string;
  readonly from: string;
  readonly to: string;
  readonly why: string;
  readonly atMs: number;
}

/**
 * Waits until an update has ended after the one that ended at `beforeMs`.
 *
 * @throws {ReleaseNotTaken} when none has within `waitMs`.
 */
export async function waitForUpdate(
  { session, log }: Pick<PushReleaseOptions, "session" | "log">,
  beforeMs: number | undefined,
  waitMs: number,
  signal: AbortSignal,
): Promise<Ended> {
  const untilMs = systemClock.monotonicMs() + waitMs;
  while (systemClock.monotonicMs() < untilMs) {
    await systemClock.sleep(LOOK_EVERY_MS, signal);
    // No answer: it is being started anew.
    const ended = await updateStatus({ session, log }, signal).then(endedOf, (error: unknown) => {
      if (!(error instanceof ReleaseNotTaken)) throw error;
      return undefined;
    });
    if (ended && ended.atMs !== beforeMs) return ended;
  }
  throw new ReleaseNotTaken(`the device has not told within ${waitMs / 1000} s how it went`);
}

/** @returns `undefined` when no update has ended there yet. */
export function endedOf(status: unknown): Ended | undefined {
  const last = typeof status === "object" && status !== null && "last" in status ? status.last : undefined;
  if (typeof last !== "object" || last === null) return undefined;
  const { outcome, from, to, why, atMs }: Readonly<Record<string, unknown>> = { ...last };
  if (typeof atMs !== "number") return undefined;
  return { outcome: String(outcome), from: String(from), to: String(to), why: String(why), atMs };
}

/** What the device says of its updates. @throws {ReleaseNotTaken} */
export function updateStatus(options: Pick<PushReleaseOptions, "session" | "log">, signal: AbortSignal) {
  return ask("update-status", {}, options, signal);
}

async function ask(
  command: string,
  args: JsonObject,
  { session, log }: Pick<PushReleaseOptions, "session" | "log">,
  signal: AbortSignal,
): Promise<unknown> {
  const { owner, address, platform, trust, outbound } = session;
  let why = "";
  for (let left = TRIES; left > 0; left -= 1) {
    const id = randomUUID();
    const times = { timeoutMs: TIMEOUT_MS, ackTimeoutMs: TIMEOUT_MS };
    const request = { platform, trust, outbound, owner, address, target: "agent", command, args, id, ...times, log };
    const outcome = await call(request, signal);
    if (outcome.kind === "success") return outcome.result;
    why = outcome.message;
    if (outcome.kind === "refused" || outcome.kind === "failed") break;
  }
  throw new ReleaseNotTaken(why);
}

function offsetOf(result: unknown): number {
  const offset = typeof result === "object" && result !== null && "offset" in result ? result.offset : undefined;
  if (typeof offset === "number" && Number.isInteger(offset) && offset >= 0) return offset;
  throw new ReleaseNotTaken("the device answers in a way that this version does not know");
}
