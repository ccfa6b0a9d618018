/**
 * 200 boards from one manifest against our platform, with the operator's side killed again and again, the platform
 * killed once, boards with copied and forged bundles and with used passcodes: exactly the right ones get in.
 *
 * `npm run lab -- fleet --devices 200 --kills 6 --seed 1`. A shorter form is test/deploy/fleet/lab.test.ts.
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { runFleetLab } from "../fixtures/lab/fleet-lab.js";

const { values } = parseArgs({
  options: {
    devices: { type: "string", default: "200" },
    kills: { type: "string", default: "6" },
    seed: { type: "string", default: String(Date.now() % 1_000_000) },
  },
});
delete process.env["NODE_OPTIONS"];
const folder = await mkdtemp(join(tmpdir(), "atedge-fleet-lab-"));
const startMs = performance.now();
const say = (line: string): void => void process.stdout.write(`${line}\n`);
say(`${values.devices} devices, seed ${values.seed}`);
try {
  const checks = await runFleetLab({
    ...{ folder, cli: join(process.cwd(), "dist", "atedge.js"), say },
    ...{ devices: Number(values.devices), perAtSign: 25, kills: Number(values.kills), seed: Number(values.seed) },
    ...{ pollMs: 4_000, limit: { requests: 15, frameMs: 10_000 } },
  });
  for (const [what, isSo, seen] of checks) {
    say(`${isSo ? "ok  " : "FAIL"} ${what}${isSo ? "" : `: ${JSON.stringify(seen).slice(0, 2000)}`}`);
    if (!isSo) process.exitCode = 1;
  }
} finally {
  await rm(folder, { recursive: true, force: true });
}
say(`${((performance.now() - startMs) / 1000).toFixed(0)} s in all`);
