import type { Database, Statement } from "better-sqlite3";
import type { Writes } from "./writes.js";

export interface Pin {
  readonly atSign: string;
  /** `sha256:` and 64 hex digits. */
  readonly fingerprint: string;
  /** `first-use`, or `accepted` by a human after a change. */
  readonly how: string;
  readonly sinceMs: number;
}

/** Fingerprints of peers' keys that were not configured but seen. */
export class Pins {
  readonly #writes: Writes;
  readonly #nowMs: () => number;
  readonly #get: Statement<[string], Pin>;
  readonly #all: Statement<[], Pin>;
  readonly #set: Statement;

  constructor(db: Database, writes: Writes, nowMs: () => number) {
    this.#writes = writes;
    this.#nowMs = nowMs;
    this.#get = db.prepare("SELECT * FROM pin WHERE atSign = ?");
    this.#all = db.prepare("SELECT * FROM pin ORDER BY atSign");
    this.#set = db.prepare("INSERT OR REPLACE INTO pin VALUES (?, ?, ?, ?)");
  }

  get(atSign: string): string | undefined {
    return this.#get.get(atSign)?.fingerprint;
  }

  all(): Pin[] {
    return this.#all.all();
  }

  /** Resolves when it is on the disk. */
  set(atSign: string, fingerprint: string, how = "first-use"): Promise<void> {
    return this.#writes.write("pin.set", () => void this.#set.run(atSign, fingerprint, how, Math.round(this.#nowMs())));
  }
}
