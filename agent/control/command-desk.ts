import type { AtSign } from "../../atplatform/protocol/at-sign.js";
import type { Clock } from "../../core/clock.js";
import { EdgeError } from "../../core/errors.js";
import type { Log } from "../../core/log.js";
import type { TaskGroup } from "../../core/scope.js";
import { CommandRejected, type RefusalReason } from "../../messages/command.js";
import { type DeviceAddress, requestIdOf } from "../../messages/names.js";
import type { Audit } from "../audit/audit-log.js";
import { auditedArgs } from "../audit/redact.js";
import { Counters } from "../health/counters.js";
import { LogLimiter } from "../health/log-limiter.js";
import { CommandRunner } from "./command-runner.js";
import { decide, type Decision } from "./decide.js";
import { type Answer, answerTo, type CommandStore, type Outcome } from "./ledger.js";
import { type Caller, type Policy, RULES } from "./policy.js";
import { RateLimit } from "./rate-limit.js";
import type { Asked, RequestNotification, RequestReader } from "./request-reader.js";
import type { CommandTargets } from "./targets.js";

export interface CommandDeskOptions {
  readonly address: DeviceAddress;
  /** The one in effect; it may be another one later. */
  readonly policy: () => Policy;
  readonly reader: Pick<RequestReader, "read">;
  readonly store: CommandStore;
  readonly targets: CommandTargets;
  readonly audit: Audit;
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
  readonly #runner: CommandRunner;
  readonly #limiter: LogLimiter;
  readonly #rate: RateLimit;
  readonly counters = new Counters();

  constructor(options: CommandDeskOptions) {
    this.#options = options;
    this.#runner = new CommandRunner({ ...options, counters: this.counters });
    this.#rate = new RateLimit({ clock: options.clock, ...MAX_RATE });
    this.#limiter = new LogLimiter({ clock: options.clock, everyMs: LOG_EVERY_MS, maxSubjects: 256 });
  }

  /** Tells the callers of commands that an earlier run has left unfinished that their outcome is not known. */
  settleUnfinished(): void {
    for (const entry of this.#options.store.unfinished())
      this.#options.group.start((signal) => this.#runner.settle(entry, entry.reqId, signal));
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
      this.#auditSome(`unnamed ${n.from}`, { caller: n.from, decision: "ignored" });
      this.#note("unnamed", { from: n.from }, "request of an atSign that no [[allow]] names: no answer");
      return;
    }
    if (!this.#rate.take(caller.atSign)) {
      this.counters.add("flood");
      this.#note(`flood ${n.from}`, { from: n.from }, "more requests of one caller than are read: no answer");
      return;
    }
    group.start((signal) => this.#handle(n, caller, reqId, signal));
  }

  /**
   * A command of the device's own rules, by the same policy, ledger and drivers as any other; nobody is answered.
   *
   * @throws {CommandRejected} when it was not begun.
   */
  async runOwn(asked: Asked, signal: AbortSignal): Promise<Outcome | undefined> {
    try {
      const caller = this.#options.policy().callerOf(RULES);
      if (!caller) throw new CommandRejected("not-allowed", "no [[allow]] names the rules");
      return await this.#decided(asked, caller, signal).outcome;
    } catch (error) {
      if (error instanceof CommandRejected) await this.#auditRefusal(asked, error);
      throw error;
    }
  }

  /** Gives up a command of the caller's own. @returns whether it was under way. */
  cancel(caller: string, id: string): boolean {
    const underWay = this.#runner.underWay(caller, id);
    underWay?.cancel();
    return underWay !== undefined;
  }

  async #handle(n: RequestNotification, caller: Caller, reqId: number, signal: AbortSignal): Promise<void> {
    const startMs = this.#options.clock.monotonicMs();
    const read: { asked?: Asked } = {};
    try {
      const queued = await this.#inLane(caller.atSign, async () => {
        read.asked = await this.#options.reader.read(n, caller, reqId, signal);
        return this.#decided(read.asked, caller, signal);
      });
      await this.#answerQueued(queued, startMs, signal);
    } catch (error) {
      if (!(error instanceof CommandRejected)) throw error;
      await this.#refuse(caller, reqId, error, read.asked);
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
      // Callers may be many, where a pattern names them.
      if (lane.waiting === 0) this.#lanes.delete(caller);
    }
  }

  /** Decides about a command, and gives it its place in the queue of its target. @throws {CommandRejected} */
  #decided(asked: Asked, caller: Caller, signal: AbortSignal): Queued {
    const { store, targets, now } = this.#options;
    const { target, id } = asked;
    const underWay = this.#runner.underWay(asked.caller, id);
    const commands = targets.commandsOf(target);
    const decision = decide(asked, {
      ...{ caller, commands, nowMs: now(), ledgerBornAtMs: store.ledgerBornAtMs },
      entry: store.find(asked.caller, id),
      underWay: underWay?.digest,
      targetIsUp: targets.isUp(target),
    });
    if (decision.action !== "run") return { asked, decision, outcome: underWay?.outcome };
    return { asked, decision, outcome: this.#runner.run(asked, decision.description, signal) };
  }

  async #answerQueued({ asked, decision, outcome }: Queued, startMs: number, signal: AbortSignal): Promise<void> {
    const { reqId, id } = asked;
    switch (decision.action) {
      case "dry-run": {
        this.counters.add("dryRuns");
        void this.#options.audit.append("command", { ...auditedFields(asked), decision: "dry-run" });
        const result: Outcome = { type: "success", payload: { id, result: { dryRun: true } }, message: null };
        await this.#send(answerTo(reqId, asked, result));
        return;
      }
      case "run":
        if (outcome) await this.#answerWhenDone(asked, outcome, startMs);
        return;
      case "repeat":
        this.counters.add("repeats");
        this.#auditSome(`repeat ${asked.caller} ${id}`, { ...auditedFields(asked), decision: "repeat" });
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
        await this.#runner.settle(decision.entry, reqId, signal);
    }
  }

  async #answerWhenDone(asked: Asked, outcome: Promise<Outcome>, startMs: number): Promise<void> {
    const { caller, target, command, id } = asked;
    const [{ type, message }] = await Promise.all([outcome, this.#send(ackOf(asked))]);
    this.counters.add(type);
    const tookMs = Math.round(this.#options.clock.monotonicMs() - startMs);
    this.#options.log.info({ caller, target, command, id, outcome: type, message, tookMs }, "command carried out");
  }

  async #refuse({ atSign, unsigned }: Caller, reqId: number, why: CommandRejected, asked?: Asked): Promise<void> {
    const { reason, message, cause } = why;
    this.counters.add(`refused.${reason}`);
    const fields = { caller: atSign, reason, why: message, ...(cause === undefined ? {} : { err: cause }) };
    this.#note(`${atSign} ${reason}`, fields, "command refused", ALARMING.has(reason) ? "error" : "warn");
    // Whoever has signed is told of in full; of what others send in a name, some must do.
    if (asked) void this.#auditRefusal(asked, why);
    else
      this.#auditSome(`refused ${atSign} ${reason}`, {
        caller: atSign,
        reqId,
        decision: "refused",
        reason,
        why: message,
      });
    await this.#send({ to: atSign, reqId, type: "nack", payload: { reason }, message, sealed: !unsigned });
  }

  #auditRefusal(asked: Asked, { reason, message }: CommandRejected): Promise<void> {
    return this.#options.audit.append("command", {
      ...auditedFields(asked),
      decision: "refused",
      reason,
      why: message,
    });
  }

  #auditSome(subject: string, fields: Readonly<Record<string, unknown>>): void {
    const suppressed = this.#limiter.admit(`audit ${subject}`);
    if (suppressed === undefined) return;
    void this.#options.audit.append("command", { ...fields, ...(suppressed > 0 && { suppressed }) });
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

  #note(
    subject: string,
    fields: Readonly<Record<string, unknown>>,
    message: string,
    level: "warn" | "error" = "warn",
  ): void {
    const suppressed = this.#limiter.admit(subject);
    if (suppressed !== undefined)
      this.#options.log[level]({ ...fields, ...(suppressed > 0 && { suppressed }) }, message);
  }
}

/** Reasons that a human must look at. */
const ALARMING: ReadonlySet<RefusalReason> = new Set(["key-changed", "no-ledger"]);

function ackOf({ caller, reqId, sealed }: Asked): Answer {
  return { to: caller, reqId, type: "ack", payload: {}, message: null, sealed };
}

function auditedFields({ caller, target, command, id, args }: Asked): Readonly<Record<string, unknown>> {
  return { caller, target, command, id, args: auditedArgs(args) };
}
