import { spawn } from "node:child_process";
import { once } from "node:events";

/** The fault lab with every moment of every step; the tests of each commit leave out those that differ in nothing. */
async function main(): Promise<void> {
  const child = spawn(process.execPath, ["scripts/test.mjs", "--timeout=1800", "test/faults/reading-path.test.ts"], {
    env: { ...process.env, ATEDGE_ALL_MOMENTS: "1" },
    stdio: "inherit",
  });
  const [code] = (await once(child, "exit")) as [number | null];
  process.exitCode = code ?? 1;
}

void main();
