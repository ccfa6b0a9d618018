import { createHash } from "node:crypto";
import { open, readFile, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import * as v from "valibot";
import { SyntaxInvalid } from "../../core/errors.js";
import { writeFileDurably } from "../../core/durable-file.js";
import type { SignedManifest } from "./manifest.js";

/** How far an update is, in the order of the way; a faulty firmware goes back by `reverting`. */
export const UPDATE_STEPS = [
  "receiving",
  "received",
  "verified",
  "leased",
  "uploaded",
  "tested",
  "probed",
  "reverting",
] as const;

export const UPDATE_ENDS = ["confirmed", "reverted", "rejected"] as const;

export type UpdateEnd = (typeof UPDATE_ENDS)[number];
export type UpdateStep = (typeof UPDATE_STEPS)[number] | UpdateEnd;

export interface UpdateState {
  readonly step: UpdateStep;
  /** Left out: a roll-back, there is no new image. */
  readonly manifest?: SignedManifest | undefined;
  readonly version: string;
  readonly counter: number;
  readonly size: number;
  /** Of the image file, hex. */
  readonly sha256: string;
  /** How the board names the new image, and what ran before; hex. */
  readonly hash?: string | undefined;
  readonly previousHash?: string | undefined;
  readonly previousVersion?: string | undefined;
  readonly startedMs: number;
  /** Why it was rejected or reverted, or what is tried again. */
  readonly reason?: string | undefined;
}

/** What one device knows of one board's firmware. */
export interface UpdateMemory {
  /** Images with a lower counter are refused; it rises only by a seal. */
  readonly floor: number;
  /** Counters of images that were confirmed here, by the board's hash in hex; the latest last. */
  readonly installed: readonly { readonly hash: string; readonly version: string; readonly counter: number }[];
  readonly update?: UpdateState | undefined;
}

const count = v.pipe(v.number(), v.integer(), v.minValue(0));
const memorySchema = v.strictObject({
  floor: count,
  installed: v.array(v.strictObject({ hash: v.string(), version: v.string(), counter: count })),
  update: v.optional(
    v.strictObject({
      step: v.picklist([...UPDATE_STEPS, ...UPDATE_ENDS]),
      manifest: v.optional(v.strictObject({ signed: v.string(), signature: v.string() })),
      version: v.string(),
      counter: count,
      size: count,
      sha256: v.string(),
      hash: v.optional(v.string()),
      previousHash: v.optional(v.string()),
      previousVersion: v.optional(v.string()),
      startedMs: v.number(),
      reason: v.optional(v.string()),
    }),
  ),
});

/** The memory and the image of an update, in a folder that outlives restarts. Each save is durable when it resolves. */
export class UpdateStore {
  readonly #folder: string;

  constructor(folder: string) {
    this.#folder = folder;
  }

  get #memoryPath(): string {
    return join(this.#folder, "firmware.json");
  }

  get #imagePath(): string {
    return join(this.#folder, "firmware.bin");
  }

  /** @throws {SyntaxInvalid} when the file is damaged: its floor must not be forgotten quietly. */
  async load(): Promise<UpdateMemory> {
    let text: string;
    try {
      text = await readFile(this.#memoryPath, "utf8");
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return { floor: 0, installed: [] };
      throw error;
    }
    try {
      return v.parse(memorySchema, JSON.parse(text));
    } catch (cause) {
      throw new SyntaxInvalid(`${this.#memoryPath} is damaged`, { cause });
    }
  }

  save(memory: UpdateMemory): Promise<void> {
    return writeFileDurably(this.#memoryPath, `${JSON.stringify(memory)}\n`);
  }

  /** How much of the image is there. */
  async imageBytes(): Promise<number> {
    try {
      return (await stat(this.#imagePath)).size;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return 0;
      throw error;
    }
  }

  /** Adds a piece at the end; a piece elsewhere is not written. Gives the bytes that are there now. */
  async append(offset: number, bytes: Uint8Array): Promise<number> {
    const file = await open(this.#imagePath, "a", 0o600);
    try {
      const { size } = await file.stat();
      if (offset !== size) return size;
      await file.writeFile(bytes);
      await file.datasync();
      return size + bytes.length;
    } finally {
      await file.close();
    }
  }

  /** Empty when it is gone. */
  async image(): Promise<Uint8Array> {
    try {
      return await readFile(this.#imagePath);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return new Uint8Array();
      throw error;
    }
  }

  async removeImage(): Promise<void> {
    await rm(this.#imagePath, { force: true });
  }
}

export const sha256Of = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");
