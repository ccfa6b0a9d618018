import { randomInt, randomUUID } from "node:crypto";
import { backoff } from "../core/backoff.js";
import { systemClock, type Clock } from "../core/clock.js";
import type { Log } from "../core/log.js";
import { TaskGroup } from "../core/scope.js";
import { MAX_CLOCK_SKEW_MS, signCommand } from "../messages/command.js";
import type { JsonObject } from "../messages/json-field.js";
import { answerPartsOf, callerRegex, requestKey, type DeviceAddress } from "../messages/names.js";
import type { PeerTrust } from "../messages/peer-trust.js";
import { answerDetails, formatRequest, parseAnswer, type RpcAnswer } from "../messages/rpc.js";
import { MessageRefused, openIncoming, parseOpened } from "./inbound.js";
import type { Outbound } from "./outbound.js";
import { PlatformUnavailable, type Incoming, type Platform } from "./platform.js";

export type CallOutcome =
  /** The device did it. */
  | { readonly kind: "success"; readonly result: unknown }
  /** The device did nothing; `reason` is one of `REFUSAL_REASONS`, or one of a later version. */
  | { readonly kind: "refused"; readonly reason: string; readonly message: string }
  /** The device began, and it failed. */
  | { readonly kind: "failed"; readonly reason: string; readonly message: string }
  /** The device cannot say, or has not said in time, what became of it. Ask again with the same id. */
  | { readonly kind: "unknown"; readonly message: string }
  /** No sign of the device. It may still do it until the command expires. */
  | { readonly kind: "offline"; readonly message: string };

export interface CallOptions {
  readonly platform: Platform;
  readonly trust: PeerTrust;
  readonly outbound: Outbound;
  readonly owner: string;
  readonly address: DeviceAddress;
  readonly target: string;
  readonly command: string;
  readonly args: JsonObject;
  /** Everything is checked and nothing is done. */
  readonly dryRun?: boolean;
  /** Names the command for ever: with the same one a repeat is safe, the device acts once. Random unless given. */
  readonly id?: string;
  /** How long the device may take to say that it has the command; 5 s. */
  readonly ackTimeoutMs?: number;
  /** How long until there must be a result; also when the command expires. 30 s. */
  readonly timeoutMs?: number;
  readonly clock?: Clock;
  readonly log: Log;
}

/**
 * Sends one signed command and waits for its answer, which counts only when the pinned owner sealed it.
 *
 * @throws {PeerKeyChanged}, {PlatformUnavailable} when our own atServer did not take the command in time.
 */
export async function call(options: CallOptions, signal: AbortSignal): Promise<CallOutcome> {
  const { trust, owner } = options;
  await trust.keyOf(owner, signal);
  await using tasks = new TaskGroup(signal);
  const calling = new Calling(options);
  return await calling.run(tasks);
}

const ANSWER_MARGIN_MS = 60_000;

class Calling {
  readonly #options: CallOptions;
  readonly #clock: Clock;
  readonly #id: string;
  readonly #reqId: number;
  readonly #timeoutMs: number;
  readonly #ackTimeoutMs: number;
  #acknowledged = false;
  #settle: (outcome: CallOutcome) => void = () => undefined;
  readonly #outcome: Promise<CallOutcome>;

  constructor(options: CallOptions) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.#id = options.id ?? randomUUID();
    // AtRpc's custom: microseconds. The last three digits keep two callers of one atSign apart.
    this.#reqId = this.#clock.now() * 1000 + randomInt(1000);
    this.#timeoutMs = options.timeoutMs ?? 30_000;
    this.#ackTimeoutMs = Math.min(options.ackTimeoutMs ?? 5_000, this.#timeoutMs);
    this.#outcome = new Promise((resolve) => (this.#settle = resolve));
  }

  async run(tasks: TaskGroup): Promise<CallOutcome> {
    tasks.start((signal) => this.#receive(signal));
    tasks.start((signal) => this.#askAndWait(signal));
    // Whichever comes first: an outcome, or a task that failed (then `join` has its error).
    const outcome = await Promise.race([this.#outcome, tasks.join().then(() => undefined)]);
    tasks.signal.throwIfAborted();
    return outcome ?? (await this.#outcome);
  }

  async #askAndWait(signal: AbortSignal): Promise<void> {
    await this.#ask(signal);
    await this.#clock.sleep(this.#ackTimeoutMs, signal);
    if (!this.#acknowledged) {
      const message = `the device has not answered within ${this.#ackTimeoutMs / 1000} s: it is offline, or does not know us`;
      return this.#settle({ kind: "offline", message });
    }
    await this.#clock.sleep(this.#timeoutMs - this.#ackTimeoutMs, signal);
    this.#settle({
      kind: "unknown",
      message: `the device has the command, but gave no result within ${this.#timeoutMs / 1000} s`,
    });
  }

  /** Hands the command to our atServer: the same text and id each time, so that a repeat is no second command. */
  async #ask(signal: AbortSignal): Promise<void> {
    const { platform, outbound, owner, address, target, command, args, dryRun = false, log } = this.#options;
    const issuedAt = this.#clock.now();
    const expiresAt = issuedAt + this.#timeoutMs;
    const statement = { from: platform.atSign, to: owner, device: address.device, target, command, args, id: this.#id };
    const payload = signCommand({ ...statement, issuedAt, expiresAt, dryRun }, platform.privateKey);
    const body = formatRequest({ reqId: this.#reqId, payload: { ...payload } });
    // Its life at atServers is a little longer than the command's: a device whose clock is behind still gets it.
    const ttlnMs = this.#timeoutMs + MAX_CLOCK_SKEW_MS;
    const message = { name: requestKey(address, this.#reqId), body, ttlnMs, id: randomUUID() };
    const untilMs = this.#clock.monotonicMs() + this.#timeoutMs;
    for (const waitMs of backoff({ firstMs: 500, maxMs: 5_000 })) {
      try {
        await outbound.send(message, signal);
        log.debug({ id: this.#id, reqId: this.#reqId }, "command handed to our atServer");
        return;
      } catch (error) {
        if (!(error instanceof PlatformUnavailable)) throw error;
        if (this.#clock.monotonicMs() + waitMs >= untilMs) throw error;
      }
      await this.#clock.sleep(waitMs, signal);
    }
  }

  /** Begins a little in the past: an answer that comes before the monitor runs is then not lost. */
  async #receive(signal: AbortSignal): Promise<void> {
    const { platform, owner, address } = this.#options;
    const since = Math.max(0, this.#clock.now() - ANSWER_MARGIN_MS);
    for await (const incoming of platform.notifications({ regex: callerRegex(address), since }, signal)) {
      const key = answerPartsOf(incoming.key, address);
      if (incoming.from === owner && key?.reqId === this.#reqId) await this.#takeAnswer(incoming, key, signal);
    }
  }

  async #takeAnswer(
    incoming: Incoming,
    key: NonNullable<ReturnType<typeof answerPartsOf>>,
    signal: AbortSignal,
  ): Promise<void> {
    const { trust, log } = this.#options;
    try {
      const body = await openIncoming(incoming, { trust, clock: this.#clock }, signal);
      const answer = parseOpened(() => parseAnswer(body, key));
      const { id } = answerDetails(answer);
      if (id !== undefined && id !== this.#id) throw new MessageRefused("malformed", undefined);
      this.#acknowledged = true;
      const outcome = outcomeOf(answer);
      if (outcome) this.#settle(outcome);
    } catch (error) {
      if (!(error instanceof MessageRefused)) throw error;
      log.warn({ reason: error.reason, error: error.message }, "an answer in the device's name was not taken");
    }
  }
}

function outcomeOf(answer: RpcAnswer): CallOutcome | undefined {
  const { result, reason = "failed" } = answerDetails(answer);
  const message = answer.message ?? reason;
  switch (answer.respType) {
    case "ack":
      return undefined;
    case "success":
      return { kind: "success", result: result ?? null };
    case "nack":
      return { kind: "refused", reason, message };
    case "error":
      return reason === "unknown-outcome" ? { kind: "unknown", message } : { kind: "failed", reason, message };
  }
}
