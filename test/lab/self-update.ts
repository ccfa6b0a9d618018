/**
 * Self-updates of a real agent under a real systemd: good releases, ones that crash, that never connect, that are
 * signed by a stranger or older, and power cuts. After each, one version works. Needs what the package lab needs; takes
 * about ten minutes. `npm run lab -- self-update --only good`
 */
import { execFileSync, spawn } from "node:child_process";
import { chmodSync, copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync, existsSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import Database from "better-sqlite3";
import { DebianRoot, judge } from "../fixtures/lab/debian-root.js";

const WITHIN_S = 240;
const OLD = "0.1.0";
const NEW = "0.2.0";

/** Sets up a site: platform, agent with a reader, both as services. */
const SET_UP = `
export DEBIAN_FRONTEND=noninteractive
dpkg -i /lab/old.deb
platform=/var/lib/atedge-platform
systemctl enable --now atedge-platform
waitfor '[ -e $platform/ca.pem ]'
cp $platform/ca.pem /etc/atedge/ca.pem; chmod 644 /etc/atedge/ca.pem
for name in greenhouse grower; do
  runuser -u atedge-platform -- atedge platform add @$name --state $platform --cram-secret-file $platform/$name.cram
  waitfor "atedge onboard @$name --cram-file $platform/$name.cram --keys /lab/$name.atKeys $site"
done
install -d -m 700 /etc/credstore
install -m 600 /lab/greenhouse.atKeys /etc/credstore/atedge.atkeys
cp /lab/atedge.toml /etc/atedge/atedge.toml
cp /lab/update.toml /etc/atedge/update.toml
systemctl start atedge
waitfor '[ -e /run/atedge/connected.json ]'
`;

const script = (work: string): string => `#!/bin/bash
exec >> /lab/script.log 2>&1
set -x
waitfor() { for i in {1..300}; do eval "$1" && return; sleep 0.2; done; echo "in vain: $1"; exit 1; }
trap 'journalctl -b -u atedge -u atedge-update -u atedge-update-recover -o short-monotonic > /lab/journal; sync; systemctl --no-block poweroff' EXIT
set -e
site="--directory localhost:6464 --ca /etc/atedge/ca.pem"
${work}
`;

/** What is there at the end: one version that runs and has reached its atServer. */
const LOOK = `
waitfor '[ ! -e /var/lib/atedge-update/state.json ]'
waitfor '[ -e /run/atedge/connected.json ]'
dpkg-query -W -f '\${Version} \${db:Status-Abbrev}' atedge > /lab/dpkg
cp /run/atedge/connected.json /lab/connected
systemctl show -p ActiveState,NRestarts atedge > /lab/service
cp /var/lib/atedge-update/outcome.json /lab/outcome || true
ls /var/lib/atedge-update > /lab/helper-files
`;

const install = (file: string): string => `
atedge update install /lab/${file} > /lab/told 2>&1 || true
`;

/** Readings go on through the update: what a reader got, and what the outbox still has. */
const WATCH = `
timeout 20 atedge watch @greenhouse/north --as @grower --keys /lab/grower.atKeys $site --state /lab/known --keep /lab/keep.db > /lab/watched 2>&1 || true
`;

const CONFIG = `atsign = "@greenhouse"
device = "north"
directory = "localhost:6464"
ca = "/etc/atedge/ca.pem"
keys = "/run/credentials/atedge.service/atedge.atkeys"
allowManagerKeys = true
maxDelayMs = 200

[[reader]]
atsign = "@grower"

[[driver]]
id = "sim"
type = "simulated"
intervalMs = 100
name = "level"
`;

/** Programs in place of the agent, for releases that do not work. */
const CRASHES = `#!/usr/bin/env node
process.exit(3);
`;
const NEVER_CONNECTS = `#!/usr/bin/env node
import { execFileSync } from "node:child_process";
const say = (...words) => { try { execFileSync("systemd-notify", words); } catch {} };
say("READY=1");
setInterval(() => say("WATCHDOG=1"), 5000);
`;

const { values } = parseArgs({ options: { only: { type: "string", multiple: true } } });
const wanted = (name: string): boolean => values.only?.includes(name) ?? true;
const folder = mkdtempSync(join(tmpdir(), "atedge-releases-"));
try {
  const releases = makeReleases();
  await tryAll(releases);
} finally {
  rmSync(folder, { recursive: true, force: true });
}

interface Releases {
  readonly old: string;
  readonly publicKey: string;
  readonly files: readonly string[];
}

async function tryAll({ old, publicKey, files }: Releases): Promise<void> {
  using base = DebianRoot.open("amd64");
  const lab = (root: DebianRoot, name: string): string => join(root.path, "lab", name);
  copyFileSync(old, lab(base, "old.deb"));
  for (const file of files) copyFileSync(join(folder, file), lab(base, file));
  writeFileSync(lab(base, "atedge.toml"), CONFIG);
  writeFileSync(lab(base, "update.toml"), `keys = ["${publicKey}"]\nhealthyWithinS = 30\n`);
  furnish(base, script(SET_UP + LOOK));
  base.boot(WITHIN_S, "systemd.unit=lab.target");
  judge("set-up", [["the old version works", works(base, OLD)]]);
  if (process.exitCode === 1) return void process.stdout.write(base.text("script.log").slice(-3000));

  for (const [name, file, version, outcome] of [
    ["good", "good.deb", NEW, "installed"],
    ["crashes", "crashes.deb", OLD, "returned"],
    ["never-connects", "never-connects.deb", OLD, "returned"],
    ["stranger", "stranger.deb", OLD, "refused"],
    ["older", "older.deb", OLD, "refused"],
  ] as const) {
    if (!wanted(name)) continue;
    using root = DebianRoot.over(base);
    furnish(root, script(`waitfor '[ -e /run/atedge/connected.json ]'\nsleep 5\n${install(file)}${LOOK}${WATCH}`));
    root.boot(WITHIN_S, "systemd.unit=lab.target");
    judge(name, [
      [`${version} runs and has reached its atServer`, works(root, version)],
      [`the outcome says ${outcome}: ${root.text("told").trim()}`, root.text("outcome").includes(`"${outcome}"`)],
      ["the reader misses nothing", hasAll(root)],
      ["the service was started once for the new version", name !== "good" || restartsOf(root) === 0],
    ]);
  }
  for (const [release, phase, afterMs] of [
    ["good", "installing", 0],
    ["good", "installing", 300],
    ["good", "installing", 700],
    ["good", "trial", 0],
    ["good", "trial", 6000],
    ["crashes", "trial", 3000],
    ["crashes", "returning", 0],
    ["crashes", "returning", 400],
  ] as const) {
    const title = `cut-${release}-${phase}-${afterMs}`;
    if (!wanted("cuts") && !wanted(title)) continue;
    using root = DebianRoot.over(base);
    furnish(root, script(`waitfor '[ -e /run/atedge/connected.json ]'\n${install(`${release}.deb`)}sleep 60\n`));
    const cut = await bootUntil(root, phase, afterMs);
    furnish(root, script(LOOK + WATCH));
    root.boot(WITHIN_S, "systemd.unit=lab.target");
    const version = works(root, OLD) ? OLD : NEW;
    judge(title, [
      ["the power went in the middle", cut],
      [`one version works afterwards: ${version}`, works(root, version)],
      ["a release that does not work is not it", release === "good" || version === OLD],
      ["the reader misses nothing", hasAll(root)],
    ]);
    if (!works(root, version)) process.stdout.write(`${root.text("script.log").slice(-1500)}\n${root.text("journal")}`);
  }
}

/** Boots, and takes the power away so long after the update has come to a phase. @returns whether it came there. */
async function bootUntil(root: DebianRoot, phase: string, afterMs: number): Promise<boolean> {
  const state = join(root.path, "var/lib/atedge-update/state.json");
  const nspawn = [
    "-q",
    "-D",
    root.path,
    "--register=no",
    "--keep-unit",
    "--private-network",
    "--boot",
    "--console=pipe",
  ];
  const child = spawn("systemd-nspawn", [...nspawn, "systemd.unit=lab.target"], { stdio: "ignore" });
  const ended = new Promise((resolve) => child.on("close", resolve));
  const until = Date.now() + WITHIN_S * 1000;
  let seen = false;
  while (Date.now() < until && child.exitCode === null && !seen) {
    await sleep(20);
    seen = existsSync(state) && readFileSync(state, "utf8").includes(`"phase":"${phase}"`);
  }
  if (seen) await sleep(afterMs);
  // Its init takes all with it, at once.
  for (const pid of descendants(child.pid ?? 0)) kill(pid);
  await ended;
  await sleep(500);
  return seen;
}

/** The innermost first. */
function descendants(pid: number): number[] {
  const path = `/proc/${pid}/task/${pid}/children`;
  const children = existsSync(path) ? readFileSync(path, "utf8").split(" ").map(Number).filter(Boolean) : [];
  return [...children.flatMap(descendants), pid];
}

function kill(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch {
    // Gone with its parent.
  }
}

function furnish(root: DebianRoot, text: string): void {
  for (const name of ["dpkg", "connected", "outcome", "told", "service"])
    rmSync(join(root.path, "lab", name), { force: true });
  writeFileSync(join(root.path, "lab/script"), text, { mode: 0o755 });
  const system = join(root.path, "usr/lib/systemd/system");
  writeFileSync(
    join(system, "lab.service"),
    "[Unit]\nAfter=atedge.service\n[Service]\nType=exec\nExecStart=/lab/script\n",
  );
  writeFileSync(join(system, "lab.target"), "[Unit]\nRequires=multi-user.target\nWants=lab.service\n");
}

/** dpkg and the running agent agree on the version. */
function works(root: DebianRoot, version: string): boolean {
  const runs = /"version":"([^"]+)"/u.exec(root.text("connected"))?.[1];
  return (
    root.text("dpkg").trim() === `${version} ii` && runs === version && /ActiveState=active/u.test(root.text("service"))
  );
}

function restartsOf(root: DebianRoot): number {
  return Number(/NRestarts=(\d+)/u.exec(root.text("service"))?.[1] ?? -1);
}

/** Numbers from the first to the last without a hole or a gap: the simulated driver and the outbox went on. */
function hasAll(root: DebianRoot): boolean {
  const path = join(root.path, "lab/keep.db");
  if (!existsSync(path)) return false;
  const db = new Database(path);
  try {
    const gaps = Number(db.prepare("SELECT count(*) FROM gap").pluck().get());
    const lives = Number(db.prepare("SELECT count(*) FROM life").pluck().get());
    const seqs = db.prepare<[], number>("SELECT DISTINCT seq FROM message ORDER BY seq").pluck().all();
    return gaps === 0 && lives === 1 && seqs.length > 0 && seqs.every((seq, index) => seq === index + (seqs[0] ?? 0));
  } finally {
    db.close();
  }
}

function makeReleases(): Releases {
  const atedge = (...args: string[]): string =>
    execFileSync(process.execPath, ["dist/atedge.js", ...args], { encoding: "utf8" });
  const pack = (version: string): string => {
    const args = ["scripts/pack-deb.mjs", "--arch", "amd64", "--out", folder, "--version", version];
    execFileSync(process.execPath, args, { stdio: ["ignore", "ignore", "inherit"] });
    return join(folder, `atedge_${version}_amd64.deb`);
  };
  const keys = join(folder, "releases.key");
  const publicKey = /"(.+)"/u.exec(atedge("update", "keygen", "--out", keys))?.[1] ?? "";
  const stranger = join(folder, "stranger.key");
  atedge("update", "keygen", "--out", stranger);
  const release = (name: string, deb: string, version: string, key = keys): string => {
    const file = join(folder, name);
    copyFileSync(deb, file);
    atedge("update", "sign", file, "--key", key, "--version", version, "--arch", "amd64");
    return name;
  };
  const good = pack(NEW);
  const names = [
    release("good.deb", good, NEW),
    release("crashes.deb", withProgram(good, CRASHES), NEW),
    release("never-connects.deb", withProgram(good, NEVER_CONNECTS), NEW),
    release("stranger.deb", good, NEW, stranger),
    release("older.deb", pack("0.0.9"), "0.0.9"),
  ];
  return { old: pack(OLD), publicKey, files: names.flatMap((name) => [name, `${name}.release.json`]) };
}

/** The package with another program in it. */
function withProgram(deb: string, program: string): string {
  const tree = mkdtempSync(join(folder, "tree-"));
  execFileSync("dpkg-deb", ["-R", deb, tree]);
  const path = join(tree, "usr/lib/atedge/atedge.js");
  writeFileSync(path, program);
  chmodSync(path, 0o755);
  const out = `${tree}.deb`;
  execFileSync("dpkg-deb", ["--root-owner-group", "-Zgzip", "--build", tree, out], { stdio: "ignore" });
  return out;
}
