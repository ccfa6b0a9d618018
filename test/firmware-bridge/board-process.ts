import { type ChildProcessWithoutNullStreams, execFile, spawn } from "node:child_process";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { promisify } from "node:util";

const root = process.cwd();
const firmware = join(root, "firmware-bridge", "firmware");

/** Builds a target of the C library's Makefile, once, and gives the path of what was built. */
export async function buildFirmware(target: string, file = target): Promise<string> {
  const folder = join(root, "node_modules", ".atedge", "firmware");
  await mkdir(folder, { recursive: true });
  // Test files run side by side: one builds, the others find it built.
  const sodium = join(root, "node_modules", ".atedge", "libsodium", "source"); // put there by scripts/sodium-source.mjs
  const variables = [`BUILD=${folder}`, `SODIUM=${sodium}`];
  const make = ["make", "-s", "-C", firmware, ...variables, target === "host-board" ? "all" : target];
  await promisify(execFile)("flock", [`${folder}.lock`, ...make]);
  return join(folder, file);
}

export interface BoardProcessOptions {
  readonly args?: readonly string[];
  readonly sanitized?: boolean;
  /** Kept from an earlier life; made and removed with the process when left out. */
  readonly folder?: string;
}

/** The example board of the C library as a process on a pty. */
export class BoardProcess implements AsyncDisposable {
  readonly path: string;
  readonly folder: string;
  readonly lines: string[] = [];
  readonly #child: ChildProcessWithoutNullStreams;
  readonly #ownsFolder: boolean;
  readonly #closed: Promise<unknown>;
  #wake = new Set<() => void>();
  errors = "";

  private constructor(child: ChildProcessWithoutNullStreams, folder: string, ownsFolder: boolean) {
    this.#child = child;
    this.folder = folder;
    this.path = join(folder, "tty");
    this.#ownsFolder = ownsFolder;
    this.#closed = new Promise((resolve) => child.on("close", resolve));
    child.stdin.on("error", () => undefined);
    child.stderr.on("data", (chunk: Buffer) => (this.errors += chunk.toString()));
    createInterface({ input: child.stdout }).on("line", (line) => {
      this.lines.push(line);
      for (const wake of this.#wake) wake();
    });
  }

  static async start({ args = [], sanitized = true, folder }: BoardProcessOptions = {}): Promise<BoardProcess> {
    const program = sanitized
      ? await buildFirmware("sanitized", "host-board-sanitized")
      : await buildFirmware("host-board");
    const home = folder ?? (await mkdtemp(join(tmpdir(), "atedge-board-")));
    const child = spawn(program, ["-d", home, "-l", join(home, "tty"), ...args], { stdio: "pipe" });
    const board = new BoardProcess(child, home, folder === undefined);
    await board.said(/^boot /u);
    return board;
  }

  tell(line: string): void {
    this.#child.stdin.write(`${line}\n`);
  }

  /** Waits for a line, from the `from`th on, that matches; rejects after `withinMs`. */
  async said(pattern: RegExp, from = 0, withinMs = 10_000): Promise<RegExpExecArray> {
    return new Promise((resolve, reject) => {
      const end = (): void => {
        clearTimeout(timer);
        this.#wake.delete(look);
      };
      const look = (): void => {
        for (const line of this.lines.slice(from)) {
          const match = pattern.exec(line);
          if (!match) continue;
          end();
          return resolve(match);
        }
      };
      const timer = setTimeout(() => {
        end();
        reject(new Error(`the board never said ${pattern}; it said ${JSON.stringify(this.lines)} ${this.errors}`));
      }, withinMs);
      this.#wake.add(look);
      look();
    });
  }

  /** What the board counts: `in`, `bad`, `refused`, `sent`, `resent`, `received`, `repeated`, `naks`, `accepted`, `commands`. */
  async counters(): Promise<Readonly<Record<string, number>>> {
    const from = this.lines.length;
    this.tell("counters");
    const [line] = await this.said(/^counters .*/u, from);
    return Object.fromEntries(
      [...line.matchAll(/(\w+)=(\d+)/gu)].map(([, name, value]) => [name ?? "", Number(value)]),
    );
  }

  /** Its power goes, at once. */
  async kill(): Promise<void> {
    // The number of its pty is another's in a moment: who looks for this board must not find that one.
    await rm(this.path, { force: true });
    this.#child.kill("SIGKILL");
    await this.#closed;
  }

  /** The exit code after its control line was closed: not 0 when a sanitizer found something. */
  async end(): Promise<number | null> {
    await rm(this.path, { force: true });
    this.#child.stdin.end();
    await this.#closed;
    return this.#child.exitCode;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
    if (this.#ownsFolder) await rm(this.folder, { recursive: true, force: true });
  }
}

/** A firmware image as the example board knows it. */
export function imageOf(behaviour: "G" | "X" | "L" | "S", version: string, bytes = 2000): Uint8Array {
  const head = Buffer.from(`ATFW${behaviour}${version}\n`);
  return Buffer.concat([head, Buffer.alloc(Math.max(0, bytes - head.length), version)]);
}

/** Puts a firmware into the board's first slot before it starts. */
export const installImage = (folder: string, image: Uint8Array): Promise<void> =>
  writeFile(join(folder, "slot0.bin"), image);
