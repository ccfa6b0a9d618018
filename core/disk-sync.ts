import { fdatasync, fdatasyncSync, fsync } from "node:fs";
import { promisify } from "node:util";

/** Makes a file's bytes durable; one that answers at once has blocked the event loop for it. */
export interface DiskSync {
  fdatasync(fd: number): Promise<void> | void;
  fsync(fd: number): Promise<void> | void;
}

/** Through the thread pool: the event loop goes on. */
export const nodeDisk = { fdatasync: promisify(fdatasync), fsync: promisify(fsync) };

const LOOK_AT = 16;
/** After a sync that blocked for long, so many a millisecond go through the pool. */
const LOOK_AT_PER_BLOCKED_MS = 16;

const onEventLoop = { fdatasync: fdatasyncSync, nowMs: () => performance.now() };

/**
 * Syncs on the event loop while the disk takes less than `mayBlockMs` for it, else through the thread pool. What the
 * pool tells includes waiting for the event loop, so the quickest of some says what the disk can do.
 */
export class QuickDisk implements DiskSync {
  readonly #mayBlockMs: number;
  readonly #pool: Pick<typeof nodeDisk, "fdatasync">;
  readonly #loop: typeof onEventLoop;
  /** Syncs to go through the pool before the next decision. */
  #wary = LOOK_AT;
  #quickestMs = Infinity;

  constructor(mayBlockMs: number, pool: Pick<typeof nodeDisk, "fdatasync"> = nodeDisk, loop = onEventLoop) {
    this.#mayBlockMs = mayBlockMs;
    this.#pool = pool;
    this.#loop = loop;
  }

  fdatasync(fd: number): Promise<void> | void {
    if (this.#wary > 0) return this.#throughPool(fd);
    const startMs = this.#loop.nowMs();
    this.#loop.fdatasync(fd);
    const tookMs = this.#loop.nowMs() - startMs;
    if (tookMs > this.#mayBlockMs) this.#lookAt(Math.ceil(tookMs * LOOK_AT_PER_BLOCKED_MS));
  }

  /** Of whole database files, and rare. */
  fsync(fd: number): Promise<void> {
    return nodeDisk.fsync(fd);
  }

  async #throughPool(fd: number): Promise<void> {
    const startMs = this.#loop.nowMs();
    await this.#pool.fdatasync(fd);
    this.#quickestMs = Math.min(this.#quickestMs, this.#loop.nowMs() - startMs);
    this.#wary -= 1;
    if (this.#wary === 0 && this.#quickestMs > this.#mayBlockMs) this.#lookAt(LOOK_AT);
  }

  #lookAt(syncs: number): void {
    this.#wary = syncs;
    this.#quickestMs = Infinity;
  }
}
