import { EdgeError, SyntaxInvalid } from "../../core/errors.js";
import { TaskGroup } from "../../core/scope.js";

export interface WaveOptions {
  /** Devices, in the order in which their turn comes. */
  readonly devices: readonly string[];
  /** Devices a wave: numbers, or shares of all as `10%`; the last one is repeated until all had their turn. */
  readonly waves: readonly string[];
  /** Of the devices of one wave, 0 to 1: with more failures than that no other wave begins. */
  readonly stopAbove: number;
  readonly atOnce: number;
  /** Does it for one device; a throw is a failure of that device. */
  readonly work: (device: string, signal: AbortSignal) => Promise<void>;
  readonly onResult?: (result: WaveResult) => void;
}

export interface WaveResult {
  readonly device: string;
  /** From 1. */
  readonly wave: number;
  readonly outcome: "done" | "failed";
  readonly why: string;
}

/** Too many devices of a wave have failed: the others were left alone. */
export class WaveStopped extends EdgeError {
  override readonly code: string = "WAVE_STOPPED";
  readonly results: readonly WaveResult[];

  constructor(message: string, results: readonly WaveResult[]) {
    super(message);
    this.results = results;
  }
}

const WAVE = /^(?<number>\d{1,6})(?<share>%?)$/u;

/**
 * How many devices each wave has: `1,10%,50%` of 40 are 1, 4, 20 and 15.
 *
 * @throws {SyntaxInvalid}
 */
export function waveSizes(count: number, waves: readonly string[]): readonly number[] {
  const sizes: number[] = [];
  for (let left = count, at = 0; left > 0; at += 1) {
    const text = waves[Math.min(at, waves.length - 1)] ?? "";
    const { number, share } = WAVE.exec(text)?.groups ?? {};
    const wanted = share === "%" ? Math.ceil((count * Number(number)) / 100) : Number(number);
    if (!(wanted > 0)) throw new SyntaxInvalid(`wave ${JSON.stringify(text)}: expected a number of devices, or 10%`);
    const size = Math.min(wanted, left);
    sizes.push(size);
    left -= size;
  }
  return sizes;
}

/**
 * Does something with many devices, a few first: a mistake then meets a few, not all.
 *
 * @throws {WaveStopped}
 */
export async function runWaves(options: WaveOptions, signal: AbortSignal): Promise<readonly WaveResult[]> {
  const { devices, stopAbove, onResult } = options;
  const all: WaveResult[] = [];
  let begin = 0;
  for (const [at, size] of waveSizes(devices.length, options.waves).entries()) {
    const wave = devices.slice(begin, begin + size);
    begin += size;
    const results: WaveResult[] = [];
    const queue = wave.values();
    await using workers = new TaskGroup(signal);
    for (let worker = 0; worker < Math.min(options.atOnce, size); worker += 1) {
      workers.start(async (stop) => {
        for (const device of queue) {
          stop.throwIfAborted();
          const why = await failureOf(options.work(device, stop), stop);
          const result = {
            device,
            wave: at + 1,
            outcome: why === undefined ? "done" : "failed",
            why: why ?? "",
          } as const;
          results.push(result);
          onResult?.(result);
        }
      });
    }
    await workers.join();
    signal.throwIfAborted();
    all.push(...results);
    const failed = results.filter(({ outcome }) => outcome === "failed").length;
    if (failed > stopAbove * size && begin < devices.length)
      throw new WaveStopped(
        `stopped after wave ${at + 1}: ${failed} of its ${size} devices failed; ${devices.length - begin} devices were left alone`,
        all,
      );
  }
  return all;
}

async function failureOf(work: Promise<void>, signal: AbortSignal): Promise<string | undefined> {
  try {
    await work;
    return undefined;
  } catch (error) {
    signal.throwIfAborted();
    return error instanceof Error ? error.message : String(error);
  }
}
