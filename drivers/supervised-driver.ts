import { backoff } from "../core/backoff.js";
import { CommandRefused, CommandUncertain } from "../core/command-errors.js";
import type { CommandDescription, Driver, DriverDeps } from "../core/driver.js";
import { EdgeError, codeOf, TimedOut } from "../core/errors.js";
import { ChildSignal } from "../core/scope.js";
import { faultOf } from "./arguments.js";
import { OneAtATime } from "./one-at-a-time.js";
import { within } from "./within.js";

export interface DriverLimits {
  /** Waits between two openings: full jitter, from the first cap up to the last. */
  readonly firstWaitMs: number;
  readonly maxWaitMs: number;
  readonly openMs: number;
  /** A driver that has run so long starts again with the first wait. */
  readonly steadyMs: number;
  readonly commandMs: number;
  /** How long an overdue command may keep its target before the driver is opened anew. */
  readonly overdueMs: number;
  readonly maxWaitingCommands: number;
  readonly disposeMs: number;
  /** A failure that goes on is logged once in this time. */
  readonly logEveryMs: number;
}

export const DRIVER_LIMITS: DriverLimits = {
  firstWaitMs: 250,
  maxWaitMs: 30_000,
  openMs: 40_000,
  steadyMs: 10_000,
  commandMs: 30_000,
  overdueMs: 2_000,
  maxWaitingCommands: 16,
  disposeMs: 2_000,
  logEveryMs: 60_000,
};

/** `opening` and `waiting` alternate while the device is away; `disabled` by an operator. */
export type DriverState = "opening" | "running" | "waiting" | "stopped" | "disabled";

export interface DriverHealth {
  readonly id: string;
  readonly type: string;
  readonly state: DriverState;
  /** When the state began, milliseconds since 1970. */
  readonly sinceMs: number;
  readonly lastErrorCode?: string;
  readonly lastError?: string;
  /** `opened`, `failed`, `readings`, `commands`, `waitingCommands`, and what the driver counts itself since it is open. */
  readonly counters: Readonly<Record<string, number>>;
}

export interface SupervisedOptions {
  readonly id: string;
  readonly type: string;
  readonly open: (deps: DriverDeps, signal: AbortSignal) => Promise<Driver>;
  readonly deps: DriverDeps;
  readonly untilPresent?: ((signal: AbortSignal) => Promise<void>) | undefined;
  readonly limits?: Partial<DriverLimits> | undefined;
  readonly random?: () => number;
}

/** One configured driver: opened, run, disposed and, after a wait, opened again. */
export class SupervisedDriver {
  readonly #options: SupervisedOptions;
  readonly #limits: DriverLimits;
  readonly #deps: DriverDeps;
  readonly #turns: OneAtATime;
  #current: { readonly driver: Driver; readonly session: ChildSignal } | undefined;
  #commands: readonly CommandDescription[] = [];
  #state: DriverState = "stopped";
  #sinceMs: number;
  #lastError: unknown;
  #loggedCode: string | undefined;
  #loggedAtMs = -Infinity;
  #opened = 0;
  #failed = 0;
  #readings = 0;
  #calls = 0;

  constructor(options: SupervisedOptions) {
    this.#options = options;
    this.#limits = { ...DRIVER_LIMITS, ...options.limits };
    this.#turns = new OneAtATime(this.#limits.maxWaitingCommands);
    this.#sinceMs = options.deps.clock.now();
    this.#deps = {
      ...options.deps,
      publish: async (readings) => {
        await options.deps.publish(readings);
        this.#readings += readings.length;
      },
    };
  }

  /** As last declared; kept while the driver is away. */
  get commands(): readonly CommandDescription[] {
    return this.#commands;
  }

  get health(): DriverHealth {
    return {
      id: this.#options.id,
      type: this.#options.type,
      state: this.#state,
      sinceMs: this.#sinceMs,
      ...(this.#lastError === undefined
        ? {}
        : { lastErrorCode: failureCode(this.#lastError), lastError: messageOf(this.#lastError) }),
      counters: {
        opened: this.#opened,
        failed: this.#failed,
        readings: this.#readings,
        commands: this.#calls,
        waitingCommands: this.#turns.waiting,
        ...this.#current?.driver.counters?.(),
      },
    };
  }

  /** Returns when `stop` has aborted and the driver is closed. */
  async run(stop: AbortSignal): Promise<void> {
    const { clock } = this.#deps;
    let waits = this.#waits();
    const stopped = (): boolean => stop.aborted;
    while (!stopped()) {
      const startMs = clock.monotonicMs();
      const failure = await this.#session(stop).then(
        () => new EdgeError("the driver ended by itself"),
        (error: unknown) => error,
      );
      if (stopped()) break;
      this.#report(failure);
      if (clock.monotonicMs() - startMs >= this.#limits.steadyMs) waits = this.#waits();
      this.#enter("waiting");
      if (await this.#wait(waits.next().value, stop)) waits = this.#waits();
    }
    this.#enter("stopped");
  }

  /** @throws {CommandRefused} when nothing was done, {CommandUncertain} when the device may have acted. */
  async call(command: string, args: Readonly<Record<string, unknown>>, signal: AbortSignal): Promise<unknown> {
    await using turn = await this.#turns.take(signal);
    const { id } = this.#options;
    const current = this.#current;
    if (!current) {
      const why = this.#lastError === undefined ? "" : `: ${messageOf(this.#lastError)}`;
      throw new CommandRefused(`${id} is not connected${why}`);
    }
    const description = current.driver.commands.find(({ name }) => name === command);
    if (!description) throw new CommandRefused(`${id} has no command ${JSON.stringify(command)}`);
    const fault = faultOf(description.argsSchema ?? { type: "object" }, args);
    if (fault !== undefined) throw new CommandRefused(fault);
    this.#calls += 1;
    return await turn.hold(this.#carryOut(current, command, args, signal));
  }

  #carryOut(
    { driver, session }: { readonly driver: Driver; readonly session: ChildSignal },
    command: string,
    args: Readonly<Record<string, unknown>>,
    signal: AbortSignal,
  ): { readonly outcome: Promise<unknown>; readonly finished: Promise<void> } {
    const { clock } = this.#deps;
    let settled: Promise<unknown> = Promise.resolve();
    const outcome = (async () => {
      await using either = new ChildSignal(session.signal);
      const cancel = (): void => either.abort(signal.reason);
      signal.addEventListener("abort", cancel, { once: true });
      try {
        const work = async (inner: AbortSignal): Promise<unknown> => {
          const call = driver.call(command, args, inner);
          settled = call;
          return call;
        };
        const options = { ms: this.#limits.commandMs, clock, what: `${driver.id}/${command}` };
        return await within(work, options, either.signal);
      } catch (error) {
        if (error instanceof CommandRefused || error instanceof CommandUncertain) throw error;
        throw new CommandUncertain(`${driver.id}/${command}: ${messageOf(error)}`, { cause: error });
      } finally {
        signal.removeEventListener("abort", cancel);
      }
    })();
    // The next command waits for the end of this one, not for its deadline; a driver that never ends is opened anew.
    const finished = (async () => {
      await outcome.catch(() => undefined);
      const options = { ms: this.#limits.overdueMs, clock, what: `${driver.id}/${command}` };
      const ended = (): Promise<unknown> => Promise.allSettled([settled]);
      await within(ended, options, session.signal).catch((error: unknown) => {
        if (error instanceof TimedOut) session.abort(error);
      });
    })();
    return { outcome, finished };
  }

  async #session(stop: AbortSignal): Promise<void> {
    await using session = new ChildSignal(stop);
    this.#enter("opening");
    const driver = await this.#open(session.signal);
    try {
      this.#commands = driver.commands;
      this.#current = { driver, session };
      this.#opened += 1;
      this.#enter("running");
      this.#lastError = undefined;
      this.#deps.log.info({ type: this.#options.type, opened: this.#opened }, "driver running");
      await driver.run(session.signal);
      session.signal.throwIfAborted();
    } finally {
      this.#current = undefined;
      session.abort(new CommandUncertain(`${this.#options.id} went away during the command`));
      await this.#dispose(driver);
    }
  }

  async #open(signal: AbortSignal): Promise<Driver> {
    let opening: Promise<Driver> | undefined;
    try {
      const options = { ms: this.#limits.openMs, clock: this.#deps.clock, what: `open ${this.#options.id}` };
      return await within((inner) => (opening = this.#options.open(this.#deps, inner)), options, signal);
    } catch (error) {
      // One that comes too late is closed, so that the next try finds the device free.
      void opening?.then(
        (late) => this.#dispose(late),
        () => undefined,
      );
      throw error;
    }
  }

  async #dispose(driver: Driver): Promise<void> {
    const { clock, log } = this.#deps;
    const never = new AbortController().signal;
    const options = { ms: this.#limits.disposeMs, clock, what: `close ${driver.id}` };
    await within(() => driver[Symbol.asyncDispose](), options, never).catch((error: unknown) => {
      log.warn({ err: error }, "driver did not close");
    });
  }

  /** Waits, or until the device comes: then it gives true. */
  async #wait(ms: number, stop: AbortSignal): Promise<boolean> {
    await using wait = new ChildSignal(stop);
    const { untilPresent } = this.#options;
    const present = untilPresent?.(wait.signal).then(
      () => true,
      // No watch, as where inotify has no room left: the schedule alone then.
      () => new Promise<never>(() => undefined),
    );
    const late = this.#deps.clock.sleep(ms, wait.signal).then(
      () => false,
      () => false,
    );
    return await Promise.race(present ? [late, present] : [late]);
  }

  #waits(): Generator<number, never> {
    const { firstWaitMs, maxWaitMs } = this.#limits;
    const { random } = this.#options;
    return backoff({ firstMs: firstWaitMs, maxMs: maxWaitMs, ...(random ? { random } : {}) });
  }

  #enter(state: DriverState): void {
    this.#state = state;
    this.#sinceMs = this.#deps.clock.now();
  }

  #report(error: unknown): void {
    this.#failed += 1;
    this.#lastError = error;
    const code = failureCode(error);
    const nowMs = this.#deps.clock.monotonicMs();
    if (code === this.#loggedCode && nowMs - this.#loggedAtMs < this.#limits.logEveryMs) return;
    this.#loggedCode = code;
    this.#loggedAtMs = nowMs;
    // A defect in a driver must not end the agent, but its stack has to be seen.
    if (error instanceof EdgeError) this.#deps.log.warn({ code, reason: error.message }, "driver failed");
    else this.#deps.log.error({ code, err: error }, "driver failed");
  }
}

function failureCode(error: unknown): string {
  return codeOf(error) ?? "INTERNAL";
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
