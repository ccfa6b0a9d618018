import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import * as v from "valibot";
import { EdgeError, SyntaxInvalid } from "../../core/errors.js";
import { writeFileDurably } from "../durable-file.js";
import { FlashRefused, type FlashTarget } from "./flash-target.js";

export interface ExternalFlasherOptions {
  /** Program and arguments; `{image}` stands for the path of the image file. Nothing goes through a shell. */
  readonly command: readonly string[];
  /** Where the images and the memory of this board are kept. */
  readonly folder: string;
  readonly timeoutMs: number;
  /** Version of an image, for the report; the manifest's version is told by the updater. */
  readonly versionOf?: (image: Uint8Array) => string;
}

/** `esptool` for an ESP32 at a port: the application of the default partition table is at 0x10000. */
export const esptoolCommand = (path: string, baud: number): readonly string[] => [
  ...["esptool", "--port", path, "--baud", String(baud), "--after", "hard_reset"],
  ...["write_flash", "0x10000", "{image}"],
];

/** The flasher failed; trying again may help. */
export class FlasherFailed extends EdgeError {
  override readonly code: string = "FLASHER_FAILED";
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
  /** A flasher began to write this; until it ended well, nobody knows what the board has. */
  writing: v.optional(hash),
});
type Memory = v.InferOutput<typeof memorySchema>;

/**
 * A board with one slot, written by a program. The second slot is a file here: going back is flashing the image before
 * again, so an update needs that image, and the first one that is installed this way has none to go back to.
 */
export async function openExternalFlasher(options: ExternalFlasherOptions): Promise<FlashTarget> {
  const { folder, versionOf = () => "" } = options;
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
    await runFlasher(options, imagePath(name), signal);
    await remember({ ...after, writing: undefined });
  };
  const slotOf = async (name: string, flags: { active: boolean; confirmed: boolean; pending: boolean }) => ({
    ...flags,
    version: versionOf(await readFile(imagePath(name))),
    hash: Buffer.from(name, "hex"),
  });
  const boot = async (signal: AbortSignal): Promise<void> => {
    const { active, pending, previous, confirmed } = memory;
    if (pending !== undefined) {
      // The first image that comes this way has nothing to go back to, so it stays.
      await flash(pending, { active: pending, confirmed: active === undefined, previous: active }, signal);
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
        ...(active === undefined ? [] : [await slotOf(active, { active: true, confirmed, pending: false })]),
        ...(other === undefined || other === active
          ? []
          : [await slotOf(other, { active: false, confirmed: false, pending: pending !== undefined })]),
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

/** @throws {FlasherFailed} with the end of what the program said. */
function runFlasher({ command, timeoutMs }: ExternalFlasherOptions, image: string, signal: AbortSignal): Promise<void> {
  const [program = "", ...args] = command.map((part) => part.replaceAll("{image}", image));
  return new Promise((resolve, reject) => {
    execFile(program, args, { timeout: timeoutMs, signal, maxBuffer: 1 << 20 }, (error, stdout, stderr) => {
      if (!error) resolve();
      else if (signal.aborted) reject(signal.reason);
      else
        reject(
          new FlasherFailed(`${program} failed: ${lastLine(stderr) || lastLine(stdout) || error.message}`, {
            cause: error,
          }),
        );
    });
  });
}

const lastLine = (text: string): string => text.trimEnd().split("\n").at(-1)?.slice(0, 200) ?? "";
