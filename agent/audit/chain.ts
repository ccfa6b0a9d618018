import { createHash } from "node:crypto";

/**
 * The audit log is lines of JSON. `n` counts them from 1, and `prev` is the SHA-256 of the line before, as it stands
 * in the file and without its end: who changes, removes or moves a line breaks the chain there.
 */
export interface AuditEntry {
  readonly n: number;
  readonly prev: string;
  /** Milliseconds since 1970 by the device's clock. */
  readonly at: number;
  readonly kind: string;
  readonly [field: string]: unknown;
}

/** A place in the chain: the number of a line and its hash. */
export interface AuditHead {
  readonly n: number;
  readonly hash: string;
}

/** Before the first line. */
export const GENESIS: AuditHead = { n: 0, hash: "0".repeat(64) };

export const hashOfLine = (line: string): string => createHash("sha256").update(line).digest("hex");

/** Checks lines as they come, oldest first. */
export class ChainCheck {
  #head: AuditHead | undefined;
  #first: { readonly n: number; readonly prev: string } | undefined;
  #broken: string | undefined;
  /** Starts of the log that a rotation has declared: number of the last line that was dropped, and its hash. */
  readonly #dropped = new Map<number, string>();
  readonly #known: AuditHead | undefined;

  /** @param known a line that was seen before; it must still be there. */
  constructor(known?: AuditHead) {
    this.#known = known;
  }

  get head(): AuditHead | undefined {
    return this.#head;
  }

  /** @returns the entry, when the line is one, whether or not it fits. */
  add(line: string): AuditEntry | undefined {
    const entry = parseLine(line);
    const n = (this.#head?.n ?? (entry?.n ?? 1) - 1) + 1;
    const hash = hashOfLine(line);
    if (!entry) this.#breaks(`line ${n} is no audit entry`);
    else if (entry.n !== n) this.#breaks(`after ${n - 1} comes ${entry.n}: lines were removed or moved`);
    else if (this.#head && entry.prev !== this.#head.hash)
      this.#breaks(`${n} does not follow from ${n - 1}: one of them was changed`);
    if (entry?.kind === "rotated") this.#dropped.set(Number(entry.to), String(entry.hash));
    if (n === this.#known?.n && hash !== this.#known.hash) this.#breaks(`${n} is not what it was when last seen`);
    this.#first ??= { n, prev: entry?.prev ?? "" };
    this.#head = { n, hash };
    return entry;
  }

  /** After the last line: the first thing that is wrong, or `undefined`. */
  fault(): string | undefined {
    if (this.#broken !== undefined) return this.#broken;
    const [first, head, known] = [this.#first, this.#head, this.#known];
    if (known && known.n > (head?.n ?? 0))
      return `the log ended at ${known.n} when last seen, and now at ${head?.n ?? 0}`;
    if (!first) return undefined;
    const declared = first.n === 1 ? GENESIS.hash : this.#dropped.get(first.n - 1);
    if (declared === undefined) {
      // A drop that was declared and not carried out leaves more than was declared.
      if ([...this.#dropped.keys()].some((n) => n >= first.n)) return undefined;
      return `the log begins at ${first.n}, and no rotation says why`;
    }
    return declared === first.prev ? undefined : `${first.n} does not follow from what came before it`;
  }

  #breaks(how: string): void {
    this.#broken ??= how;
  }
}

function parseLine(line: string): AuditEntry | undefined {
  try {
    const value: unknown = JSON.parse(line);
    if (typeof value !== "object" || value === null) return undefined;
    const { n, prev, at, kind } = value as Partial<AuditEntry>;
    const isEntry =
      Number.isSafeInteger(n) && typeof prev === "string" && typeof at === "number" && typeof kind === "string";
    return isEntry ? (value as AuditEntry) : undefined;
  } catch {
    return undefined;
  }
}
