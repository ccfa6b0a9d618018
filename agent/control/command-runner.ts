import type { Clock } from "../../core/clock.js";
import { CommandRefused, CommandUncertain } from "../../core/command-errors.js";
import { EdgeError, TimedOut } from "../../core/errors.js";
import type { Log } from "../../core/log.js";
import { ChildSignal } from "../../core/scope.js";
import { atStep } from "../../core/steps.js";
import { OneAtATime } from "../../drivers/one-at-a-time.js";
import { CommandRejected } from "../../messages/command.js";
import type { Audit } from "../audit/audit-log.js";
import { auditedArgs } from "../audit/redact.js";
import type { Counters } from "../health/counters.js";
import { checkTime } from "./decide.js";
import { answerTo, type CommandStore, digestOf, entryOf, type LedgerEntry, type Outcome } from "./ledger.js";
import { AGENT_TARGET, RULES } from "./policy.js";
import type { Asked } from "./request-reader.js";
import type { CommandTargets, TargetCommand } from "./targets.js";

export interface CommandRunnerOptions {
  readonly store: CommandStore;
  readonly targets: CommandTargets;
  readonly audit: Audit;
  /** Agent time; `undefined` while it is not known. */
  readonly now: () => number | undefined;
  readonly clock: Clock;
  readonly log: Log;
  readonly counters: Counters;
}

/** The caller has given its command up. */
export class CommandCancelled extends EdgeError {
  override readonly code = "CANCELLED";
}

export interface UnderWay {
  readonly digest: string;
  /** Also of a command that was refused when its turn came. */
  readonly outcome: Promise<Outcome>;
  cancel(): void;
}

/** Commands that wait for one target. */
const MAX_WAITING_A_TARGET = 16;
/** Longest result, as JSON text; an answer must fit into a message. */
export const MAX_RESULT_LENGTH = 100_000;
const DRIVER_START_MS = 10_000;

/** From a command that was decided about to its outcome: turn, ledger, driver, ledger. Who asked does not matter here. */
export class CommandRunner {
  readonly #options: CommandRunnerOptions;
  readonly #queues = new Map<string, OneAtATime>();
  readonly #underWay = new Map<string, UnderWay>();

  constructor(options: CommandRunnerOptions) {
    this.#options = options;
  }

  underWay(caller: string, id: string): UnderWay | undefined {
    return this.#underWay.get(keyOf({ caller, id }));
  }

  /**
   * Gives the command its place in the queue of its target; resolves when its outcome and answer are stored.
   *
   * @throws {CommandRejected} when it was not begun.
   */
  async run(asked: Asked, description: TargetCommand, signal: AbortSignal): Promise<Outcome> {
    await using cancel = new ChildSignal(signal);
    const outcome = this.#outcomeOf(asked, description, cancel.signal, signal);
    const joined = outcome.catch(refusal);
    joined.catch(() => undefined); // whoever awaits `outcome` hears of it
    const cancelled = new CommandCancelled("cancelled by its caller");
    this.#underWay.set(keyOf(asked), {
      digest: digestOf(asked),
      outcome: joined,
      cancel: () => cancel.abort(cancelled),
    });
    try {
      return await outcome;
    } finally {
      this.#underWay.delete(keyOf(asked));
    }
  }

  /** @param signal aborts when the command is cancelled, too; `life` does not. */
  async #outcomeOf(asked: Asked, description: TargetCommand, signal: AbortSignal, life: AbortSignal): Promise<Outcome> {
    const { store, now } = this.#options;
    const turn = await this.#turnOf(asked, signal);
    try {
      if (signal.aborted) throw notBegun(signal, "the device is stopping");
      checkTime(asked, { nowMs: now(), ledgerBornAtMs: store.ledgerBornAtMs });
      const entry = entryOf(asked);
      const recorded = await this.#accept(asked, entry, description);
      const outcome = await this.#carryOut(asked, description, signal, life);
      // The caller does not wait for this: what the ledger says counts.
      void this.#told(asked, description, outcome);
      if (recorded) await this.#finish(entry, asked.reqId, outcome);
      else await this.#send(asked, outcome);
      return outcome;
    } finally {
      await turn[Symbol.asyncDispose]();
    }
  }

  async #turnOf({ target, command }: Asked, signal: AbortSignal) {
    // What the agent does itself is apart: to cancel must not wait behind a slow diagnosis.
    const queue = target === AGENT_TARGET ? `${target}/${command}` : target;
    const turns = this.#queues.get(queue) ?? new OneAtATime(MAX_WAITING_A_TARGET);
    this.#queues.set(queue, turns);
    return turns.take(signal).catch((cause: unknown) => {
      if (!(cause instanceof CommandRefused)) throw cause;
      throw notBegun(signal, cause.message, cause);
    });
  }

  /** Puts the command into the ledger before anything moves. Without a ledger only what may run twice runs. */
  async #accept(asked: Asked, entry: LedgerEntry, { idempotent, reads, argsSchema }: TargetCommand): Promise<boolean> {
    if (reads) return false;
    const { caller, target, command, id, args } = asked;
    const fields = { caller, target, command, id, args: auditedArgs(args, argsSchema), decision: "accepted" };
    try {
      await Promise.all([this.#options.store.accept(entry), this.#options.audit.append("command", fields)]);
      return true;
    } catch (cause) {
      if (!(cause instanceof EdgeError)) throw cause;
      this.#options.log.error({ err: cause }, "the ledger cannot be written");
      if (!idempotent) throw new CommandRejected("no-ledger", "the device cannot write its ledger", { cause });
      return false;
    }
  }

  async #carryOut(asked: Asked, description: TargetCommand, signal: AbortSignal, life: AbortSignal): Promise<Outcome> {
    const { id, target, command, args, caller } = asked;
    const { targets } = this.#options;
    try {
      const call = (): Promise<unknown> => targets.call(target, command, args, { caller, id }, signal);
      const result: unknown = (await atStep("command.call", call)) ?? null;
      if (!isAnswerable(result)) {
        const message = "done, but its result is too large or no JSON";
        return { type: "error", payload: { id, reason: "failed" }, message };
      }
      return { type: "success", payload: { id, result }, message: null };
    } catch (error) {
      const isCancelled = signal.reason instanceof CommandCancelled;
      if (error instanceof CommandRefused)
        return { type: "nack", payload: { id, reason: isCancelled ? "cancelled" : "refused" }, message: error.message };
      if (!(error instanceof CommandUncertain)) throw error;
      const reason = isCancelled ? "cancelled" : error.cause instanceof TimedOut ? "deadline" : "unknown-outcome";
      const state = await this.#stateAfter(target, description, asked, life);
      return { type: "error", payload: { id, reason, ...state }, message: error.message };
    }
  }

  /** Answers for a command that was accepted before a restart: nobody knows what became of it. */
  async settle(entry: LedgerEntry, reqId: number, signal: AbortSignal): Promise<void> {
    const { id, caller, target, command } = entry;
    const description = await this.#describedSoon(entry, signal);
    const state = description ? await this.#stateAfter(target, description, entry, signal) : {};
    const message = "the device was restarted during the command, and does not know what became of it";
    const outcome: Outcome = { type: "error", payload: { id, reason: "unknown-outcome", ...state }, message };
    const { counters, log } = this.#options;
    counters.add("unknown");
    log.warn({ caller, target, command, id }, "a command was under way at the last end: outcome unknown");
    await this.#told(entry, undefined, outcome);
    await this.#finish(entry, reqId, outcome);
  }

  /** The command's description, as soon as its driver is up, which may take a while after a start. */
  async #describedSoon({ target, command }: LedgerEntry, signal: AbortSignal): Promise<TargetCommand | undefined> {
    const { targets, clock } = this.#options;
    const untilMs = clock.monotonicMs() + DRIVER_START_MS;
    for (;;) {
      const commands = targets.commandsOf(target);
      const found = commands?.find(({ name }) => name === command);
      if (found || !commands || clock.monotonicMs() >= untilMs || signal.aborted) return found;
      await clock.sleep(200, signal).catch(() => undefined);
    }
  }

  /** What the driver says of the state that the command changes, when it can. */
  async #stateAfter(
    target: string,
    { readBack }: TargetCommand,
    { caller, id }: { readonly caller: string; readonly id: string },
    signal: AbortSignal,
  ): Promise<{ readonly state?: unknown }> {
    if (readBack === undefined || signal.aborted) return {};
    try {
      return { state: await this.#options.targets.call(target, readBack, {}, { caller, id }, signal) };
    } catch (error) {
      if (!(error instanceof EdgeError)) throw error;
      return {};
    }
  }

  /** One line for what only reads; else the end of what began with a line of its own. */
  #told(
    { caller, target, command, id }: Pick<LedgerEntry, "caller" | "target" | "command" | "id">,
    description: TargetCommand | undefined,
    { type, payload }: Outcome,
  ): Promise<void> {
    const fields = { caller, target, command, id };
    const outcome = { outcome: type, ...(payload.reason !== undefined && { reason: payload.reason }) };
    return description?.reads
      ? this.#options.audit.append("command", { ...fields, decision: "accepted", ...outcome })
      : this.#options.audit.append("outcome", { ...fields, ...outcome });
  }

  async #finish(entry: LedgerEntry, reqId: number, outcome: Outcome): Promise<void> {
    try {
      const answer = entry.caller === RULES ? undefined : answerTo(reqId, entry, outcome);
      await this.#options.store.finish(entry, outcome, answer);
    } catch (error) {
      if (!(error instanceof EdgeError)) throw error;
      this.#options.counters.add("unrecorded");
      this.#options.log.error({ err: error, id: entry.id }, "the outcome of a command cannot be stored");
    }
  }

  /** One that cannot be queued is lost: its caller asks again. */
  async #send(asked: Asked, outcome: Outcome): Promise<void> {
    if (asked.caller === RULES) return;
    await this.#options.store.queueAnswer(answerTo(asked.reqId, asked, outcome)).catch((error: unknown) => {
      if (!(error instanceof EdgeError)) throw error;
      this.#options.counters.add("unanswered");
      this.#options.log.warn({ err: error, to: asked.caller }, "an answer cannot be queued");
    });
  }
}

function notBegun(signal: AbortSignal, why: string, cause?: unknown): CommandRejected {
  if (signal.reason instanceof CommandCancelled) return new CommandRejected("cancelled", signal.reason.message);
  return new CommandRejected("busy", why, { cause });
}

/** JSON, and not too long for a message. */
function isAnswerable(result: unknown): boolean {
  try {
    return JSON.stringify(result).length <= MAX_RESULT_LENGTH;
  } catch {
    return false; // a cycle, a bigint
  }
}

function keyOf({ caller, id }: Pick<Asked, "id"> & { readonly caller: string }): string {
  return `${caller} ${id}`;
}

/** What a repeat that waited for a command is told when that was refused. */
function refusal(error: unknown): Outcome {
  if (!(error instanceof CommandRejected)) throw error;
  return { type: "nack", payload: { reason: error.reason }, message: error.message };
}
