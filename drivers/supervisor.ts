import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { isDeepStrictEqual } from "node:util";
import type { Clock } from "../core/clock.js";
import { CommandRefused, CommandUncertain } from "../core/command-errors.js";
import type { CommandDescription, DriverDeps, Reading } from "../core/driver.js";
import type { Log } from "../core/log.js";
import { ChildSignal, TaskGroup, untilAborted } from "../core/scope.js";
import { NameOwners } from "./name-owners.js";
import { PortLeases } from "./port-leases.js";
import { openPort } from "./serial/open-port.js";
import { SupervisedDriver, type DriverHealth, type SupervisedOptions } from "./supervised-driver.js";
import { within } from "./within.js";

/** What opens a configured driver; `drivers/registry.ts` gives it for each kind. */
export interface ConfiguredDriver {
  readonly id: string;
  readonly type: string;
  readonly open: SupervisedOptions["open"];
  /** Resolves when a device that is away has come; it ends the wait before the next opening. */
  readonly untilPresent?: SupervisedOptions["untilPresent"];
  /** All that it is made from: while this stays equal, the driver runs on when the configuration is read anew. */
  readonly config?: unknown;
}

export interface DriverSupervisorOptions {
  readonly drivers: readonly ConfiguredDriver[];
  /** Ids of drivers that are known, but do not run. */
  readonly disabled?: ReadonlySet<string>;
  /** Resolves when the readings are in the outbox. */
  readonly publish: (driverId: string, readings: readonly Reading[]) => Promise<void>;
  /** {@link DriverDeps.hurry} */
  readonly hurry?: () => void;
  /** Folder under which each driver gets one of its own, on its first demand. */
  readonly stateDir: string;
  readonly clock: Clock;
  readonly log: Log;
  readonly openPort?: DriverDeps["openPort"];
  readonly limits?: SupervisedOptions["limits"];
}

export interface DriverCommands {
  readonly target: string;
  readonly commands: readonly CommandDescription[];
}

/** What a new configuration did, by ids. */
export interface DriverChanges {
  readonly kept: readonly string[];
  readonly started: readonly string[];
  readonly stopped: readonly string[];
}

interface Slot {
  readonly configured: ConfiguredDriver;
  readonly driver: SupervisedDriver;
  running: { readonly stop: ChildSignal; readonly ended: Promise<void> } | undefined;
}

/** A driver that ends later than this is not waited for; the new one then finds its device taken, and tries again. */
const END_WITHIN_MS = 10_000;

/** Runs the configured drivers, each for itself: what fails is opened again, for ever, and disturbs no other. */
export class DriverSupervisor {
  readonly #options: DriverSupervisorOptions;
  readonly #ports: PortLeases;
  readonly #names = new NameOwners();
  #slots: ReadonlyMap<string, Slot>;
  #disabled: ReadonlySet<string>;
  #group: TaskGroup | undefined;
  #configuring: Promise<unknown> = Promise.resolve();

  constructor(options: DriverSupervisorOptions) {
    this.#options = options;
    this.#ports = new PortLeases({ openPort: options.openPort ?? openPort, clock: options.clock });
    this.#disabled = options.disabled ?? new Set();
    this.#slots = new Map(options.drivers.map((configured) => [configured.id, this.#slotOf(configured)]));
  }

  /** Returns when `stop` has aborted and every driver is closed or past its deadline. */
  async run(stop: AbortSignal): Promise<void> {
    await using group = new TaskGroup(stop);
    this.#group = group;
    try {
      // Without drivers, too: the next configuration may have some.
      group.start((signal) => untilAborted(new Promise<never>(() => undefined), signal));
      for (const slot of this.#slots.values()) this.#start(slot);
      await group.join();
    } finally {
      this.#group = undefined;
    }
  }

  /**
   * Takes another list of drivers while they run: one whose `config` is the same runs on untouched, others are stopped
   * and started. `disabled` ones are known, but do not run.
   */
  configure(drivers: readonly ConfiguredDriver[], disabled: ReadonlySet<string>): Promise<DriverChanges> {
    const done = this.#configuring.then(() => this.#configure(drivers, disabled));
    this.#configuring = done.catch(() => undefined); // whoever asked is told
    return done;
  }

  async #configure(drivers: readonly ConfiguredDriver[], disabled: ReadonlySet<string>): Promise<DriverChanges> {
    const same = new Set(
      drivers.filter((next) => isSame(this.#slots.get(next.id)?.configured, next)).map(({ id }) => id),
    );
    const leaving = [...this.#slots.values()].filter(
      ({ configured: { id }, running }) => running && (!same.has(id) || disabled.has(id)),
    );
    this.#disabled = disabled;
    await Promise.all(leaving.map((slot) => this.#stop(slot)));
    for (const { configured } of leaving) this.#names.forget(configured.id);
    const slots = drivers.map((next) => {
      const known = same.has(next.id) ? this.#slots.get(next.id) : undefined;
      return [next.id, known ?? this.#slotOf(next)] as const;
    });
    this.#slots = new Map(slots);
    const starting = [...this.#slots.values()].filter((slot) => this.#start(slot));
    const idOf = ({ configured }: Slot): string => configured.id;
    const started = starting.map(idOf);
    const kept = [...this.#slots.keys()].filter((id) => !started.includes(id) && !disabled.has(id));
    return { kept, started, stopped: leaving.map(idOf) };
  }

  /** @returns whether it was not running, and may run. */
  #start(slot: Slot): boolean {
    const group = this.#group;
    if (!group || slot.running || this.#disabled.has(slot.configured.id)) return false;
    const stop = new ChildSignal(group.signal);
    const run = async (): Promise<void> => {
      try {
        await slot.driver.run(stop.signal);
      } finally {
        slot.running = undefined;
        await stop[Symbol.asyncDispose]();
      }
    };
    const ended = run();
    slot.running = { stop, ended };
    group.start(() => ended);
    return true;
  }

  async #stop({ running, configured }: Slot): Promise<void> {
    if (!running) return;
    running.stop.abort(new CommandUncertain(`${configured.id} was configured anew during the command`));
    const { clock, log } = this.#options;
    const never = new AbortController().signal;
    const options = { ms: END_WITHIN_MS, clock, what: `end ${configured.id}` };
    await within(() => running.ended, options, never).catch((error: unknown) =>
      log.warn({ err: error, driver: configured.id }, "driver did not end"),
    );
  }

  /**
   * Runs a command of the driver `target`, one at a time per target and within a deadline.
   *
   * @throws {CommandRefused} when nothing was done, {CommandUncertain} when the device may have acted.
   */
  async call(
    target: string,
    command: string,
    args: Readonly<Record<string, unknown>>,
    signal: AbortSignal,
  ): Promise<unknown> {
    const slot = this.#slots.get(target);
    if (!slot) throw new CommandRefused(`no driver ${JSON.stringify(target)}`);
    return slot.driver.call(command, args, signal);
  }

  /** The commands of each driver; none for one that was never open so far. */
  commands(): readonly DriverCommands[] {
    return Array.from(this.#slots, ([target, { driver }]) => ({ target, commands: driver.commands }));
  }

  health(): readonly DriverHealth[] {
    return Array.from(this.#slots, ([id, { driver }]) => {
      const { health } = driver;
      if (this.#disabled.has(id) && health.state === "stopped") return { ...health, state: "disabled" };
      return this.#withSharedNames(health);
    });
  }

  /** Names that are another driver's are told unless something worse is. */
  #withSharedNames(health: DriverHealth): DriverHealth {
    const shared = this.#names.sharedBy(health.id);
    const [first] = shared;
    if (!first) return health;
    const told = { lastErrorCode: "NAME_SHARED", lastError: `${first[0]} is a reading of ${first[1]} too` };
    return { ...told, ...health, counters: { ...health.counters, sharedNames: shared.size } };
  }

  #slotOf(configured: ConfiguredDriver): Slot {
    return { configured, driver: supervise(configured, this.#options, this.#ports, this.#names), running: undefined };
  }
}

/** Only a driver that tells its configuration can be known to be the same. */
function isSame(known: ConfiguredDriver | undefined, next: ConfiguredDriver): boolean {
  return known?.config !== undefined && isDeepStrictEqual(known.config, next.config);
}

function supervise(
  { id, type, open, untilPresent }: ConfiguredDriver,
  options: DriverSupervisorOptions,
  ports: PortLeases,
  names: NameOwners,
): SupervisedDriver {
  const stateDir = join(options.stateDir, id);
  const log = options.log.child({ driver: id });
  const deps: DriverDeps = {
    publish: (readings) => {
      names.claim(id, readings, log);
      return options.publish(id, readings);
    },
    ...(options.hurry === undefined ? {} : { hurry: options.hurry }),
    openPort: (...port) => ports.open(id, ...port),
    leasePort: (path, signal) => ports.lease(id, path, signal),
    clock: options.clock,
    log,
    async stateDir() {
      await mkdir(stateDir, { recursive: true, mode: 0o700 });
      return stateDir;
    },
  };
  return new SupervisedDriver({ id, type, open, untilPresent, deps, limits: options.limits });
}
