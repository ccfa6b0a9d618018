import { codeOf } from "../../core/errors.js";
import type { Durability, GroupCommit } from "../../core/group-commit.js";
import { OutboxFull, type Space } from "./space.js";

/** Writes to the store; {@link GroupCommit.write} says what they promise. */
export interface Writes {
  write<T>(apply: () => T, durability?: Durability): Promise<T>;
}

/** Writes that make room when the disk is full, and are then tried once more: `apply` may run twice. */
export class RoomMakingWrites implements Writes {
  readonly #commit: GroupCommit;
  readonly #space: Space;
  /** Many writes fail together; room is made once for all of them. */
  #making: Promise<void> | undefined;

  constructor(commit: GroupCommit, space: Space) {
    this.#commit = commit;
    this.#space = space;
  }

  /** @throws {OutboxFull} when there is no room even so. */
  async write<T>(apply: () => T, durability?: Durability): Promise<T> {
    try {
      return await this.#commit.write(apply, durability);
    } catch (error) {
      if (!isFull(error)) throw error;
    }
    try {
      await (this.#making ??= this.#makeRoom().finally(() => (this.#making = undefined)));
      return await this.#commit.write(apply, durability);
    } catch (error) {
      throw isFull(error) ? new OutboxFull("the disk is full", { cause: error }) : error;
    }
  }

  async #makeRoom(): Promise<void> {
    this.#space.diskIsFull();
    await this.#commit.emptyWal();
    await this.#commit.write(() => this.#space.dropForFullDisk());
  }
}

const isFull = (error: unknown): boolean => codeOf(error) === "SQLITE_FULL";
