// Brings a fresh clone to the point where it runs: packages installed, `dist/` built. A second run skips what is done.
// Plain JavaScript with `node:` imports only, since it runs before anything is installed.
import { spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const stamps = join(root, "node_modules", ".atedge");

const [major = 0] = process.versions.node.split(".").map(Number);
if (major < 20) fail(`Node ${process.versions.node} is too old: atedge needs Node 20 or newer (https://nodejs.org).`);

/** What the tests use beside Node: a shell command that finds it, and the Debian package that brings it. */
const TEST_TOOLS = [
  ["command -v gcc", "gcc"],
  ["command -v g++", "g++"],
  ["command -v lintian", "lintian"],
  ["command -v make", "make"],
  ["command -v openssl", "openssl"],
  ["command -v mosquitto", "mosquitto"],
  ["command -v socat", "socat"],
  ["command -v tinyproxy", "tinyproxy"],
  ["command -v python3", "python3"],
  ["command -v systemd-analyze", "systemd"],
  ["command -v clang", "clang"],
  ["ls /usr/lib/llvm-*/lib/clang/*/lib/linux/libclang_rt.fuzzer*.a", "libclang-rt-dev"],
  ["ls /usr/include/sodium.h", "libsodium-dev"],
  ["command -v qemu-system-arm", "qemu-system-arm"],
  ["command -v arm-none-eabi-gcc", "gcc-arm-none-eabi"],
  ["ls /usr/lib/arm-none-eabi/newlib/nano.specs", "libnewlib-arm-none-eabi"],
];

if (process.argv.includes("--tests")) await installTools();
await step("packages", digest(["package-lock.json"]) + process.versions.modules, installPackages);
if (process.argv.includes("--tests") && !existsSync(join(stamps, "libsodium", "source")))
  await run(process.execPath, ["scripts/sodium-source.mjs"], "fetching libsodium's source from Debian");
await step("build", digest(sources()), () => run(process.execPath, ["scripts/build.mjs"], "building dist/"));

async function step(name, stamp, work) {
  const file = join(stamps, name);
  if (
    existsSync(file) &&
    readFileSync(file, "utf8") === stamp &&
    (name !== "build" || existsSync(join(root, "dist", "atedge.js")))
  ) {
    return;
  }
  await work();
  mkdirSync(stamps, { recursive: true });
  writeFileSync(file, stamp);
}

/** Installs Debian packages where it may, else says which are missing. */
async function installTools() {
  const missing = TEST_TOOLS.filter(([probe]) => spawnSync("sh", ["-c", probe]).status !== 0).map(([, name]) => name);
  if (missing.length === 0) return;
  const install = `apt-get install -y --no-install-recommends ${missing.join(" ")}`;
  const may = process.getuid?.() === 0 && spawnSync("which", ["apt-get"]).status === 0;
  if (!may)
    fail(
      `The tests also need ${missing.join(", ")}. On Debian, Ubuntu and Raspberry Pi OS:\n  sudo ${install}\nThen run the same command again.`,
    );
  process.env["DEBIAN_FRONTEND"] = "noninteractive";
  await run("apt-get", ["update", "-qq"], "reading Debian's package lists");
  await run("apt-get", install.split(" ").slice(1), `installing ${missing.join(", ")}`);
}

async function installPackages() {
  await run(
    "npm",
    ["ci", "--no-audit", "--no-fund", "--loglevel=error"],
    "installing packages (the first time SQLite may be compiled: up to two minutes)",
  );
  const probe = spawnSync(process.execPath, ["-e", "new (require('better-sqlite3'))(':memory:')"], {
    cwd: root,
    encoding: "utf8",
  });
  if (probe.status === 0) return;
  const missing = ["python3", "make", "g++"].filter((tool) => spawnSync("which", [tool]).status !== 0);
  if (missing.length > 0) {
    fail(
      `better-sqlite3 has no ready-made binary for this machine and must be compiled, but ${missing.join(", ")} is missing.\nOn Debian, Ubuntu and Raspberry Pi OS: sudo apt-get install -y python3 make g++\nThen run the same command again.`,
    );
  }
  await run("npm", ["rebuild", "better-sqlite3", "--foreground-scripts", "--loglevel=error"], "compiling SQLite");
}

/** Runs a command, shows that it is alive, and prints what it said only when it fails. */
async function run(command, args, what) {
  const startedAt = Date.now();
  const seconds = () => `${Math.round((Date.now() - startedAt) / 1000)} s`;
  const live = process.stderr.isTTY === true;
  if (!live) process.stderr.write(`set-up: ${what} …\n`);
  const spinner = live
    ? setInterval(() => process.stderr.write(`\r\u001b[Kset-up: ${what} … ${seconds()}`), 500)
    : undefined;
  const child = spawn(command, args, { cwd: root, stdio: ["ignore", "pipe", "pipe"] });
  const output = [];
  child.stdout.on("data", (chunk) => output.push(chunk));
  child.stderr.on("data", (chunk) => output.push(chunk));
  const code = await new Promise((resolve) => {
    child.on("error", (error) => (output.push(Buffer.from(`${error.message}\n`)), resolve(127)));
    child.on("close", resolve);
  });
  clearInterval(spinner);
  if (live) process.stderr.write("\r\u001b[K");
  if (code === 0) {
    process.stderr.write(`set-up: ${what}: done in ${seconds()}\n`);
    return;
  }
  process.stderr.write(Buffer.concat(output));
  fail(`${what} failed (${command} ${args.join(" ")} gave ${code}); its output is above.`);
}

function digest(files) {
  const hash = createHash("sha256");
  for (const file of files)
    hash
      .update(`${file}\0`)
      .update(readFileSync(join(root, file)))
      .update("\0");
  return hash.digest("hex");
}

function sources() {
  const rooms = [
    "core",
    "atplatform",
    "messages",
    "drivers",
    "firmware-bridge",
    "agent",
    "remote",
    "deploy",
    "cli",
    "demo",
  ];
  const found = [
    "package.json",
    "tsconfig.json",
    "scripts/build.mjs",
    "scripts/bundle.mjs",
    "scripts/native-addons.mjs",
  ];
  const walk = (folder) => {
    if (!existsSync(join(root, folder))) return;
    for (const name of readdirSync(join(root, folder)).sort()) {
      const path = `${folder}/${name}`;
      if (statSync(join(root, path)).isDirectory()) walk(path);
      else if (name.endsWith(".ts")) found.push(path);
    }
  };
  rooms.forEach(walk);
  return found;
}

function fail(message) {
  process.stderr.write(`\n${message}\n`);
  process.exit(1);
}
