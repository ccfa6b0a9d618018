import { CommandRefused } from "../../core/command-errors.js";
import type { CommandDescription, OpenDriver } from "../../core/driver.js";
import { type BoardInfo, openBoard } from "./board.js";
import type { LinkConfig } from "./config.js";
import { LinkRefused } from "./link-errors.js";
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
  const commands = describe(board.info);

  return {
    id: config.id,
    commands,

    async run(stop) {
      await board.run(stop);
    },

    async call(command, args, callSignal) {
      if (!commands.some(({ name }) => name === command))
        throw new CommandRefused(`the board has no command ${command}`);
      return board.call(command, args, config.commandTimeoutMs, callSignal);
    },

    counters: () => ({ ...board.counters }),

    [Symbol.asyncDispose]: () => board[Symbol.asyncDispose](),
  };
};

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
