import { CommandRefused } from "../../core/command-errors.js";
import type { OpenDriver } from "../../core/driver.js";
import { EdgeError } from "../../core/errors.js";
import { Scope } from "../../core/scope.js";
import { FirmwareCommands } from "../update/firmware-commands.js";
import { UpdateStore } from "../update/update-store.js";
import { Updater } from "../update/updater.js";
import type { SmpConfig } from "./config.js";
import { openSmpTarget } from "./smp-target.js";

/**
 * Keeps the firmware of a board that speaks SMP. The port is open only while it is used, so that a console may be on it
 * at other times.
 */
export const openSmpDriver: OpenDriver<SmpConfig> = async (config, deps, signal) => {
  signal.throwIfAborted();
  const { clock, log } = deps;
  const openTarget = async (targetSignal: AbortSignal) => {
    const port = await deps.openPort(config.path, { baudRate: config.baud }, targetSignal);
    return openSmpTarget({ port, clock }, targetSignal);
  };
  const updater = await Updater.open({
    target: config.id,
    hardware: config.hardware,
    publicKeys: config.firmware.keys.map((key) => Buffer.from(key, "base64")),
    store: new UpdateStore(await deps.stateDir()),
    lease: async () => new Scope(),
    openTarget,
    clock,
    log,
  });
  const firmware = new FirmwareCommands(updater);
  let disposed: () => void = () => undefined;
  const gone = new Promise<void>((resolve) => (disposed = resolve));

  return {
    id: config.id,
    commands: [...firmware.descriptions, { name: "images", idempotent: true }],

    async run(stop) {
      await Promise.race([firmware.run(stop), gone]);
    },

    async call(command, args, callSignal) {
      if (firmware.has(command)) return firmware.call(command, args);
      if (command !== "images") throw new CommandRefused(`there is no command ${command}`);
      if (updater.isUnderWay()) throw new CommandRefused("an update is under way; ask for its firmware-status");
      try {
        await using target = await openTarget(callSignal);
        const slots = await target.slots(callSignal);
        return slots.map(({ hash, ...slot }) => ({ ...slot, hash: Buffer.from(hash).toString("hex") }));
      } catch (error) {
        callSignal.throwIfAborted();
        if (error instanceof EdgeError) throw new CommandRefused(error.message, { cause: error });
        throw error;
      }
    },

    async [Symbol.asyncDispose]() {
      disposed();
    },
  };
};
