import type { ConnectionHandle } from "./verb.js";

/** The open connections of one atServer. */
export class ConnectionSet<T extends ConnectionHandle = ConnectionHandle> {
  readonly #connections = new Set<T>();
  #whenEmpty: (() => void) | undefined;

  get size(): number {
    return this.#connections.size;
  }

  add(connection: T): void {
    this.#connections.add(connection);
  }

  delete(connection: T): void {
    this.#connections.delete(connection);
    if (this.size === 0) this.#whenEmpty?.();
  }

  [Symbol.iterator](): IterableIterator<T> {
    return this.#connections.values();
  }

  /** Ends those that are logged in with an enrolment, at once, but for one. */
  dropEnrollment(enrollmentId: string, except?: ConnectionHandle): void {
    for (const connection of this) {
      const { authentication } = connection.session;
      if (connection !== except && authentication?.enrollmentId === enrollmentId) connection.destroy();
    }
  }

  /** Resolves when the last has ended, or when the signal aborts. */
  empty(signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      if (this.size === 0 || signal.aborted) return resolve();
      this.#whenEmpty = resolve;
      signal.addEventListener("abort", () => resolve(), { once: true });
    });
  }
}
