// Runs every benchmark in test/bench/, or those named: `npm run bench -- store mqtt-receive`.
import { spawn, spawnSync } from "node:child_process";
import { readdirSync } from "node:fs";
import { availableParallelism } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const scripts = dirname(fileURLToPath(import.meta.url));
const folder = join(scripts, "..", "test", "bench");
const all = readdirSync(folder)
  .filter((name) => name.endsWith(".ts"))
  .map((name) => name.slice(0, -3));
const wanted = process.argv.slice(2);
const unknown = wanted.filter((name) => !all.includes(name));
if (unknown.length > 0) {
  process.stderr.write(`no benchmark ${unknown.join(", ")}; there are: ${all.join(", ")}\n`);
  process.exit(2);
}
// A core that sleeps takes longer to wake than an atServer to answer, and sleeps or not by how long it waited: a ratio of
// two waits would tell about the hypervisor. So each core is kept awake by a loop that gives way to everything else.
const awake = Array.from({ length: availableParallelism() }, () =>
  spawn("chrt", ["--idle", "0", "sh", "-c", "while :; do :; done"], { stdio: "ignore" }).on("error", () => undefined),
);
const rest = () => awake.forEach((loop) => loop.kill());
for (const signal of ["SIGINT", "SIGTERM"]) {
  process.on(signal, () => {
    rest();
    process.exit(130);
  });
}

for (const name of wanted.length > 0 ? wanted : all) {
  process.stdout.write(`\n== ${name}\n`);
  const { status } = spawnSync(process.execPath, [join(scripts, "run.mjs"), join(folder, `${name}.ts`)], {
    stdio: "inherit",
  });
  if (status !== 0) process.exitCode = 1;
}
rest();
