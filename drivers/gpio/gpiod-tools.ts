import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { DeviceGone, EdgeError } from "../../core/errors.js";
import { LineFramer } from "../../core/line-framer.js";

/** The tools are missing, too old, or may not use the chip; the message says what to do. */
export class GpioUnusable extends EdgeError {
  override readonly code: string = "GPIO_UNUSABLE";
}

/** A line of a chip as `gpioinfo` shows it. */
export interface LineInfo {
  readonly chip: string;
  readonly offset: number;
  readonly name?: string;
  readonly isOutput: boolean;
  /** Who holds it, e.g. `gpioset`. */
  readonly consumer?: string;
}

export type Bias = "as-is" | "disabled" | "pull-up" | "pull-down";
export type Drive = "push-pull" | "open-drain" | "open-source";

/** Lines of one chip that are read together. */
export interface LineGroup {
  readonly chip: string;
  readonly offsets: readonly number[];
  readonly bias: Bias;
}

const MAX_OUTPUT_BYTES = 1_048_576;
const MAX_LINE_BYTES = 512;
const TOOL_MS = 10_000;

/** Both forms: `line 2: "RELAY" "gpioset" output active-high [used]` (1.6) and `line 2: "RELAY" output consumer="gpioset"` (2). */
export function parseGpioInfo(text: string): LineInfo[] {
  const lines: LineInfo[] = [];
  let chip = "";
  for (const row of text.split("\n")) {
    chip = /^(?<chip>gpiochip\d+) - \d+ lines:$/u.exec(row)?.groups?.["chip"] ?? chip;
    const { offset, name, rest } =
      /^\s+line\s+(?<offset>\d+):\s+(?:unnamed|"(?<name>[^"]*)")(?<rest>\s.*)$/u.exec(row)?.groups ?? {};
    if (offset === undefined || rest === undefined) continue;
    const consumer = /^\s+"(?<old>[^"]+)"|consumer="?(?<new>[^"\s]+)/u.exec(rest)?.groups;
    const holder = consumer?.["old"] ?? consumer?.["new"];
    lines.push({
      chip,
      offset: Number(offset),
      ...(name ? { name } : {}),
      isOutput: /\soutput(?:\s|$)/u.test(rest),
      ...(holder === undefined ? {} : { consumer: holder }),
    });
  }
  return lines;
}

/** An event as `gpiomon` is told to print it, `<offset> <edge>`: rising is 1 in both versions, falling 0 or 2. */
export function parseEdge(line: string): { readonly offset: number; readonly high: boolean } | undefined {
  const { offset, edge } = /^(?<offset>\d{1,4}) (?<edge>[012])$/u.exec(line)?.groups ?? {};
  return offset === undefined ? undefined : { offset: Number(offset), high: edge === "1" };
}

/** The programs of libgpiod, whose options changed between 1.6 (Debian 12) and 2 (Debian 13). */
export class GpiodTools {
  readonly #major: 1 | 2;
  readonly #path: string;

  private constructor(major: 1 | 2, path: string) {
    this.#major = major;
    this.#path = path;
  }

  /** @throws {GpioUnusable} when the tools are not there. */
  static async find(path: string, signal: AbortSignal): Promise<GpiodTools> {
    const text = await new GpiodTools(2, path).#run("gpioinfo", ["--version"], signal);
    const major = /\bv(?<major>\d+)\./u.exec(text)?.groups?.["major"];
    if (major !== "1" && major !== "2") throw new GpioUnusable("expected gpioinfo of libgpiod 1.6 or 2");
    return new GpiodTools(major === "1" ? 1 : 2, path);
  }

  /** The lines of every chip. */
  async lines(signal: AbortSignal): Promise<LineInfo[]> {
    return parseGpioInfo(await this.#run("gpioinfo", [], signal));
  }

  /** Whether each line is high. The lines must be held by nobody. */
  async read(group: LineGroup, signal: AbortSignal): Promise<boolean[]> {
    const numeric = this.#major === 1 ? [] : ["--numeric"];
    const text = await this.#run("gpioget", [...numeric, ...this.#inputs(group)], signal);
    const values = text.trim().split(/\s+/u);
    if (values.length !== group.offsets.length || !values.every((value) => value === "0" || value === "1")) {
      throw new GpioUnusable(
        `expected ${group.offsets.length} values of gpioget, got ${JSON.stringify(text.slice(0, 80))}`,
      );
    }
    return values.map((value) => value === "1");
  }

  /** Prints a line an edge until it is stopped. */
  monitor(group: LineGroup): HeldTool {
    const buffered = this.#major === 1 ? ["--line-buffered"] : [];
    return new HeldTool("gpiomon", [...buffered, "--format=%o %e", ...this.#inputs(group)], this.#path);
  }

  /** Drives a line until it is stopped. */
  drive({ chip, offset }: LineInfo, bias: Bias, drive: Drive, high: boolean): HeldTool {
    const value = `${offset}=${high ? 1 : 0}`;
    const how = [...this.#bias(bias), `--drive=${drive}`];
    const args = this.#major === 1 ? ["--mode=signal", ...how, chip, value] : [...how, `--chip=${chip}`, value];
    return new HeldTool("gpioset", args, this.#path);
  }

  #inputs({ chip, offsets, bias }: LineGroup): string[] {
    const where = this.#major === 1 ? [chip] : [`--chip=${chip}`];
    return [...this.#bias(bias), ...where, ...offsets.map(String)];
  }

  #bias(bias: Bias): string[] {
    if (bias === "as-is") return [];
    return [`--bias=${this.#major === 1 && bias === "disabled" ? "disable" : bias}`];
  }

  async #run(tool: string, args: readonly string[], signal: AbortSignal): Promise<string> {
    signal.throwIfAborted();
    const child = spawn(tool, args, {
      env: environment(this.#path),
      stdio: ["ignore", "pipe", "pipe"],
      timeout: TOOL_MS,
    });
    const stop = (): void => void child.kill();
    signal.addEventListener("abort", stop, { once: true });
    const [out, complaint] = [gather(child.stdout), gather(child.stderr)];
    try {
      const [code] = (await once(child, "close")) as [number | null];
      signal.throwIfAborted();
      if (code !== 0) throw new GpioUnusable(failure(tool, complaint()));
      return out();
    } catch (cause) {
      if (cause instanceof GpioUnusable || signal.aborted) throw cause;
      throw new GpioUnusable(`${tool} cannot be run: install the Debian package gpiod`, { cause });
    } finally {
      signal.removeEventListener("abort", stop);
    }
  }
}

/** A tool that holds its lines for as long as it runs, and that ends with us, even when we are killed. */
export class HeldTool {
  readonly #name: string;
  readonly #child: ChildProcess;
  readonly #complaint: () => string;
  #ended = false;
  /** Resolves when it has ended, by itself or stopped. */
  readonly ended: Promise<void>;

  constructor(name: string, args: readonly string[], path: string) {
    this.#name = name;
    this.#child = spawn("setpriv", ["--pdeathsig", "TERM", name, ...args], {
      env: environment(path),
      stdio: ["ignore", "pipe", "pipe"],
    });
    this.#complaint = gather(this.#child.stderr);
    this.ended = new Promise((resolve) => {
      const end = (): void => ((this.#ended = true), resolve());
      this.#child.once("error", end).once("close", end);
    });
  }

  get running(): boolean {
    return !this.#ended;
  }

  /** What ended it, when it was not stopped. */
  failure(): DeviceGone {
    return new DeviceGone(failure(this.#name, this.#complaint()));
  }

  /** Its output a line at a time, until it ends. */
  async *lines(): AsyncGenerator<string> {
    const framer = new LineFramer({ maxBytes: MAX_LINE_BYTES, onLimit: "drop" });
    for await (const chunk of this.#child.stdout ?? []) {
      for (const line of framer.push(chunk as Buffer)) yield line.toString("utf8");
    }
  }

  async stop(): Promise<void> {
    if (!this.#ended) this.#child.kill("SIGTERM");
    await this.ended;
  }
}

const environment = (path: string): NodeJS.ProcessEnv => ({ PATH: path, LC_ALL: "C" });

/** Keeps what a stream says up to a bound; gives the text so far. */
function gather(stream: NodeJS.ReadableStream | null): () => string {
  const chunks: Buffer[] = [];
  let bytes = 0;
  stream?.on("data", (chunk: Buffer) => {
    if (bytes < MAX_OUTPUT_BYTES) chunks.push(chunk);
    bytes += chunk.length;
  });
  return () => Buffer.concat(chunks).toString("utf8");
}

/** What a tool complained of, and what to do about it. */
function failure(tool: string, complaint: string): string {
  const said = complaint.trim().split("\n").at(-1)?.slice(0, 200) || "it ended";
  const text = said.startsWith(tool) ? said : `${tool}: ${said}`;
  if (/permission denied/iu.test(said)) return `${text}; is the user in the group that owns the chip (gpio)?`;
  return /resource busy/iu.test(said) ? `${text}; another program holds the line` : text;
}
