import { constants } from "node:fs";
import { mkdir, open, readdir, readFile, rm, type FileHandle } from "node:fs/promises";
import { join } from "node:path";
import { codeOf } from "../../core/errors.js";
import type { Log } from "../../core/log.js";
import type { Disposable } from "../../core/scope.js";
import type { PartStatus } from "../health/health.js";
import { atStep } from "../../core/steps.js";
import { type AuditHead, GENESIS, hashOfLine } from "./chain.js";

export interface AuditLogOptions {
  /** Made with mode 0700 when it is not there. */
  readonly folder: string;
  /** Of all files together, about; then the oldest goes. */
  readonly maxBytes: number;
  /** Milliseconds since 1970. */
  readonly nowMs: () => number;
  readonly log: Log;
}

/** What is worth keeping; {@link AuditLog.append} says what it promises. */
export interface Audit {
  append(kind: string, fields: Readonly<Record<string, unknown>>): Promise<void>;
}

export interface AuditPage {
  /** Number of the first line of `lines`; it may be later than asked for, when older ones are gone. */
  readonly from: number;
  readonly lines: readonly string[];
  /** The oldest line there is, and the newest. */
  readonly first: number;
  readonly head: AuditHead;
}

const FILES = 4;
/** Lines that wait for a disk that takes them again; the newest beyond that are lost. */
const MAX_WAITING = 1000;
const NAME = /^(?<n>\d{12})\.jsonl$/u;

/** One file of the log; its name tells the number of its first line. */
interface Segment {
  readonly n: number;
  readonly path: string;
}

interface Waiting {
  readonly at: number;
  readonly kind: string;
  readonly fields: Readonly<Record<string, unknown>>;
}

/**
 * The device's audit log: files of lines that are only ever added to, each tied to the one before by its hash. A line
 * that a power cut has left half written is written over: nobody was told that it was there.
 */
export class AuditLog implements Audit, Disposable {
  readonly #options: AuditLogOptions;
  /** Oldest first; `undefined` until the folder could be read. */
  #segments: Segment[] | undefined;
  /** The last line that is on the disk. */
  #head = GENESIS;
  /** Of the newest file. */
  #bytes = 0;
  #file: FileHandle | undefined;
  readonly #waiting: Waiting[] = [];
  #writing: Promise<void> | undefined;
  #code: string | undefined;
  #lost = 0;

  constructor(options: AuditLogOptions) {
    this.#options = options;
  }

  health(): PartStatus[] {
    const counters = { entries: this.#head.n, waiting: this.#waiting.length, lost: this.#lost };
    return [{ name: "audit", state: this.#code === undefined ? "ok" : "degraded", code: this.#code, counters }];
  }

  /**
   * Resolves when the line is on the disk; also when the disk does not take it, which the health then says: the line
   * waits in memory for the next try.
   */
  async append(kind: string, fields: Readonly<Record<string, unknown>>): Promise<void> {
    if (this.#waiting.length >= MAX_WAITING) {
      this.#lost += 1;
      return;
    }
    this.#waiting.push({ at: Math.round(this.#options.nowMs()), kind, fields });
    // What is under way may have taken its lines already.
    await this.#writing;
    if (this.#waiting.length > 0) await (this.#writing ??= this.#write().finally(() => (this.#writing = undefined)));
  }

  /** Lines from number `from` on, as many as fit into `maxChars`, but at least one. */
  async page(from: number, maxChars: number): Promise<AuditPage> {
    await this.#writing;
    const segments = (this.#segments ??= await this.#load());
    const first = segments[0]?.n ?? 1;
    const start = Math.max(from, first);
    const segment = segments.findLast(({ n }) => n <= start);
    const lines: string[] = [];
    if (segment) {
      let chars = 0;
      for (const line of (await linesOf(segment.path)).lines.slice(start - segment.n)) {
        chars += line.length;
        if (lines.length > 0 && chars > maxChars) break;
        lines.push(line);
      }
    }
    return { from: start, lines, first, head: this.#head };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#writing;
    await this.#file?.close();
    this.#file = undefined;
  }

  /** Writes what waits, in one go. */
  async #write(): Promise<void> {
    try {
      const segments = (this.#segments ??= await this.#load());
      while (this.#waiting.length > 0) {
        if (this.#file && this.#bytes >= this.#options.maxBytes / FILES) await this.#rotate(segments);
        await this.#put(segments);
      }
      this.#code = undefined;
    } catch (error) {
      const code = codeOf(error);
      if (code === undefined) throw error;
      if (code !== this.#code) this.#options.log.error({ err: error }, "the audit log cannot be written");
      this.#code = code;
    }
  }

  /** Finds the end of what earlier runs have written. */
  async #load(): Promise<Segment[]> {
    const { folder } = this.#options;
    await mkdir(folder, { recursive: true, mode: 0o700 });
    const names = (await readdir(folder)).filter((name) => NAME.test(name)).sort();
    const segments = names.map((name) => ({ n: Number(NAME.exec(name)?.groups?.n), path: join(folder, name) }));
    // The newest may be empty, when it was only just begun.
    for (const { n, path } of segments.slice(-2)) {
      const { lines, whole } = await linesOf(path);
      const last = lines.at(-1);
      if (last !== undefined) this.#head = { n: n + lines.length - 1, hash: hashOfLine(last) };
      this.#bytes = whole;
    }
    return segments;
  }

  /** Adds what waits to the newest file. What a write that failed has left there is written over. */
  async #put(segments: Segment[]): Promise<void> {
    const file = (this.#file ??= await this.#openNewest(segments));
    const entries = [...this.#waiting];
    let head = this.#head;
    const lines = entries.map(({ at, kind, fields }) => {
      const line = JSON.stringify({ n: head.n + 1, prev: head.hash, at, kind, ...fields });
      head = { n: head.n + 1, hash: hashOfLine(line) };
      return `${line}\n`;
    });
    const bytes = Buffer.from(lines.join(""));
    await atStep("audit.append", async () => {
      await file.write(bytes, 0, bytes.length, this.#bytes);
      await file.datasync();
    });
    this.#bytes += bytes.length;
    this.#head = head;
    this.#waiting.splice(0, entries.length);
  }

  async #openNewest(segments: Segment[]): Promise<FileHandle> {
    const { folder } = this.#options;
    if (segments.length === 0) segments.push(this.#segmentAt(1));
    const file = await open(segments.at(-1)?.path ?? "", constants.O_RDWR | constants.O_CREAT, 0o600);
    try {
      // Whatever a power cut has left behind the last whole line.
      await file.truncate(this.#bytes);
      const directory = await open(folder, constants.O_RDONLY);
      await directory.sync().finally(() => directory.close());
      return file;
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  /** Begins a new file, and drops the oldest once a line says that they go. */
  async #rotate(segments: Segment[]): Promise<void> {
    await this.#file?.close();
    this.#file = undefined;
    segments.push(this.#segmentAt(this.#head.n + 1));
    this.#bytes = 0;
    const leaving = segments.slice(0, -FILES);
    const last = leaving.at(-1);
    const next = segments[leaving.length];
    if (!last || !next) return;
    const lastLine = (await linesOf(last.path)).lines.at(-1) ?? "";
    const fields = { to: next.n - 1, hash: hashOfLine(lastLine) };
    this.#waiting.unshift({ at: Math.round(this.#options.nowMs()), kind: "rotated", fields });
    await this.#put(segments);
    await atStep("audit.rotate", async () => {
      for (const { path } of leaving) await rm(path, { force: true });
    });
    segments.splice(0, leaving.length);
  }

  #segmentAt(n: number): Segment {
    return { n, path: join(this.#options.folder, `${String(n).padStart(12, "0")}.jsonl`) };
  }
}

/** The whole lines of a file, and how many bytes they take. */
async function linesOf(path: string): Promise<{ readonly lines: readonly string[]; readonly whole: number }> {
  const bytes = await readFile(path).catch((error: unknown) => {
    if (codeOf(error) === "ENOENT") return Buffer.alloc(0);
    throw error;
  });
  const whole = bytes.lastIndexOf(0x0a) + 1;
  const text = bytes.subarray(0, whole).toString("utf8");
  return { lines: text === "" ? [] : text.slice(0, -1).split("\n"), whole };
}
