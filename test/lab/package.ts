/**
 * The Debian packages in a Debian 13 of each architecture, arm64 and armhf emulated: install, work, upgrade with
 * readings in the outbox, remove, purge. `npm run lab -- package --arch amd64`; all three take some ten minutes.
 */
import Database from "better-sqlite3";
import { execFileSync } from "node:child_process";
import { copyFileSync, existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { type DebianArch, DebianRoot, judge } from "../fixtures/lab/debian-root.js";

const ALL: readonly DebianArch[] = ["amd64", "arm64", "armhf"];
const WITHIN_S = 1500;
/** How much longer everything takes where the processor is emulated. */
const SLOWER = 4;

/** Without an init: what the units would start is started as their users. */
const script = (slower: number): string => `#!/bin/bash
exec > /lab/script.log 2>&1
set -ex
export HOME=/root
unset NOTIFY_SOCKET
end() { for p in /proc/[0-9]*; do [ "$(stat -c %U $p 2>/dev/null)" != $1 ] || kill -KILL \${p#/proc/} || true; done 2>/dev/null; }
as() { local user=$1; shift; runuser -u $user -- "$@"; }
waitfor() { for i in {1..1200}; do eval "$1" && return; sleep 0.2; done; echo "in vain: $1"; exit 1; }
DEBIAN_FRONTEND=noninteractive dpkg -i /lab/old.deb
atedge --version > /lab/old.version
ls -ld /etc/atedge /etc/atedge/update.toml /etc/atedge-platform /usr/lib/atedge/atedge.js > /lab/modes
getent passwd atedge atedge-platform atedge-collect > /lab/users; id atedge >> /lab/users
ls /etc/systemd/system/multi-user.target.wants > /lab/enabled
echo '# edited' >> /etc/atedge/update.toml

platform=/var/lib/atedge-platform; agent=/var/lib/atedge
install -d -o atedge-platform -m 700 $platform; install -d -o atedge -m 700 $agent
start_platform() { as atedge-platform atedge platform --state $platform & waitfor '[ -e $platform/ca.pem ]'; }
start_platform
cp $platform/ca.pem /etc/atedge/ca.pem; chmod 644 /etc/atedge/ca.pem
site="--directory localhost:6464 --ca /etc/atedge/ca.pem"
for name in greenhouse grower; do
  as atedge-platform atedge platform add @$name --state $platform --cram-secret-file $platform/$name.cram || true # slow is no failure
  waitfor "atedge onboard @$name --cram-file $platform/$name.cram --keys /lab/$name.atKeys $site"
done
install -o atedge -m 600 /lab/greenhouse.atKeys $agent/keys.atKeys
(set +x; while :; do echo '{"n":1}'; sleep 0.5; done) | script -qfc 'tty > /lab/tty; chown atedge $(tty); exec sleep 3600' /dev/null > /dev/null &
waitfor '[ -s /lab/tty ]'
sed "s|TTY|$(cat /lab/tty)|" /lab/atedge.toml > /etc/atedge/atedge.toml
start_agent() { as atedge atedge run --config /etc/atedge/atedge.toml & }
start_agent
waitfor '[ -e $agent/outbox.db ]'; sleep ${10 * slower}
end atedge-platform
sleep ${8 * slower}
end atedge
sleep 0.5
mkdir /lab/before; cp $agent/outbox.db* /lab/before/

DEBIAN_FRONTEND=noninteractive dpkg -i /lab/new.deb
atedge --version > /lab/new.version
tail -1 /etc/atedge/update.toml > /lab/conffile
start_platform
start_agent
timeout ${40 * slower} atedge watch @greenhouse/north --as @grower --keys /lab/grower.atKeys $site --state /lab/known --keep /lab/keep.db > /lab/watched || true
end atedge; end atedge-platform; sleep 0.5

dpkg -r atedge
ls $agent > /lab/removed; [ ! -e /usr/lib/atedge ]
dpkg -P atedge
for path in /var/lib/atedge /var/lib/atedge-platform /etc/atedge /etc/atedge-platform /usr/lib/atedge; do [ ! -e $path ] || echo $path; done > /lab/left
dpkg-query -s atedge >> /lab/left 2>/dev/null || true
echo done > /lab/done
kill -KILL $(jobs -p) || true
`;

const CONFIG = `atsign = "@greenhouse"
device = "north"
directory = "localhost:6464"
ca = "/etc/atedge/ca.pem"
stateDir = "/var/lib/atedge"
keys = "/var/lib/atedge/keys.atKeys"
allowManagerKeys = true
maxDelayMs = 200

[[reader]]
atsign = "@grower"

[[driver]]
id = "sim"
type = "simulated"
intervalMs = 200
name = "level"

[[driver]]
id = "board"
type = "serial"
path = "TTY"
baud = 9600
frame = "json-lines"
[[driver.reading]]
pointer = "/n"
name = "board/n"
`;

const { values } = parseArgs({ options: { arch: { type: "string", multiple: true } } });
const packages = mkdtempSync(join(tmpdir(), "atedge-packages-"));
try {
  for (const arch of ALL.filter((arch) => values.arch?.includes(arch) ?? true)) tryOut(arch);
} finally {
  rmSync(packages, { recursive: true, force: true });
}

function pack(arch: DebianArch, version: string): string {
  const args = ["scripts/pack-deb.mjs", "--arch", arch, "--out", packages, "--version", version];
  execFileSync(process.execPath, args, { stdio: ["ignore", "ignore", "inherit"] });
  return join(packages, `atedge_${version}_${arch}.deb`);
}

function tryOut(arch: DebianArch): void {
  using root = DebianRoot.open(arch);
  const lab = (name: string): string => join(root.path, "lab", name);
  copyFileSync(pack(arch, "0.1.0"), lab("old.deb"));
  copyFileSync(pack(arch, "0.2.0"), lab("new.deb"));
  writeFileSync(lab("atedge.toml"), CONFIG);
  writeFileSync(lab("script"), script(arch === "amd64" ? 1 : SLOWER), { mode: 0o755 });
  root.run("script", WITHIN_S);

  const text = (name: string): string => root.text(name);
  const waited = rows(lab("before/outbox.db"), "SELECT timeMs FROM reading");
  const kept = new Set(rows(lab("keep.db"), "SELECT time_ms FROM reading"));
  const serial = rows(lab("keep.db"), "SELECT time_ms FROM reading WHERE name LIKE 'board/%'");
  judge(arch, [
    ["the package installs and its command runs", text("old.version") === "0.1.0\n"],
    [
      "files belong to root, configuration is readable by the service",
      /^drwxr-x--- .* root atedge .* \/etc\/atedge$/mu.test(text("modes")) &&
        /^-rwxr-xr-x .* root root .*atedge\.js$/mu.test(text("modes")),
    ],
    [
      "the services have users of their own, the agent may use serial ports",
      /^atedge:[^]*^atedge-platform:[^]*^atedge-collect:[^]*dialout/mu.test(text("users")),
    ],
    ["agent and update are enabled, platform and collector are not", isEnabled(text("enabled"))],
    ["a serial board is read through the native addon", serial.length > 0],
    ["the new version takes its place", text("new.version") === "0.2.0\n"],
    ["what the owner changed in a configuration file stays", text("conffile") === "# edited\n"],
    [
      `${waited.length} readings that waited in the outbox arrive after the upgrade`,
      waited.length > 10 && waited.every((time) => kept.has(time)),
    ],
    ["removal keeps keys and outbox", /keys\.atKeys[^]*outbox\.db/u.test(text("removed"))],
    ["purge leaves nothing", text("done") === "done\n" && text("left") === ""],
  ]);
  if (process.exitCode === 1) process.stdout.write(`${text("script.log").slice(-2000)}\n`);
}

function isEnabled(wants: string): boolean {
  const names = wants.split("\n");
  return names.includes("atedge.service") && !names.some((name) => /platform|collect/u.test(name));
}

function rows(path: string, sql: string): number[] {
  if (!existsSync(path)) return [];
  const db = new Database(path);
  try {
    return db.prepare<[], number>(sql).pluck().all();
  } finally {
    db.close();
  }
}
