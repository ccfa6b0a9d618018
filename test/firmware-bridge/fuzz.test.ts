import { execFile } from "node:child_process";
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import t from "tap";
import { buildFirmware } from "./board-process.js";

/** Seconds a target; the nightly run gives 300, `firmware-bridge/firmware/fuzz/run.sh` keeps what it finds. */
const SECONDS = Number(process.env["ATEDGE_FUZZ_SECONDS"] ?? 4);
const run = promisify(execFile);

for (const target of ["link", "cbor"] as const) {
  const corpus = join(process.cwd(), "firmware-bridge", "firmware", "fuzz", "corpus", target);

  t.test(`The ${target} fuzzer's kept inputs break nothing, and neither do new ones for ${SECONDS} s`, async (t) => {
    const found = await mkdtemp(join(tmpdir(), "atedge-fuzz-"));
    t.teardown(() => rm(found, { recursive: true, force: true }));
    const kept = (await readdir(corpus)).length;
    t.ok(kept > 20, `${kept} kept inputs`);
    const fuzzer = await buildFirmware("fuzz", `fuzz-${target}`);
    const args = [
      `-max_total_time=${SECONDS}`,
      "-max_len=2048",
      "-verbosity=0",
      "-print_final_stats=1",
      `-artifact_prefix=${found}/`,
    ];
    const { stderr } = await run(fuzzer, [...args, found, corpus], { cwd: found });
    const executed = Number(/number_of_executed_units: (\d+)/u.exec(stderr)?.[1]);
    t.ok(executed > kept, `${executed} inputs`);
  });
}
