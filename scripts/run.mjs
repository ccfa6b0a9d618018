// Runs one TypeScript program of this repository, e.g. `node scripts/run.mjs test/bench/store.ts --seconds 5`.
import { build } from "esbuild";
import { spawn } from "node:child_process";
import { mkdirSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const [file, ...args] = process.argv.slice(2);
if (!file) {
  process.stderr.write("usage: node scripts/run.mjs FILE.ts [ARGUMENTS]\n");
  process.exit(2);
}
// Inside node_modules, so that packages resolve from there.
const outfile = join(root, "node_modules", ".atedge", `${basename(file, ".ts")}-${process.pid}.mjs`);
mkdirSync(dirname(outfile), { recursive: true });
await build({
  absWorkingDir: root,
  entryPoints: [file],
  outfile,
  bundle: true,
  packages: "external",
  platform: "node",
  target: "node20",
  format: "esm",
  sourcemap: "inline",
  logLevel: "warning",
  define: { ATEDGE_VERSION: '"0.0.0-dev"' },
});
const child = spawn(process.execPath, ["--enable-source-maps", "--expose-gc", outfile, ...args], { stdio: "inherit" });
for (const name of ["SIGINT", "SIGTERM"]) process.on(name, () => child.kill(name));
child.on("close", (code) => (process.exitCode = code ?? 1));
