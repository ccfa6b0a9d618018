import { stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import { makeFolder } from "../../core/make-folder.js";

t.test("makeFolder", async (t) => {
  await t.test("makes every folder of the path, and is content with what is there", async (t) => {
    const path = join(t.testdir(), "a", "b", "c");
    await Promise.all([makeFolder(path), makeFolder(path)]);
    await makeFolder(path);
    const made = await stat(path);
    t.ok(made.isDirectory());
    t.equal(made.mode & 0o777, 0o700);
  });

  await t.test("says so when a file is in the way", async (t) => {
    const dir = t.testdir();
    await writeFile(join(dir, "file"), "");
    await t.rejects(makeFolder(join(dir, "file")), { code: "EEXIST" });
    await t.rejects(makeFolder(join(dir, "file", "below")), { code: "ENOTDIR" });
  });

  await t.test("ends where the kernel makes no folders", async (t) => {
    await t.rejects(makeFolder("/proc/nope"), { code: "ENOENT" });
    await t.rejects(makeFolder("/proc/nope/below"), { code: "ENOENT" });
  });
});
