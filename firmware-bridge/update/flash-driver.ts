import { CommandRefused } from "../../core/command-errors.js";
import type { Driver, DriverDeps } from "../../core/driver.js";
import { EdgeError } from "../../core/errors.js";
import { Scope } from "../../core/scope.js";
import { FirmwareCommands, UPDATING } from "./firmware-commands.js";
import type { FlashTarget } from "./flash-target.js";
import { UpdateStore } from "./update-store.js";

export interface FlashDriverOptions {
  readonly id: string;
  /** The port that is leased while the board is used. */
  readonly path: string;
  readonly hardware: string;
  /** Ed25519 public keys in base64. */
  readonly keys: readonly string[];
  readonly selfTest?: string | undefined;
  readonly openTarget: (signal: AbortSignal) => Promise<FlashTarget>;
}

/**
 * A driver of a board's firmware alone. The port is open only while it is used, so that another driver, or a person's
 * console, may be on it at other times.
 */
export async function openFlashDriver(options: FlashDriverOptions, deps: DriverDeps): Promise<Driver> {
  const { id, path, hardware, keys, selfTest, openTarget } = options;
  const { clock, log, leasePort } = deps;
  const lease = async (signal: AbortSignal) => (await leasePort?.(path, signal)) ?? new Scope();
  const firmware = await FirmwareCommands.open({
    target: id,
    hardware,
    publicKeys: keys.map((key) => Buffer.from(key, "base64")),
    store: new UpdateStore(await deps.stateDir()),
    lease,
    openTarget,
    selfTest,
    clock,
    log,
  });
  let disposed: () => void = () => undefined;
  const gone = new Promise<void>((resolve) => (disposed = resolve));

  return {
    id,
    commands: [...firmware.descriptions, { name: "images", idempotent: true }],

    async run(stop) {
      await Promise.race([firmware.run(stop), gone]);
    },

    async call(command, args, signal) {
      if (firmware.has(command)) return firmware.call(command, args);
      if (command !== "images") throw new CommandRefused(`there is no command ${command}`);
      if (firmware.isUnderWay()) throw new CommandRefused(UPDATING);
      try {
        await using held = new Scope();
        held.use(await lease(signal));
        const slots = await held.use(await openTarget(signal)).slots(signal);
        return slots.map(({ hash, ...slot }) => ({ ...slot, hash: Buffer.from(hash).toString("hex") }));
      } catch (error) {
        signal.throwIfAborted();
        if (error instanceof EdgeError) throw new CommandRefused(error.message, { cause: error });
        throw error;
      }
    },

    async [Symbol.asyncDispose]() {
      disposed();
    },
  };
}
