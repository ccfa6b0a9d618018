import type { Clock } from "./clock.js";
import type { Log } from "./log.js";
import type { Port, PortOptions } from "./port.js";
import type { Disposable } from "./scope.js";

/** Which stream a reading travels in; an alarm may overtake a measurement. */
export type ReadingClass = "alarm" | "event" | "measurement";

export interface Reading {
  /** SenML name within the device: letters, digits and `-:./_`, starting with a letter or digit (RFC 8428, 4.5.1). */
  readonly name: string;
  /** SenML unit (RFC 8428, 12.1), e.g. `Cel`, `%RH`. */
  readonly unit?: string;
  readonly value: number | string | boolean;
  /** When it was taken, milliseconds since 1970 by `deps.clock`; left out: when it is published. */
  readonly timeMs?: number;
  /** `measurement` unless given. */
  readonly class?: ReadingClass;
}

/** A reading that a driver may give. */
export interface ReadingDescription {
  /** As in {@link Reading}; `*` stands for a part that the device decides, such as the serial number of a sensor. */
  readonly name: string;
  readonly unit?: string;
  /** Left out where only the device knows. */
  readonly type?: "number" | "string" | "boolean";
  /** `measurement` unless given. */
  readonly class?: ReadingClass;
}

export interface CommandDescription {
  readonly name: string;
  /** A JSON Schema for the arguments; left out: any object. */
  readonly argsSchema?: Readonly<Record<string, unknown>>;
  /** Running it twice has the effect of running it once. */
  readonly idempotent: boolean;
  /** The command of the same driver that tells the state this one changes, for when the outcome is unknown. */
  readonly readBack?: string;
}

/**
 * An instrument that gives readings and takes commands. It knows its device and nothing of atSigns, outbox or policy,
 * and neither retries nor reconnects: the supervisor disposes it, waits and opens it again.
 */
export interface Driver {
  readonly id: string;
  /** All that it may publish; left out by a driver whose device alone knows. May grow while it is open. */
  readonly readings?: readonly ReadingDescription[];
  readonly commands: readonly CommandDescription[];
  /** Returns when `stop` aborts; throws {@link DeviceGone} when the device goes. */
  run(stop: AbortSignal): Promise<void>;
  /**
   * Runs one command; the supervisor calls it for one command at a time, while `run` runs. The result goes back to the
   * caller as JSON.
   *
   * @throws CommandRefused when nothing was done, CommandUncertain when the device may have acted.
   */
  call(command: string, args: Readonly<Record<string, unknown>>, signal: AbortSignal): Promise<unknown>;
  /** What was counted since it was opened, e.g. `{ noise: 3 }`; shown in the health. */
  counters?(): Readonly<Record<string, number>>;
  [Symbol.asyncDispose](): Promise<void>;
}

export interface DriverDeps {
  /** Resolves when the readings are in the outbox. Order of calls is order in the stream. */
  readonly publish: (readings: readonly Reading[]) => Promise<void>;
  /** The device gives no more before what was published is safe: the outbox is not to wait for more to write with it. */
  readonly hurry?: () => void;
  readonly openPort: (path: string, options: PortOptions, signal: AbortSignal) => Promise<Port>;
  /**
   * Takes a port for this driver alone: others that use it are suspended until the lease is disposed. Left out where
   * there are no others.
   */
  readonly leasePort?: (path: string, signal: AbortSignal) => Promise<Disposable>;
  readonly clock: Clock;
  readonly log: Log;
  /** A folder of the driver's own that outlives restarts; made when first asked for. */
  readonly stateDir: () => Promise<string>;
}

export type OpenDriver<Config> = (config: Config, deps: DriverDeps, signal: AbortSignal) => Promise<Driver>;
