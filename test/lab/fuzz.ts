/**
 * The C library under AddressSanitizer, UndefinedBehaviorSanitizer and libFuzzer for ten minutes a target, all targets
 * at once, politely (`nice`). What covers something new is kept in `firmware-bridge/firmware/fuzz/corpus/`; an input that
 * breaks something stays in `firmware-bridge/firmware/fuzz/found/`, and the exit code is 1. Options: `--seconds 60`.
 */
import { execFile } from "node:child_process";
import { mkdir, mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { fuzz, FUZZ_TARGETS, fuzzFolder } from "../firmware-bridge/fuzzers.js";

const at = process.argv.indexOf("--seconds");
const seconds = at === -1 ? 600 : Number(process.argv[at + 1]);
const run = promisify(execFile);
const crashes = join(fuzzFolder, "found");
await mkdir(crashes, { recursive: true });

const results = await Promise.all(
  FUZZ_TARGETS.map(async (target) => {
    const fresh = await mkdtemp(join(tmpdir(), "atedge-fuzz-"));
    const corpus = join(fuzzFolder, "corpus", target);
    const before = (await readdir(corpus)).length;
    const { executed, fault, program } = await fuzz(target, { seconds, fresh, crashes, nice: 10 });
    // Only what reaches code that no kept input reaches is worth keeping.
    await run(program, ["-set_cover_merge=1", "-verbosity=0", corpus, fresh], { cwd: fresh });
    const kept = (await readdir(corpus)).length;
    await rm(fresh, { recursive: true, force: true });
    process.stdout.write(
      `${target}: ${executed} inputs in ${seconds} s, ${kept - before} of them kept (${kept} now)\n`,
    );
    if (fault !== undefined) process.stdout.write(`${target}: BROKEN, the input is in ${crashes}\n${fault}\n`);
    return fault === undefined;
  }),
);
if ((await readdir(crashes)).length === 0) await rm(crashes, { recursive: true });
process.exitCode = results.every(Boolean) ? 0 : 1;
