import { CommandRefused } from "../../core/command-errors.js";
import type { CommandDescription, DriverDeps, OpenDriver } from "../../core/driver.js";
import { Scope, TaskGroup } from "../../core/scope.js";
import { FirmwareCommands, UPDATING } from "../update/firmware-commands.js";
import { UpdateStore } from "../update/update-store.js";
import { type Board, type BoardInfo, openBoard } from "./board.js";
import type { FirmwareConfig, LinkConfig } from "./config.js";
import { LinkRefused } from "./link-errors.js";
import { linkTarget } from "./link-target.js";
import { loadLinkRecord, saveLinkRecord } from "./link-record.js";

/**
 * A microcontroller that speaks the sealed link. It tells its commands itself; when it comes back from a restart with
 * others, the driver ends, so that the supervisor opens it anew.
 */
export const openLinkDriver: OpenDriver<LinkConfig> = async (config, deps, signal) => {
  const folder = await deps.stateDir();
  const record = config.security === "sealed" ? await loadLinkRecord(folder) : undefined;
  if (config.security === "sealed" && !record) {
    throw new LinkRefused("LINK_NOT_PAIRED", `${config.path} is not paired; run \`atedge link pair ${config.id}\``);
  }
  const port = await deps.openPort(config.path, { baudRate: config.baud }, signal);
  const board = await openBoard(
    {
      ...deps,
      port,
      record,
      baud: config.baud,
      keepAliveMs: config.keepAliveMs,
      openTimeoutMs: config.openTimeoutMs,
      save: (next) => saveLinkRecord(folder, next),
    },
    signal,
  );
  const firmware = config.firmware ? await firmwareOf(board, config, config.firmware, folder, deps) : undefined;
  const commands = [...describe(board.info), ...(firmware?.descriptions ?? [])];

  return {
    id: config.id,
    commands,

    async run(stop) {
      await using tasks = new TaskGroup(stop);
      tasks.start((running) => board.run(running));
      if (firmware) tasks.start((running) => firmware.run(running));
      await tasks.join();
    },

    async call(command, args, callSignal) {
      if (firmware?.has(command)) return firmware.call(command, args);
      if (firmware?.isUnderWay()) throw new CommandRefused(UPDATING);
      if (!commands.some(({ name }) => name === command))
        throw new CommandRefused(`the board has no command ${command}`);
      return board.call(command, args, config.commandTimeoutMs, callSignal);
    },

    counters: () => ({ ...board.counters }),

    [Symbol.asyncDispose]: () => board[Symbol.asyncDispose](),
  };
};

async function firmwareOf(
  board: Board,
  { id, path }: LinkConfig,
  { keys, selfTest }: FirmwareConfig,
  folder: string,
  { clock, log, leasePort }: DriverDeps,
): Promise<FirmwareCommands> {
  // The link goes on beside the update: the board's readings go into the outbox as ever, its other commands wait.
  return FirmwareCommands.open({
    target: id,
    hardware: board.info.hardware,
    publicKeys: keys.map((key) => Buffer.from(key, "base64")),
    store: new UpdateStore(folder),
    lease: async (signal) => (await leasePort?.(path, signal)) ?? new Scope(),
    openTarget: async () => ({ ...linkTarget(board), [Symbol.asyncDispose]: async () => undefined }),
    selfTest,
    clock,
    log,
  });
}

function describe(info: BoardInfo): readonly CommandDescription[] {
  return info.commands.map(({ name, idempotent, argsSchema }) => {
    const schema = argsSchema === undefined ? undefined : parseSchema(argsSchema);
    return { name, idempotent, ...(schema ? { argsSchema: schema } : {}) };
  });
}

/** A schema that is not one is left out: the board checks its arguments itself. */
function parseSchema(text: string): Readonly<Record<string, unknown>> | undefined {
  try {
    const schema: unknown = JSON.parse(text);
    return typeof schema === "object" && schema !== null ? (schema as Record<string, unknown>) : undefined;
  } catch {
    return undefined;
  }
}
