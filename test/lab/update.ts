/**
 * Updates of the C board with every fault at every step of the way, again and again: the agent killed, the board's power
 * cut, the cable out, a byte changed on the agent's disk or in the board's flash, each at a random moment after the step.
 * Prints how many boards were bricked; the exit code is 1 unless it is none. Options: `--rounds 5`, `--at-once 4`.
 */
import { buildUpdateChild, CASES, runCases } from "../firmware-bridge/update-faults.js";

function option(name: string, fallback: number): number {
  const at = process.argv.indexOf(name);
  return at === -1 ? fallback : Number(process.argv[at + 1]);
}

const program = await buildUpdateChild();
const rounds = option("--rounds", 5);
const cases = Array.from({ length: rounds }, () => CASES).flatMap((list) =>
  list.map((one) => ({ ...one, delayMs: Math.random() ** 2 * 600 })),
);
const ends = new Map<string, number>();
let bricked = 0;
let done = 0;
let missed = 0;
await runCases(program, cases, option("--at-once", 4), (one, { faults, end, hit }) => {
  done += 1;
  if (!hit) missed += 1;
  ends.set(end, (ends.get(end) ?? 0) + 1);
  if (faults.length > 0) {
    bricked += 1;
    process.stdout.write(`${one.way} ${one.fault} at ${one.step} +${one.delayMs} ms: ${faults.join("; ")}\n`);
  }
  if (done % 49 === 0) process.stdout.write(`${done} of ${cases.length}\n`);
});
const told = [...ends].map(([end, count]) => `${count} ${end}`).join(", ");
process.stdout.write(`${bricked} bricked of ${done} (${told}; ${missed} ended before their fault)\n`);
process.exitCode = bricked === 0 ? 0 : 1;
