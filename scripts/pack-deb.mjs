// Debian packages: `npm run pack:deb`, or `node scripts/pack-deb.mjs --arch amd64 --out FOLDER --version 0.2.0`. The same
// commit gives the same bytes: times are that of the commit, or SOURCE_DATE_EPOCH.
import { execFileSync, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  chmodSync,
  cpSync,
  existsSync,
  lstatSync,
  lutimesSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { gzipSync } from "node:zlib";
import { bundle, VERSION } from "./bundle.mjs";
import { MACHINES, nativeAddons } from "./native-addons.mjs";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const debian = join(root, "deploy", "debian");

/** Where the files of deploy/ go. */
const FILES = {
  "deploy/systemd/atedge.sysusers.conf": "usr/lib/sysusers.d/atedge.conf",
  "deploy/systemd/10-backoff.conf": "usr/lib/systemd/system/atedge.service.d/10-backoff.conf",
  "deploy/udev/60-atedge-serial.rules": "usr/lib/udev/rules.d/60-atedge-serial.rules",
  "deploy/atedge.example.toml": "usr/share/doc/atedge/examples/atedge.toml",
  "deploy/image/first-boot.sh": "usr/lib/atedge/first-boot",
  "deploy/image/atedge-provision.example.toml": "usr/share/doc/atedge/examples/atedge-provision.toml",
  "deploy/debian/lintian-overrides": "usr/share/lintian/overrides/atedge",
  "deploy/debian/update.toml": "etc/atedge/update.toml",
  "deploy/debian/platform.env": "etc/atedge-platform/platform.env",
  "deploy/debian/collect.env": "etc/atedge-collect/collect.env",
};
const SCRIPTS = ["preinst", "postinst", "prerm", "postrm"];

/** @returns the package's path. */
export async function packDeb({ arch, out, version = VERSION, epochS = commitTimeS() }) {
  const addons = await nativeAddons(arch);
  const tree = mkdtempSync(join(tmpdir(), "atedge-deb-"));
  try {
    await bundle({ outdir: join(tree, "usr/lib/atedge"), addons, version });
    furnish(tree, { arch, version, epochS });
    normalise(tree, epochS);
    mkdirSync(out, { recursive: true });
    const path = join(out, `atedge_${version}_${arch}.deb`);
    const env = { ...process.env, SOURCE_DATE_EPOCH: String(epochS) };
    execFileSync("dpkg-deb", ["--root-owner-group", "-Zxz", "--threads-max=1", "--build", tree, path], {
      env,
      stdio: ["ignore", "ignore", "inherit"],
    });
    return path;
  } finally {
    rmSync(tree, { recursive: true, force: true });
  }
}

function furnish(tree, { arch, version, epochS }) {
  const at = (path) => {
    mkdirSync(dirname(join(tree, path)), { recursive: true });
    return join(tree, path);
  };
  const fill = (name, values) =>
    readFileSync(join(debian, name), "utf8").replaceAll(/@([A-Z]+)@/gu, (_, key) => values[key]);
  const systemd = join(root, "deploy", "systemd");
  for (const unit of readdirSync(systemd).filter((name) => /\.(service|path)$/u.test(name)))
    cpSync(join(systemd, unit), at(`usr/lib/systemd/system/${unit}`));
  for (const [from, to] of Object.entries(FILES)) cpSync(join(root, from), at(to));
  mkdirSync(at("usr/bin"));
  symlinkSync("../lib/atedge/atedge.js", at("usr/bin/atedge"));

  const doc = "usr/share/doc/atedge";
  const zip = (text) => gzipSync(text, { level: 9 }); // its header has no name, and no time
  const date = new Date(epochS * 1000).toUTCString().replace("GMT", "+0000");
  writeFileSync(at(`${doc}/changelog.gz`), zip(fill("changelog", { VERSION: version, DATE: date })));
  writeFileSync(at("usr/share/man/man1/atedge.1.gz"), zip(fill("atedge.1", { VERSION: version })));
  const licence = readFileSync(join(root, "LICENSE"), "utf8").trim().split("\n");
  const indented = licence.map((line) => (line.trim() === "" ? " ." : ` ${line}`)).join("\n");
  writeFileSync(at(`${doc}/copyright`), fill("copyright", { LICENSE: indented, BUNDLED: bundledPackages() }));

  const kib = Math.ceil(bytesUnder(tree) / 1024);
  writeFileSync(at("DEBIAN/control"), fill("control", { VERSION: version, ARCH: arch, KIB: String(kib) }));
  cpSync(join(debian, "conffiles"), at("DEBIAN/conffiles"));
  for (const script of SCRIPTS) {
    const own = join(debian, `${script}.${arch}`);
    const path = existsSync(own) ? own : join(debian, script);
    if (existsSync(path)) cpSync(path, at(`DEBIAN/${script}`));
  }
  const sums = filesUnder(tree)
    .filter((path) => !/^(DEBIAN|etc)\//u.test(path) && lstatSync(join(tree, path)).isFile())
    .map(
      (path) =>
        `${createHash("md5")
          .update(readFileSync(join(tree, path)))
          .digest("hex")}  ${path}\n`,
    );
  writeFileSync(at("DEBIAN/md5sums"), sums.join(""));
}

/** One line a package of production, from the lock file. */
function bundledPackages() {
  const { packages } = JSON.parse(readFileSync(join(root, "package-lock.json"), "utf8"));
  return Object.entries(packages)
    .filter(([path, { dev, optional }]) => path !== "" && !dev && !optional)
    .map(([path, { version, license }]) => `  ${path.replace(/^.*node_modules\//u, "")} ${version} (${license})`)
    .sort()
    .join("\n");
}

/** Modes and times that do not depend on who builds, and when. */
function normalise(tree, epochS) {
  for (const path of ["", ...filesUnder(tree)]) {
    const full = join(tree, path);
    const stat = lstatSync(full);
    const runs = stat.isDirectory() || /^DEBIAN\/(pre|post)|^usr\/lib\/atedge\/(atedge\.js|first-boot)$/u.test(path);
    if (!stat.isSymbolicLink()) chmodSync(full, runs ? 0o755 : 0o644);
    lutimesSync(full, epochS, epochS);
  }
}

const filesUnder = (folder) => readdirSync(folder, { recursive: true }).sort();
const bytesUnder = (folder) =>
  filesUnder(folder).reduce((sum, path) => sum + Math.ceil(lstatSync(join(folder, path)).size / 4096) * 4096, 0);

function commitTimeS() {
  const given = process.env["SOURCE_DATE_EPOCH"];
  if (given) return Number(given);
  const git = spawnSync("git", ["log", "-1", "--format=%ct"], { cwd: root, encoding: "utf8" });
  // Not a clone: the unpacked archive has the commit's time on its files.
  return git.status === 0 ? Number(git.stdout) : Math.floor(statSync(join(root, "package.json")).mtimeMs / 1000);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { values } = parseArgs({
    options: {
      arch: { type: "string", multiple: true, default: Object.keys(MACHINES) },
      out: { type: "string", default: join(root, "dist-deb") },
      version: { type: "string", default: VERSION },
    },
  });
  for (const arch of values.arch) {
    const path = await packDeb({ arch, out: values.out, version: values.version });
    process.stdout.write(`${path}: ${(lstatSync(path).size / 1e6).toFixed(2)} MB\n`);
  }
}
