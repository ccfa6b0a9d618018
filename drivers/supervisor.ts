import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import type { Clock } from "../core/clock.js";
import { CommandRefused } from "../core/command-errors.js";
import type { CommandDescription, DriverDeps, Reading } from "../core/driver.js";
import type { Log } from "../core/log.js";
import { TaskGroup } from "../core/scope.js";
import { openPort } from "./serial/open-port.js";
import { SupervisedDriver, type DriverHealth, type SupervisedOptions } from "./supervised-driver.js";

/** What opens a configured driver; `drivers/registry.ts` gives it for each kind. */
export interface ConfiguredDriver {
  readonly id: string;
  readonly type: string;
  readonly open: SupervisedOptions["open"];
  /** Resolves when a device that is away has come; it ends the wait before the next opening. */
  readonly untilPresent?: SupervisedOptions["untilPresent"];
}

export interface DriverSupervisorOptions {
  readonly drivers: readonly ConfiguredDriver[];
  /** Resolves when the readings are in the outbox. */
  readonly publish: (driverId: string, readings: readonly Reading[]) => Promise<void>;
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

/** Runs the configured drivers, each for itself: what fails is opened again, for ever, and disturbs no other. */
export class DriverSupervisor {
  readonly #drivers: ReadonlyMap<string, SupervisedDriver>;

  constructor(options: DriverSupervisorOptions) {
    this.#drivers = new Map(options.drivers.map((driver) => [driver.id, supervise(driver, options)]));
  }

  /** Returns when `stop` has aborted and every driver is closed or past its deadline. */
  async run(stop: AbortSignal): Promise<void> {
    await using group = new TaskGroup(stop);
    for (const driver of this.#drivers.values()) group.start((signal) => driver.run(signal));
    await group.join();
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
    const driver = this.#drivers.get(target);
    if (!driver) throw new CommandRefused(`no driver ${JSON.stringify(target)}`);
    return driver.call(command, args, signal);
  }

  /** The commands of each driver; none for one that was never open so far. */
  commands(): readonly DriverCommands[] {
    return Array.from(this.#drivers, ([target, { commands }]) => ({ target, commands }));
  }

  health(): readonly DriverHealth[] {
    return Array.from(this.#drivers.values(), (driver) => driver.health);
  }
}

function supervise(
  { id, type, open, untilPresent }: ConfiguredDriver,
  options: DriverSupervisorOptions,
): SupervisedDriver {
  const stateDir = join(options.stateDir, id);
  const deps: DriverDeps = {
    publish: (readings) => options.publish(id, readings),
    openPort: options.openPort ?? openPort,
    clock: options.clock,
    log: options.log.child({ driver: id }),
    async stateDir() {
      await mkdir(stateDir, { recursive: true, mode: 0o700 });
      return stateDir;
    },
  };
  return new SupervisedDriver({ id, type, open, untilPresent, deps, limits: options.limits });
}
