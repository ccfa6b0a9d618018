import { fromBase64 } from "../../core/bytes.js";
import { CommandRefused } from "../../core/command-errors.js";
import type { CommandDescription } from "../../core/driver.js";
import { EdgeError, SyntaxInvalid } from "../../core/errors.js";
import { parseSignedManifest } from "./manifest.js";
import { Updater, type UpdaterOptions } from "./updater.js";

/** Bytes of an image in one command: with base64 and its envelope it fits a notification. */
export const FIRMWARE_PIECE_BYTES = 16_384;

/** What a command of a board is answered meanwhile. */
export const UPDATING = "a firmware update is under way; ask for its firmware-status";

const object = (properties: Readonly<Record<string, unknown>>) => ({
  type: "object",
  properties,
  required: Object.keys(properties),
  additionalProperties: false,
});

const COMMANDS: readonly CommandDescription[] = [
  {
    name: "firmware-begin",
    idempotent: true,
    argsSchema: object({ signed: { type: "string" }, signature: { type: "string" } }),
  },
  {
    name: "firmware-data",
    idempotent: true,
    argsSchema: object({ offset: { type: "integer", minimum: 0 }, data: { type: "string" } }),
  },
  { name: "firmware-status", idempotent: true, argsSchema: object({}) },
  { name: "firmware-rollback", idempotent: false, argsSchema: object({}) },
  { name: "firmware-seal", idempotent: true, argsSchema: object({}) },
];

/**
 * Firmware over the ordinary command path: end-to-end encrypted, checked by the policy, in pieces that may be repeated.
 * A driver adds these to the commands of its board.
 */
export class FirmwareCommands {
  readonly descriptions = COMMANDS;
  readonly #updater: Updater | undefined;
  readonly #fault: string;
  #kick: (() => void) | undefined;

  private constructor(updater: Updater | undefined, fault: string) {
    this.#updater = updater;
    this.#fault = fault;
  }

  /** A damaged memory stops firmware until a human has looked, since its floor is in there, and nothing else. */
  static async open(options: UpdaterOptions): Promise<FirmwareCommands> {
    try {
      return new FirmwareCommands(await Updater.open(options), "");
    } catch (error) {
      if (!(error instanceof SyntaxInvalid)) throw error;
      options.log.error({ err: error }, "no firmware is taken");
      return new FirmwareCommands(undefined, `${error.message}: restore it, or remove it and seal anew`);
    }
  }

  /** The board is being written, tried or brought back: its other commands wait. */
  isUnderWay(): boolean {
    return this.#updater?.isUnderWay() ?? false;
  }

  has(command: string): boolean {
    return COMMANDS.some(({ name }) => name === command);
  }

  /** @throws {CommandRefused} with the reason. */
  async call(command: string, args: Readonly<Record<string, unknown>>): Promise<unknown> {
    if (!this.#updater) throw new CommandRefused(this.#fault);
    try {
      return await this.#call(this.#updater, command, args);
    } catch (error) {
      if (error instanceof CommandRefused || !(error instanceof EdgeError)) throw error;
      throw new CommandRefused(error.message, { cause: error });
    }
  }

  async #call(updater: Updater, command: string, args: Readonly<Record<string, unknown>>): Promise<unknown> {
    switch (command) {
      case "firmware-begin":
        return { offset: await updater.begin(parseSignedManifest(args)) };
      case "firmware-data": {
        const { offset, data } = args;
        if (typeof offset !== "number" || typeof data !== "string")
          throw new CommandRefused("expected offset and data");
        const bytes = fromBase64(data);
        if (bytes.length > 2 * FIRMWARE_PIECE_BYTES)
          throw new CommandRefused(`at most ${2 * FIRMWARE_PIECE_BYTES} bytes a piece`);
        const next = await updater.data(offset, bytes);
        this.#kick?.();
        return { offset: next };
      }
      case "firmware-status":
        return updater.status();
      case "firmware-rollback":
        await updater.rollback();
        this.#kick?.();
        return updater.status();
      default:
        return { floor: await updater.seal() };
    }
  }

  /** Carries on what is under way, now and whenever a command has begun something. */
  async run(signal: AbortSignal): Promise<void> {
    const stopped = new Promise<void>((resolve) => signal.addEventListener("abort", () => resolve(), { once: true }));
    while (!signal.aborted) {
      const kicked = new Promise<void>((resolve) => (this.#kick = resolve));
      await this.#updater?.run(signal);
      await Promise.race([kicked, stopped]);
    }
  }
}
