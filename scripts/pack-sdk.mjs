// Builds the SDK as a package of its own in dist-sdk/: JavaScript and declarations of what atplatform/index.ts reaches,
// no dependencies. With --pack also the tarball, in the folder named after it (default: dist-sdk/).
import { spawnSync } from "node:child_process";
import { cpSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const tsc = createRequire(import.meta.url).resolve("typescript/bin/tsc");
const target = join(root, "dist-sdk");
const staging = `${target}.new`;
const { version, license, engines } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));

rmSync(staging, { recursive: true, force: true });
mkdirSync(staging, { recursive: true });
run(process.execPath, [tsc, "-p", "scripts/tsconfig.sdk.json", "--noEmit", "false", "--outDir", staging], root);

// The proof that the package needs nothing but Node: every import is relative or `node:`.
const files = readdirSync(staging, { recursive: true }).map(String);
for (const file of files.filter((name) => name.endsWith(".js"))) {
  const code = readFileSync(join(staging, file), "utf8");
  for (const [, named, lazy] of code.matchAll(
    /^(?:import|export) (?:[^;"]*\bfrom )?"([^"]+)"|import\("([^"]+)"\)/gmu,
  )) {
    const from = named ?? lazy;
    if (!from.startsWith(".") && !from.startsWith("node:")) fail(`${file} imports ${from}: the SDK has no dependency`);
  }
}

const name = "atedge-atplatform";
const entry = { types: "./atplatform/index.d.ts", default: "./atplatform/index.js" };
const description = "The atSDK for Node: records, notifications, RPC and enrolment on the Atsign atPlatform";
const manifest = { name, version, description, license, type: "module", engines, exports: { ".": entry } };
writeFileSync(join(staging, "package.json"), `${JSON.stringify({ ...manifest, sideEffects: false }, null, 2)}\n`);
cpSync(join(root, "LICENSE"), join(staging, "LICENSE"));
cpSync(join(root, "docs", "start", "sdk.md"), join(staging, "README.md"));
rmSync(target, { recursive: true, force: true });
renameSync(staging, target);
process.stdout.write(`dist-sdk/: ${name} ${version}, ${files.filter((file) => file.endsWith(".js")).length} modules\n`);

const packAt = process.argv.indexOf("--pack");
if (packAt !== -1) {
  const folder = resolve(process.argv[packAt + 1] ?? target);
  run("npm", ["pack", "--silent", "--offline", "--pack-destination", folder], target);
}

function run(command, args, cwd) {
  const { status, stdout, stderr } = spawnSync(command, args, { cwd, encoding: "utf8" });
  if (status !== 0) fail(`${command} ${args.join(" ")} failed:\n${stdout}${stderr}`);
}

function fail(message) {
  process.stderr.write(`${message}\n`);
  process.exit(1);
}
