import { fromBase64 } from "../../core/bytes.js";
import { CommandRefused } from "../../core/command-errors.js";
import type { CommandDescription } from "../../core/driver.js";
import { EdgeError } from "../../core/errors.js";
import { parseSignedManifest } from "./manifest.js";
import type { Updater } from "./updater.js";

/** Bytes of an image in one command: with base64 and its envelope it fits a notification. */
export const FIRMWARE_PIECE_BYTES = 16_384;

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
  readonly #updater: Updater;
  #kick: (() => void) | undefined;

  constructor(updater: Updater) {
    this.#updater = updater;
  }

  has(command: string): boolean {
    return COMMANDS.some(({ name }) => name === command);
  }

  /** @throws {CommandRefused} with the reason. */
  async call(command: string, args: Readonly<Record<string, unknown>>): Promise<unknown> {
    try {
      return await this.#call(command, args);
    } catch (error) {
      if (error instanceof CommandRefused || !(error instanceof EdgeError)) throw error;
      throw new CommandRefused(error.message, { cause: error });
    }
  }

  async #call(command: string, args: Readonly<Record<string, unknown>>): Promise<unknown> {
    switch (command) {
      case "firmware-begin":
        return { offset: await this.#updater.begin(parseSignedManifest(args)) };
      case "firmware-data": {
        const { offset, data } = args;
        if (typeof offset !== "number" || typeof data !== "string")
          throw new CommandRefused("expected offset and data");
        const bytes = fromBase64(data);
        if (bytes.length > 2 * FIRMWARE_PIECE_BYTES)
          throw new CommandRefused(`at most ${2 * FIRMWARE_PIECE_BYTES} bytes a piece`);
        const next = await this.#updater.data(offset, bytes);
        this.#kick?.();
        return { offset: next };
      }
      case "firmware-status":
        return this.#updater.status();
      case "firmware-rollback":
        await this.#updater.rollback();
        this.#kick?.();
        return this.#updater.status();
      default:
        return { floor: await this.#updater.seal() };
    }
  }

  /** Carries on what is under way, now and whenever a command has begun something. */
  async run(signal: AbortSignal): Promise<void> {
    const stopped = new Promise<void>((resolve) => signal.addEventListener("abort", () => resolve(), { once: true }));
    while (!signal.aborted) {
      const kicked = new Promise<void>((resolve) => (this.#kick = resolve));
      await this.#updater.run(signal);
      await Promise.race([kicked, stopped]);
    }
  }
}
