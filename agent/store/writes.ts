import { codeOf, EdgeError } from "../../core/errors.js";
import type { Durability, GroupCommit } from "../../core/group-commit.js";
import { passStep, type Step } from "../../core/steps.js";
import { OutboxFull, type Space } from "./space.js";

/** Writes to the store, each as a step of the fault lab; {@link GroupCommit.write} says what they promise. */
export interface Writes {
  write<T>(step: Step, apply: () => T, durability?: Durability): Promise<T>;
}

/** The database file or its disk has let us down: the store must be opened anew. `cause` says how. */
export class StoreBroken extends EdgeError {
  override readonly code = "STORE_BROKEN";
}

/** By these SQLite says that the file, or what it lies on, is at fault: the same again would do no better. */
const BROKEN = /^SQLITE_(?:CORRUPT|NOTADB|READONLY|IOERR|CANTOPEN|PROTOCOL)/u;

/** Whether what failed was the file, rather than what was asked of it. */
export const isBroken = (error: unknown): boolean =>
  BROKEN.test(codeOf(error) ?? "") || codeOf(error) === "DISK_SYNC_FAILED";

/** Whether the bytes in the file make no sense. */
export const isCorrupt = (error: unknown): boolean => /^SQLITE_(?:CORRUPT|NOTADB)/u.test(codeOf(error) ?? "");

/** Writes that make room when the disk is full, and are then tried once more: `apply` may run twice. */
export class RoomMakingWrites implements Writes {
  readonly #commit: GroupCommit;
  readonly #space: Space;
  /** Many writes fail together; room is made once for all of them. */
  #making: Promise<void> | undefined;
  #brokenBy: StoreBroken | undefined;
  readonly #onBroken: (error: StoreBroken) => void;

  constructor(commit: GroupCommit, space: Space, onBroken: (error: StoreBroken) => void) {
    this.#commit = commit;
    this.#space = space;
    this.#onBroken = onBroken;
  }

  /** Why nothing more is written, or `undefined`. */
  get brokenBy(): StoreBroken | undefined {
    return this.#brokenBy;
  }

  /** @throws {OutboxFull} when there is no room even so. @throws {StoreBroken} */
  async write<T>(step: Step, apply: () => T, durability?: Durability): Promise<T> {
    if (this.#brokenBy) throw this.#brokenBy;
    passStep(step, "before");
    const result = await this.#written(() => {
      const applied = apply();
      passStep(step, "applied");
      return applied;
    }, durability);
    passStep(step, "after");
    return result;
  }

  /** What failed at reading or writing: from now on nothing is written when it was the file. @returns whether it was. */
  judge(error: unknown): boolean {
    if (!isBroken(error)) return error === this.#brokenBy && error !== undefined;
    if (!this.#brokenBy) {
      this.#brokenBy = new StoreBroken(`the outbox cannot be used any more (${codeOf(error)})`, { cause: error });
      this.#onBroken(this.#brokenBy);
    }
    return true;
  }

  async #written<T>(apply: () => T, durability: Durability | undefined): Promise<T> {
    try {
      return await this.#commit.write(apply, durability);
    } catch (error) {
      this.judge(error);
      if (!isFull(error)) throw error;
    }
    try {
      await (this.#making ??= this.#makeRoom().finally(() => (this.#making = undefined)));
      return await this.#commit.write(apply, durability);
    } catch (error) {
      this.judge(error);
      throw isFull(error) ? new OutboxFull("the disk is full", { cause: error }) : error;
    }
  }

  async #makeRoom(): Promise<void> {
    this.#space.diskIsFull();
    await this.#commit.emptyWal();
    passStep("store.room", "before");
    await this.#commit.write(() => {
      this.#space.dropForFullDisk();
      passStep("store.room", "applied");
    });
    passStep("store.room", "after");
  }
}

const isFull = (error: unknown): boolean => codeOf(error) === "SQLITE_FULL";
