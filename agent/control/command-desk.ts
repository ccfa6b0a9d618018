import type { AtSign } from "../../atplatform/protocol/at-sign.js";
import type { Clock } from "../../core/clock.js";
import { CommandRefused, CommandUncertain } from "../../core/command-errors.js";
import type { CommandDescription } from "../../core/driver.js";
import { EdgeError, TimedOut } from "../../core/errors.js";
import type { Log } from "../../core/log.js";
import type { TaskGroup } from "../../core/scope.js";
import { OneAtATime, type Turn } from "../../drivers/one-at-a-time.js";
import type { DriverSupervisor } from "../../drivers/supervisor.js";
import { CommandRejected, type RefusalReason } from "../../messages/command.js";
import { type DeviceAddress, requestIdOf } from "../../messages/names.js";
import { Counters } from "../health/counters.js";
import { LogLimiter } from "../health/log-limiter.js";
import { checkTime, type Circumstances, decide, type Decision } from "./decide.js";
import {
  type Answer,
  answerTo,
  type CommandStore,
  digestOf,
  entryOf,
  type LedgerEntry,
  type Outcome,
} from "./ledger.js";
import type { Caller, Policy } from "./policy.js";
import { RateLimit } from "./rate-limit.js";
import type { Asked, RequestNotification, RequestReader } from "./request-reader.js";

export interface CommandDeskOptions {
  readonly address: DeviceAddress;
  /** The one in effect; it may be another one later. */
  readonly policy: () => Policy;
  readonly reader: Pick<RequestReader, "read">;
  readonly store: CommandStore;
  readonly drivers: Pick<DriverSupervisor, "call" | "commands" | "health">;
  /** Agent time; `undefined` while it is not known. */
  readonly now: () => number | undefined;
  readonly clock: Clock;
  readonly log: Log;
  /** Owns the commands under way. */
  readonly group: TaskGroup;
}

/** Requests of one caller that are being read or wait to be. */
export const MAX_REQUESTS_A_CALLER = 16;
/** Requests of one caller that are read at all. An atServer can repeat one as often as it likes; each costs an answer. */
export const MAX_RATE = { max: 100, perMs: 10_000 };
/** Commands that wait for one target. */
const MAX_WAITING_A_TARGET = 16;
/** Longest result, as JSON text; an answer must fit into a message. */
export const MAX_RESULT_LENGTH = 100_000;
const DRIVER_START_MS = 10_000;
const LOG_EVERY_MS = 60_000;

/** The requests of one caller, read one after the other so that its commands keep their order. */
interface Lane {
  waiting: number;
  tail: Promise<unknown>;
}

/** A request that was read and decided about. */
interface Queued {
  readonly asked: Asked;
  readonly decision: Decision;
  /** Of a command that has its place in the queue of its target, or that this one is a repeat of. */
  readonly outcome: Promise<Outcome> | undefined;
}

/**
 * Takes commands from the monitor to the drivers: who, policy, seal and signature, ledger, driver, ledger, answer.
 * Nothing reaches a driver that the ledger does not have, and an atSign that the policy does not name learns nothing.
 */
export class CommandDesk {
  readonly #options: CommandDeskOptions;
  readonly #lanes = new Map<string, Lane>();
  readonly #targets = new Map<string, OneAtATime>();
  readonly #underWay = new Map<string, { readonly digest: string; readonly outcome: Promise<Outcome> }>();
  readonly #limiter: LogLimiter;
  readonly #rate: RateLimit;
  readonly counters = new Counters();

  constructor(options: CommandDeskOptions) {
    this.#options = options;
    this.#rate = new RateLimit({ clock: options.clock, ...MAX_RATE });
    this.#limiter = new LogLimiter({ clock: options.clock, everyMs: LOG_EVERY_MS, maxSubjects: 256 });
  }

  /** Tells the callers of commands that an earlier run has left unfinished that their outcome is not known. */
  settleUnfinished(): void {
    for (const entry of this.#options.store.unfinished())
      this.#options.group.start((signal) => this.#settle(entry, entry.reqId, signal));
  }

  /** Takes a notification of the monitor; returns at once. What is not a request to this device is ignored. */
  receive(n: RequestNotification): void {
    const { address, policy, group } = this.#options;
    const reqId = requestIdOf(n.key, address);
    if (reqId === undefined || n.operation !== "update") return;
    this.counters.add("requests");
    const caller = policy().callerOf(n.from);
    if (!caller) {
      this.counters.add("unnamed");
      this.#audit("unnamed", { from: n.from }, "request of an atSign that no [[allow]] names: no answer");
      return;
    }
    if (!this.#rate.take(caller.atSign)) {
      this.counters.add("flood");
      this.#audit(`flood ${n.from}`, { from: n.from }, "more requests of one caller than are read: no answer");
      return;
    }
    group.start((signal) => this.#handle(n, caller, reqId, signal));
  }

  async #handle(n: RequestNotification, caller: Caller, reqId: number, signal: AbortSignal): Promise<void> {
    const startMs = this.#options.clock.monotonicMs();
    try {
      const queued = await this.#inLane(caller.atSign, () => this.#enqueue(n, caller, reqId, signal));
      await this.#answerQueued(queued, startMs, signal);
    } catch (error) {
      if (!(error instanceof CommandRejected)) throw error;
      await this.#refuse(caller, reqId, error);
    }
  }

  async #inLane<T>(caller: AtSign, work: () => Promise<T>): Promise<T> {
    const lane = this.#lanes.get(caller) ?? { waiting: 0, tail: Promise.resolve() };
    this.#lanes.set(caller, lane);
    if (lane.waiting >= MAX_REQUESTS_A_CALLER)
      throw new CommandRejected("busy", `${lane.waiting} requests of yours are being read`);
    lane.waiting += 1;
    const done = lane.tail.then(work);
    lane.tail = done.catch(() => undefined);
    try {
      return await done;
    } finally {
      lane.waiting -= 1;
    }
  }

  /** Reads the request, decides about it, and gives it its place in the queue of its target. */
  async #enqueue(n: RequestNotification, caller: Caller, reqId: number, signal: AbortSignal): Promise<Queued> {
    const asked = await this.#options.reader.read(n, caller, reqId, signal);
    const decision = decide(asked, this.#circumstances(asked, caller));
    if (decision.action !== "run") return { asked, decision, outcome: this.#underWay.get(keyOf(asked))?.outcome };
    const turn = this.#queueOf(asked.target).take(signal);
    const outcome = this.#outcomeOf(asked, decision.description, turn, signal);
    const joined = outcome.catch(refusal);
    joined.catch(() => undefined); // whoever awaits `outcome` hears of it
    this.#underWay.set(keyOf(asked), { digest: digestOf(asked), outcome: joined });
    return { asked, decision, outcome };
  }

  #circumstances(asked: Asked, caller: Caller): Circumstances {
    const { store, drivers, now } = this.#options;
    return {
      caller,
      entry: store.find(asked.caller, asked.id),
      underWay: this.#underWay.get(keyOf(asked))?.digest,
      ledgerBornAtMs: store.ledgerBornAtMs,
      nowMs: now(),
      commands: drivers.commands().find(({ target }) => target === asked.target)?.commands,
      targetIsUp: drivers.health().some(({ id, state }) => id === asked.target && state === "running"),
    };
  }

  async #answerQueued({ asked, decision, outcome }: Queued, startMs: number, signal: AbortSignal): Promise<void> {
    const { reqId, id } = asked;
    switch (decision.action) {
      case "dry-run":
        this.counters.add("dryRuns");
        await this.#send(
          answerTo(reqId, asked, { type: "success", payload: { id, result: { dryRun: true } }, message: null }),
        );
        return;
      case "run":
        if (outcome) await this.#answerWhenDone(asked, outcome, startMs);
        return;
      case "repeat":
        this.counters.add("repeats");
        await this.#send(answerTo(reqId, asked, decision.outcome));
        return;
      case "join": {
        this.counters.add("repeats");
        if (!outcome) return;
        await this.#send(ackOf(asked));
        await this.#send(answerTo(reqId, asked, await outcome));
        return;
      }
      case "unknown":
        await this.#settle(decision.entry, reqId, signal);
    }
  }

  async #answerWhenDone(asked: Asked, outcome: Promise<Outcome>, startMs: number): Promise<void> {
    const { caller, target, command, id } = asked;
    const [{ type, message }] = await Promise.all([
      outcome.finally(() => this.#underWay.delete(keyOf(asked))),
      this.#send(ackOf(asked)),
    ]);
    this.counters.add(type);
    const tookMs = Math.round(this.#options.clock.monotonicMs() - startMs);
    this.#options.log.info({ caller, target, command, id, outcome: type, message, tookMs }, "command carried out");
  }

  /** From the command's turn to its stored outcome. @throws {CommandRejected} when it was not begun. */
  async #outcomeOf(
    asked: Asked,
    description: CommandDescription,
    waiting: Promise<Turn>,
    signal: AbortSignal,
  ): Promise<Outcome> {
    const { store, now } = this.#options;
    const turn = await waiting.catch((cause: unknown) => {
      if (!(cause instanceof CommandRefused)) throw cause;
      throw new CommandRejected("busy", cause.message, { cause });
    });
    try {
      if (signal.aborted) throw new CommandRejected("busy", "the device is stopping");
      checkTime(asked, { nowMs: now(), ledgerBornAtMs: store.ledgerBornAtMs });
      const entry = entryOf(asked);
      const recorded = await this.#accept(entry, description);
      const outcome = await this.#carryOut(entry, asked.args, description, signal);
      if (recorded) await this.#finish(entry, asked.reqId, outcome);
      else await this.#send(answerTo(asked.reqId, entry, outcome));
      return outcome;
    } finally {
      await turn[Symbol.asyncDispose]();
    }
  }

  /** Puts the command into the ledger before anything moves. Without a ledger only what may run twice runs. */
  async #accept(entry: LedgerEntry, { idempotent }: CommandDescription): Promise<boolean> {
    try {
      await this.#options.store.accept(entry);
      return true;
    } catch (cause) {
      if (!(cause instanceof EdgeError)) throw cause;
      this.#options.log.error({ err: cause }, "the ledger cannot be written");
      if (!idempotent) throw new CommandRejected("no-ledger", "the device cannot write its ledger", { cause });
      return false;
    }
  }

  async #carryOut(
    { id, target, command }: LedgerEntry,
    args: Asked["args"],
    description: CommandDescription,
    signal: AbortSignal,
  ): Promise<Outcome> {
    try {
      const result: unknown = (await this.#options.drivers.call(target, command, args, signal)) ?? null;
      if (!isAnswerable(result))
        return {
          type: "error",
          payload: { id, reason: "failed" },
          message: "done, but its result is too large or no JSON",
        };
      return { type: "success", payload: { id, result }, message: null };
    } catch (error) {
      if (error instanceof CommandRefused)
        return { type: "nack", payload: { id, reason: "refused" }, message: error.message };
      if (!(error instanceof CommandUncertain)) throw error;
      const reason = error.cause instanceof TimedOut ? "deadline" : "unknown-outcome";
      const state = await this.#stateAfter(target, description, signal);
      return { type: "error", payload: { id, reason, ...state }, message: error.message };
    }
  }

  /** Answers for a command that was accepted before a restart: nobody knows what became of it. */
  async #settle(entry: LedgerEntry, reqId: number, signal: AbortSignal): Promise<void> {
    const { id, caller, target, command } = entry;
    const description = await this.#describedSoon(entry, signal);
    const state = description ? await this.#stateAfter(target, description, signal) : {};
    const message = "the device was restarted during the command, and does not know what became of it";
    const outcome: Outcome = { type: "error", payload: { id, reason: "unknown-outcome", ...state }, message };
    this.counters.add("unknown");
    this.#options.log.warn({ caller, target, command, id }, "a command was under way at the last end: outcome unknown");
    await this.#finish(entry, reqId, outcome);
  }

  /** The command's description, as soon as its driver is up, which may take a while after a start. */
  async #describedSoon({ target, command }: LedgerEntry, signal: AbortSignal): Promise<CommandDescription | undefined> {
    const { drivers, clock } = this.#options;
    const untilMs = clock.monotonicMs() + DRIVER_START_MS;
    for (;;) {
      const commands = drivers.commands().find((driver) => driver.target === target)?.commands;
      const found = commands?.find(({ name }) => name === command);
      if (found || !commands || clock.monotonicMs() >= untilMs || signal.aborted) return found;
      await clock.sleep(200, signal).catch(() => undefined);
    }
  }

  /** What the driver says of the state that the command changes, when it can. */
  async #stateAfter(
    target: string,
    { readBack }: CommandDescription,
    signal: AbortSignal,
  ): Promise<{ readonly state?: unknown }> {
    if (readBack === undefined || signal.aborted) return {};
    try {
      return { state: await this.#options.drivers.call(target, readBack, {}, signal) };
    } catch (error) {
      if (!(error instanceof EdgeError)) throw error;
      return {};
    }
  }

  async #finish(entry: LedgerEntry, reqId: number, outcome: Outcome): Promise<void> {
    try {
      await this.#options.store.finish(entry, outcome, answerTo(reqId, entry, outcome));
    } catch (error) {
      if (!(error instanceof EdgeError)) throw error;
      this.counters.add("unrecorded");
      this.#options.log.error({ err: error, id: entry.id }, "the outcome of a command cannot be stored");
    }
  }

  async #refuse(
    { atSign, unsigned }: Caller,
    reqId: number,
    { reason, message, cause }: CommandRejected,
  ): Promise<void> {
    this.counters.add(`refused.${reason}`);
    const fields = { caller: atSign, reason, why: message, ...(cause === undefined ? {} : { err: cause }) };
    this.#audit(`${atSign} ${reason}`, fields, "command refused", ALARMING.has(reason) ? "error" : "warn");
    await this.#send({ to: atSign, reqId, type: "nack", payload: { reason }, message, sealed: !unsigned });
  }

  /** Queues an answer. One that cannot be queued is lost: its caller asks again and gets the stored outcome. */
  async #send(answer: Answer): Promise<void> {
    try {
      await this.#options.store.queueAnswer(answer);
    } catch (error) {
      if (!(error instanceof EdgeError)) throw error;
      this.counters.add("unanswered");
      this.#options.log.warn({ err: error, to: answer.to }, "an answer cannot be queued");
    }
  }

  #audit(
    subject: string,
    fields: Readonly<Record<string, unknown>>,
    message: string,
    level: "warn" | "error" = "warn",
  ): void {
    const suppressed = this.#limiter.admit(subject);
    if (suppressed !== undefined)
      this.#options.log[level]({ ...fields, ...(suppressed > 0 && { suppressed }) }, message);
  }

  #queueOf(target: string): OneAtATime {
    const queue = this.#targets.get(target) ?? new OneAtATime(MAX_WAITING_A_TARGET);
    this.#targets.set(target, queue);
    return queue;
  }
}

/** JSON, and not too long for a message. */
function isAnswerable(result: unknown): boolean {
  try {
    return JSON.stringify(result).length <= MAX_RESULT_LENGTH;
  } catch {
    return false; // a cycle, a bigint
  }
}

/** Reasons that a human must look at. */
const ALARMING: ReadonlySet<RefusalReason> = new Set(["key-changed", "no-ledger"]);

function ackOf({ caller, reqId, sealed }: Asked): Answer {
  return { to: caller, reqId, type: "ack", payload: {}, message: null, sealed };
}

function keyOf({ caller, id }: Pick<Asked, "caller" | "id">): string {
  return `${caller} ${id}`;
}

/** What a repeat that waited for a command is told when that was refused. */
function refusal(error: unknown): Outcome {
  if (!(error instanceof CommandRejected)) throw error;
  return { type: "nack", payload: { reason: error.reason }, message: error.message };
}
