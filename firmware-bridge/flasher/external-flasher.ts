import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import * as v from "valibot";
import { CommandRefused } from "../../core/command-errors.js";
import { EdgeError, SyntaxInvalid } from "../../core/errors.js";
import { writeFileDurably } from "../../core/durable-file.js";
import { ChildSignal } from "../../core/scope.js";
import { FlashRefused, type FlashTarget } from "../update/flash-target.js";

/** A program and its arguments, with `{port}`, `{image}` and `{version}` to be filled in. Nothing goes through a shell. */
export type FlasherCommand = readonly string[];

export interface ExternalFlasherOptions {
  /** Writes the image to the board, and leaves it running. */
  readonly flash: FlasherCommand;
  /** Exits with 0 when the board's application works; left out, an image that was written counts as good. */
  readonly probe?: FlasherCommand | undefined;
  readonly port: string;
  /** Where the images and the memory of this board are kept. */
  readonly folder: string;
  readonly timeoutMs: number;
  /** Of an image, by its SHA-256 in hex; such a board does not tell. */
  readonly versionOf: (sha256: string) => string;
}

/** The program failed; trying again may help. */
export class FlasherFailed extends EdgeError {
  override readonly code: string = "FLASHER_FAILED";
  /** Left out when it did not run to its end. */
  readonly exitCode: number | undefined;

  constructor(message: string, exitCode: number | undefined) {
    super(message);
    this.exitCode = exitCode;
  }
}

const hash = v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/u));
const memorySchema = v.strictObject({
  /** What the board was flashed with last, and whether it stays. */
  active: v.optional(hash),
  confirmed: v.boolean(),
  /** What it had before. */
  previous: v.optional(hash),
  uploaded: v.optional(hash),
  pending: v.optional(hash),
  /** How often the program could not write the pending one. */
  failures: v.optional(v.number()),
  /** A flasher began to write this; until it ended well, nobody knows what the board has. */
  writing: v.optional(hash),
});
type Memory = v.InferOutput<typeof memorySchema>;

/** Then an image that cannot be written is given up: too large, or none for this chip. */
const MAX_FAILURES = 5;

/**
 * A board with one slot, written by a program. The second slot is a file here: going back is flashing the image before
 * again, so an update needs that image, and the first one that is installed this way has none to go back to.
 */
export async function openExternalFlasher(options: ExternalFlasherOptions): Promise<FlashTarget> {
  const { folder, versionOf, probe } = options;
  const memoryPath = join(folder, "flasher.json");
  let memory = await load(memoryPath);
  const imagePath = (name: string): string => join(folder, `image-${name}.bin`);
  const remember = async (next: Memory): Promise<void> => {
    await writeFileDurably(memoryPath, `${JSON.stringify(next)}\n`);
    const kept = new Set([next.active, next.previous, next.uploaded, next.pending, next.writing]);
    for (const old of [memory.active, memory.previous, memory.uploaded, memory.pending]) {
      if (old !== undefined && !kept.has(old)) await rm(imagePath(old), { force: true });
    }
    memory = next;
  };
  /** Writes the image to the board; after a cut it is written again before anything else. */
  const flash = async (name: string, after: Memory, signal: AbortSignal): Promise<void> => {
    await remember({ ...memory, writing: name });
    await run(options.flash, { image: imagePath(name), version: versionOf(name) }, signal);
    await remember({ ...after, writing: undefined });
  };
  const run = (
    command: FlasherCommand,
    values: { readonly image: string; readonly version: string },
    signal: AbortSignal,
  ) => runProgram(fillIn(command, { port: options.port, ...values }), options.timeoutMs, signal);
  const slotOf = (name: string, flags: { active: boolean; confirmed: boolean; pending: boolean }) => ({
    ...flags,
    version: versionOf(name),
    hash: Buffer.from(name, "hex"),
  });
  const boot = async (signal: AbortSignal): Promise<void> => {
    const { active, pending, previous, confirmed, failures = 0 } = memory;
    if (pending !== undefined && failures < MAX_FAILURES) {
      // The first image that comes this way has nothing to go back to, so it stays.
      const after = { active: pending, confirmed: active === undefined, previous: active };
      await flash(pending, after, signal).catch(async (error: unknown) => {
        if (error instanceof FlasherFailed) await remember({ ...memory, failures: failures + 1 });
        throw error;
      });
    } else if (pending !== undefined && active === undefined) {
      await remember({ ...memory, pending: undefined, writing: undefined, failures: undefined });
    } else if (pending !== undefined && active !== undefined) {
      await flash(active, { active, confirmed: true, previous }, signal);
    } else if (!confirmed && previous !== undefined) {
      await flash(previous, { active: previous, confirmed: true, previous: active }, signal);
    }
  };

  return {
    hashOf: (image) => createHash("sha256").update(image).digest(),

    async slots(signal) {
      if (memory.writing !== undefined) await boot(signal);
      const { active, confirmed, pending, uploaded } = memory;
      const other = pending ?? uploaded;
      return [
        ...(active === undefined ? [] : [slotOf(active, { active: true, confirmed, pending: false })]),
        ...(other === undefined || other === active
          ? []
          : [slotOf(other, { active: false, confirmed: false, pending: pending !== undefined })]),
      ];
    },

    async upload(image, progress) {
      const name = createHash("sha256").update(image).digest("hex");
      await writeFileDurably(imagePath(name), image);
      await remember({ ...memory, uploaded: name });
      progress(image.length);
    },

    async test(wanted) {
      const name = Buffer.from(wanted).toString("hex");
      const known = [memory.uploaded, memory.previous].includes(name);
      if (!known) throw new FlashRefused("test: no image with this hash is here");
      if (!memory.confirmed) throw new FlashRefused("test: the running image is not confirmed");
      await remember({ ...memory, pending: name });
    },

    async confirm(wanted) {
      if (memory.active !== Buffer.from(wanted).toString("hex"))
        throw new FlashRefused("confirm: this image does not run");
      await remember({ ...memory, confirmed: true });
    },

    async erase() {
      await remember({ ...memory, uploaded: undefined, pending: undefined });
    },

    reset: boot,

    async selfTest(_, signal) {
      if (!probe || memory.active === undefined) return;
      try {
        await run(probe, { image: imagePath(memory.active), version: versionOf(memory.active) }, signal);
      } catch (error) {
        // It looked, and says no; a program that could not look may do so later.
        if (error instanceof FlasherFailed && error.exitCode !== undefined)
          throw new CommandRefused(error.message, { cause: error });
        throw error;
      }
    },

    [Symbol.asyncDispose]: async () => undefined,
  };
}

async function load(path: string): Promise<Memory> {
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return { confirmed: true };
    throw error;
  }
  try {
    return v.parse(memorySchema, JSON.parse(text));
  } catch (cause) {
    throw new SyntaxInvalid(`${path} is damaged`, { cause });
  }
}

const fillIn = (command: FlasherCommand, values: Readonly<Record<string, string>>): FlasherCommand =>
  command.map((part) => part.replace(/\{(port|image|version)\}/gu, (whole, name: string) => values[name] ?? whole));

/** @throws {FlasherFailed} with the end of what the program said. */
async function runProgram(
  [program = "", ...args]: FlasherCommand,
  timeoutMs: number,
  signal: AbortSignal,
): Promise<void> {
  // A program that cannot be started leaves its listener on the signal: on one of our own, then.
  await using child = new ChildSignal(signal);
  const options = { timeout: timeoutMs, signal: child.signal, maxBuffer: 1 << 20 };
  await new Promise<void>((resolve, reject) => {
    execFile(program, args, options, (error, stdout, stderr) => {
      if (!error) return resolve();
      if (signal.aborted) return reject(signal.reason as Error);
      const said = lastLine(stderr) || lastLine(stdout) || error.message;
      reject(new FlasherFailed(`${program} failed: ${said}`, typeof error.code === "number" ? error.code : undefined));
    });
  });
}

const lastLine = (text: string): string => text.trimEnd().split("\n").at(-1)?.slice(0, 200) ?? "";
