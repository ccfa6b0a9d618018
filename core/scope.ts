import { setMaxListeners } from "node:events";

/** Something that holds resources: dispose abandons what is in flight. May be called twice. */
export interface Disposable {
  [Symbol.asyncDispose](): Promise<void>;
}

/**
 * Resources that are released together, last acquired first. `AsyncDisposableStack` is not there on Node 20.
 * Every release runs, even when one throws; the first error is rethrown.
 */
export class Scope implements Disposable {
  readonly #releases: (() => unknown)[] = [];
  #disposed: Promise<void> | undefined;

  use<T extends Disposable>(resource: T): T {
    this.defer(() => resource[Symbol.asyncDispose]());
    return resource;
  }

  defer(release: () => unknown): void {
    if (this.#disposed) throw new Error("the scope is closed already");
    this.#releases.push(release);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return (this.#disposed ??= this.#run());
  }

  async #run(): Promise<void> {
    let failed = false;
    let first: unknown;
    for (let release = this.#releases.pop(); release; release = this.#releases.pop()) {
      try {
        await release();
      } catch (error) {
        if (!failed) first = error;
        failed = true;
      }
    }
    if (failed) throw first;
  }
}

/**
 * A signal that follows its parent and can be aborted alone. Dispose detaches it from the parent: `AbortSignal.any` on
 * a signal as old as the daemon leaks on Node 20.
 */
export class ChildSignal implements Disposable {
  readonly #controller = new AbortController();
  readonly #parent: AbortSignal;
  readonly #follow: () => void;

  constructor(parent: AbortSignal) {
    this.#parent = parent;
    // One for each connection is no leak, which is what Node warns of.
    setMaxListeners(0, parent, this.signal);
    this.#follow = () => this.#controller.abort(parent.reason);
    if (parent.aborted) this.#follow();
    else parent.addEventListener("abort", this.#follow, { once: true });
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  abort(reason?: unknown): void {
    this.#controller.abort(reason);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#parent.removeEventListener("abort", this.#follow);
    this.#controller.abort();
  }
}

/**
 * Owns promises that nobody awaits one by one. The first task that fails aborts the others; dispose aborts all and
 * waits for them. A task that rejects after the abort is not a failure.
 */
export class TaskGroup implements Disposable {
  readonly #child: ChildSignal;
  readonly #tasks = new Set<Promise<void>>();
  #failed = false;
  #error: unknown;

  constructor(parent: AbortSignal) {
    this.#child = new ChildSignal(parent);
  }

  get signal(): AbortSignal {
    return this.#child.signal;
  }

  start(task: (signal: AbortSignal) => Promise<void>): void {
    const running: Promise<void> = task(this.signal)
      .catch((error: unknown) => {
        if (this.signal.aborted || this.#failed) return;
        this.#failed = true;
        this.#error = error;
        this.#child.abort(error);
      })
      .finally(() => this.#tasks.delete(running));
    this.#tasks.add(running);
  }

  /** Resolves when every task has ended; rejects with the first failure. */
  async join(): Promise<void> {
    while (this.#tasks.size > 0) await Promise.all(this.#tasks);
    if (this.#failed) throw this.#error;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.abort();
    await Promise.allSettled(this.#tasks);
    await this.#child[Symbol.asyncDispose]();
  }
}

/** Rejects with `signal.reason` as soon as it aborts; the work goes on unless it heeds the signal itself. */
export async function untilAborted<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  work.catch(() => undefined); // Nobody else may look at it when the signal has aborted already.
  signal.throwIfAborted();
  let abort: (() => void) | undefined;
  const aborted = new Promise<never>((_, reject) => {
    abort = () => reject(signal.reason as Error);
    signal.addEventListener("abort", abort, { once: true });
  });
  try {
    return await Promise.race([work, aborted]);
  } finally {
    if (abort) signal.removeEventListener("abort", abort);
  }
}
