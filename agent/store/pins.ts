import type { Database, Statement } from "better-sqlite3";
import { EdgeError } from "../../core/errors.js";
import type { Writes } from "./writes.js";

export interface Pin {
  readonly atSign: string;
  /** `sha256:` and 64 hex digits. */
  readonly fingerprint: string;
  /** `first-use`, or `accepted` by a human after a change. */
  readonly how: string;
  readonly sinceMs: number;
}

/** There is no disk to remember keys on. @throws by {@link Pins.set} */
export class NoPins extends EdgeError {
  override readonly code = "NO_PINS";
}

/** Fingerprints of peers' keys that were not configured but seen. */
export class Pins {
  readonly #writes: Writes;
  readonly #nowMs: () => number;
  readonly #get: Statement<[string], Pin>;
  readonly #all: Statement<[], Pin>;
  readonly #set: Statement;
  readonly #known: readonly Pin[] | undefined;

  /** @param known given, there is no disk to remember keys on: these count, and no other is trusted on first use. */
  constructor(db: Database, writes: Writes, nowMs: () => number, known?: readonly Pin[]) {
    this.#known = known;
    this.#writes = writes;
    this.#nowMs = nowMs;
    this.#get = db.prepare("SELECT * FROM pin WHERE atSign = ?");
    this.#all = db.prepare("SELECT * FROM pin ORDER BY atSign");
    this.#set = db.prepare("INSERT OR REPLACE INTO pin VALUES (?, ?, ?, ?)");
  }

  get(atSign: string): string | undefined {
    const pin = this.#known ? this.#known.find((known) => known.atSign === atSign) : this.#get.get(atSign);
    return pin?.fingerprint;
  }

  all(): Pin[] {
    return this.#known ? [...this.#known] : this.#all.all();
  }

  /** Resolves when it is on the disk. */
  set(atSign: string, fingerprint: string, how = "first-use"): Promise<void> {
    if (this.#known)
      return Promise.reject(new NoPins(`the disk cannot be used, so the key of ${atSign} cannot be remembered`));
    return this.#writes.write("pin.set", () => void this.#set.run(atSign, fingerprint, how, Math.round(this.#nowMs())));
  }
}
