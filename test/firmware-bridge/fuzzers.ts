import { execFile } from "node:child_process";
import { join } from "node:path";
import { promisify } from "node:util";
import { buildFirmware } from "./board-process.js";

export const FUZZ_TARGETS = ["link", "cbor"] as const;
export type FuzzTarget = (typeof FUZZ_TARGETS)[number];

export const fuzzFolder = join(process.cwd(), "firmware-bridge", "firmware", "fuzz");

export interface FuzzOptions {
  readonly seconds: number;
  /** Where inputs go that cover something new. */
  readonly fresh: string;
  /** Where inputs go that break something. */
  readonly crashes: string;
  readonly nice?: number;
}

export interface FuzzResult {
  readonly program: string;
  readonly executed: number;
  /** The sanitizer's report, when an input broke something. */
  readonly fault: string | undefined;
}

/** Runs one fuzzer from the kept corpus on. */
export async function fuzz(
  target: FuzzTarget,
  { seconds, fresh, crashes, nice = 0 }: FuzzOptions,
): Promise<FuzzResult> {
  const program = await buildFirmware("fuzz", `fuzz-${target}`);
  const args = [
    `-max_total_time=${seconds}`,
    "-max_len=4096",
    "-verbosity=0",
    "-print_final_stats=1",
    `-artifact_prefix=${crashes}/${target}-`,
    fresh,
    join(fuzzFolder, "corpus", target),
  ];
  const options = { cwd: fresh, maxBuffer: 64 << 20 };
  const ended = await promisify(execFile)("nice", ["-n", String(nice), program, ...args], options).then(
    ({ stderr }) => ({ stderr, failed: false }),
    ({ stderr = "no output" }: { stderr?: string }) => ({ stderr, failed: true }),
  );
  return {
    program,
    executed: Number(/number_of_executed_units: (\d+)/u.exec(ended.stderr)?.[1] ?? 0),
    fault: ended.failed ? ended.stderr.slice(-4000) : undefined,
  };
}
