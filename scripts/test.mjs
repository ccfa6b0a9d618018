// Runs the tests: one line a file as it ends, all of a file's TAP when it fails, and at the end the plain line
// `N passed, N failed`, counted from tap's own summary. Arguments go to tap (file names, --grep …).
import { spawn } from "node:child_process";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";

const require = createRequire(import.meta.url);
const tap = join(dirname(require.resolve("tap/package.json")), "dist", "esm", "run.mjs");
const child = spawn(process.execPath, [tap, "run", "--reporter=tap", ...process.argv.slice(2)], {
  stdio: ["ignore", "pipe", "inherit"],
});

let block = [];
let summary = "";
for await (const line of createInterface({ input: child.stdout })) {
  const file = /^(not )?ok \d+ - (.*)$/u.exec(line);
  if (file?.[1]) process.stdout.write(`${block.join("\n")}\n${line}\n`);
  else if (file) process.stdout.write(`ok ${file[2]}\n`);
  if (file) block = [];
  else block.push(line);
  summary = /^# \{([^}]*)\}/u.exec(line)?.[1] ?? summary;
}
const { code } = await new Promise((resolve) =>
  child.exitCode === null && child.signalCode === null
    ? child.on("close", (code) => resolve({ code }))
    : resolve({ code: child.exitCode }),
);
const count = (name) => Number(new RegExp(`\\b${name}: (\\d+)`, "u").exec(summary)?.[1] ?? 0);
const skipped = count("skip") + count("todo");
const failed = count("total") - count("pass") - skipped;
if (code !== 0 || count("total") === 0) process.stdout.write(`${block.join("\n")}\n`);
process.stdout.write(`\n${count("pass")} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ""}\n`);
process.exitCode = code === 0 && count("total") > 0 && failed === 0 ? 0 : 1;
