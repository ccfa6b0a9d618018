import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { fuzz, FUZZ_TARGETS, fuzzFolder } from "./fuzzers.js";

/** Seconds of fuzzing in all; `npm run lab -- fuzz` takes ten minutes a target, and keeps what it finds. */
const SECONDS = Number(process.env["ATEDGE_FUZZ_SECONDS"] ?? 60);
/** The reader of CBOR is a small part of the library: it is covered in no time. */
const SHARE = { link: 0.75, cbor: 0.25 } as const;

for (const target of FUZZ_TARGETS) {
  const seconds = Math.ceil(SECONDS * SHARE[target]);
  t.test(`The ${target} fuzzer's kept inputs break nothing, and neither do new ones for ${seconds} s`, async (t) => {
    const fresh = await mkdtemp(join(tmpdir(), "atedge-fuzz-"));
    t.teardown(() => rm(fresh, { recursive: true, force: true }));
    const kept = (await readdir(join(fuzzFolder, "corpus", target))).length;
    t.ok(kept > 20, `${kept} kept inputs`);
    const { executed, fault } = await fuzz(target, { seconds, fresh, crashes: fresh });
    t.equal(fault, undefined);
    t.ok(executed > kept, `${executed} inputs`);
  });
}
