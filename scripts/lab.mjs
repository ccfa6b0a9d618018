// Runs every program in test/lab/, or those named: `npm run lab -- soak --seconds 120`. They take minutes to hours and
// are not part of `npm test`.
import { spawnSync } from "node:child_process";
import { readdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const scripts = dirname(fileURLToPath(import.meta.url));
const folder = join(scripts, "..", "test", "lab");
const all = readdirSync(folder)
  .filter((name) => name.endsWith(".ts"))
  .map((name) => name.slice(0, -3));
const args = process.argv.slice(2);
const firstOption = args.findIndex((arg) => arg.startsWith("-"));
const names = firstOption === -1 ? args : args.slice(0, firstOption);
const options = firstOption === -1 ? [] : args.slice(firstOption);
const unknown = names.filter((name) => !all.includes(name));
if (unknown.length > 0) {
  process.stderr.write(`nothing in the lab is called ${unknown.join(", ")}; there are: ${all.join(", ")}\n`);
  process.exit(2);
}
for (const name of names.length > 0 ? names : all) {
  process.stdout.write(`\n== ${name}\n`);
  const program = [join(scripts, "run.mjs"), join(folder, `${name}.ts`), ...options];
  const { status } = spawnSync(process.execPath, program, { stdio: "inherit" });
  if (status !== 0) process.exitCode = 1;
}
