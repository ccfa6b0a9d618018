/**
 * The units under a real systemd, in a container: READY seen, the credential loaded, a stopped event loop killed by the
 * watchdog, the service back, and nothing lost. Needs root, debootstrap and systemd-nspawn (Debian: debootstrap,
 * systemd-container); takes a minute, and two more when the root must be made. Run by `npm run lab`.
 *
 * ATEDGE_LAB_ROOT names the folder of the root; it is made when it is not there, and kept.
 */
import Database from "better-sqlite3";
import { execFileSync, spawnSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const root = process.env["ATEDGE_LAB_ROOT"] ?? "/var/tmp/atedge-lab-root";
const PACKAGES = "systemd,systemd-sysv,dbus,libnss-systemd,udev,libstdc++6";
const WITHIN_S = 120;

/** Runs inside as the last unit of the boot. Its findings are files in /lab. */
const SCRIPT = `#!/bin/bash
exec > /lab/script.log 2>&1
set -x
trap 'journalctl -b -u atedge -u atedge-platform -o short-monotonic > /lab/journal; systemctl --no-block poweroff' EXIT
set -e
atedge() { /usr/bin/node /usr/lib/atedge/atedge.js "$@"; }
platform=/var/lib/atedge-platform
systemd-sysusers
systemctl start atedge-platform
for i in {1..100}; do [ -e $platform/ca.pem ] && break; sleep 0.1; done
mkdir -p /etc/atedge /etc/credstore
cp $platform/ca.pem /etc/atedge/ca.pem; chmod 644 /etc/atedge/ca.pem
site="--directory localhost:6464 --ca /etc/atedge/ca.pem"
for name in greenhouse grower; do
  runuser -u atedge-platform -- /usr/bin/node /usr/lib/atedge/atedge.js platform add @$name --state $platform --cram-secret-file $platform/$name.cram
  for i in {1..20}; do atedge onboard @$name --cram-file $platform/$name.cram --keys /lab/$name.atKeys $site && break; sleep 0.5; done
done
install -m 600 /lab/greenhouse.atKeys /etc/credstore/atedge.atkeys
rm /lab/greenhouse.atKeys
cp /lab/atedge.toml /etc/atedge/atedge.toml; chown -R root:atedge /etc/atedge; chmod 750 /etc/atedge
show() { systemctl show atedge -p ActiveState,SubState,NRestarts,StatusText,MainPID,MemoryCurrent; }
systemctl start atedge
show > /lab/started
atedge watch @greenhouse/north --as @grower --keys /lab/grower.atKeys $site --state /lab/known --keep /lab/keep.db > /lab/watched 2>&1 &
watch=$!
sleep 12
show > /lab/running
pid=$(systemctl show -P MainPID atedge)
grep -E '^(NoNewPrivs|Seccomp|CapEff|Uid|Groups|VmRSS):' /proc/$pid/status > /lab/process
kill -STOP $pid
mkdir /lab/stopped; cp /var/lib/atedge/outbox.db* /lab/stopped/
for i in {1..300}; do [ "$(systemctl show -P NRestarts atedge)" != 0 ] && [ "$(systemctl is-active atedge)" = active ] && break; sleep 0.1; done
show > /lab/returned
sleep 10
systemctl stop atedge
systemctl show atedge -p ActiveState,Result,ExecMainStatus > /lab/ended
# The same key, encrypted, by the drop-in of docs/operate/keys.md.
install -d -m 700 /etc/credstore.encrypted
systemd-creds encrypt --name=atedge.atkeys --with-key=host /etc/credstore/atedge.atkeys /etc/credstore.encrypted/atedge.atkeys
rm /etc/credstore/atedge.atkeys
mkdir -p /etc/systemd/system/atedge.service.d
printf '[Service]\nLoadCredential=\nLoadCredentialEncrypted=atedge.atkeys\n' > /etc/systemd/system/atedge.service.d/keys.conf
systemctl daemon-reload
systemctl start atedge
show > /lab/encrypted
systemctl stop atedge
kill -TERM $watch; wait $watch || true
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
intervalMs = 50
name = "level"
`;

makeRoot();
furnish();
boot();
judge();

function makeRoot(): void {
  if (existsSync(join(root, "usr/bin/systemctl"))) return;
  process.stdout.write(`making ${root}\n`);
  const args = ["--variant=minbase", `--include=${PACKAGES}`, "bookworm", root, "http://deb.debian.org/debian"];
  execFileSync("debootstrap", args, { stdio: ["ignore", "ignore", "inherit"] });
}

function furnish(): void {
  const at = (path: string): string => join(root, path);
  for (const old of [
    "lab",
    "var/lib/atedge",
    "var/lib/atedge-platform",
    "usr/lib/atedge",
    "etc/atedge",
    "etc/credstore",
    "etc/credstore.encrypted",
    "etc/systemd/system/atedge.service.d",
  ])
    rmSync(at(old), { recursive: true, force: true });
  mkdirSync(at("lab"));
  cpSync("dist", at("usr/lib/atedge"), { recursive: true });
  cpSync(process.execPath, at("usr/bin/node"), { dereference: true });
  const system = at("usr/lib/systemd/system");
  for (const unit of ["atedge.service", "atedge-platform.service"])
    cpSync(join("deploy/systemd", unit), join(system, unit));
  cpSync("deploy/systemd/atedge.sysusers.conf", at("usr/lib/sysusers.d/atedge.conf"));
  writeFileSync(at("etc/hosts"), "127.0.0.1 localhost\n");
  // A lab has not the patience of a mast.
  mkdirSync(join(system, "atedge.service.d"), { recursive: true });
  writeFileSync(join(system, "atedge.service.d/lab.conf"), "[Service]\nWatchdogSec=6\nRestartSec=1\n");
  writeFileSync(at("lab/atedge.toml"), CONFIG);
  writeFileSync(at("lab/script"), SCRIPT, { mode: 0o755 });
  const unit = `[Unit]\nAfter=multi-user.target\n[Service]\nType=exec\nExecStart=/lab/script\n`;
  writeFileSync(join(system, "lab.service"), unit);
  mkdirSync(join(system, "multi-user.target.wants"), { recursive: true });
  writeFileSync(join(system, "lab.target"), "[Unit]\nRequires=multi-user.target\nWants=lab.service\n");
}

function boot(): void {
  const nspawn = ["-q", "-D", root, "--register=no", "--keep-unit", "--boot", "--console=pipe", "--private-network"];
  const args = [String(WITHIN_S), "systemd-nspawn", ...nspawn, "systemd.unit=lab.target"];
  const { error, status } = spawnSync("timeout", args, { stdio: ["ignore", "ignore", "inherit"] });
  if (error) throw error;
  if (status !== 0) process.stdout.write(`the container ended with ${status}\n`);
}

function judge(): void {
  const text = (name: string): string => {
    const path = join(root, "lab", name);
    return existsSync(path) ? readFileSync(path, "utf8") : "";
  };
  const waiting = timesIn(join(root, "lab/stopped/outbox.db"), "SELECT timeMs FROM reading");
  const kept = new Set(timesIn(join(root, "lab/keep.db"), "SELECT time_ms FROM reading WHERE name = 'level'"));
  const gaps = timesIn(join(root, "lab/keep.db"), "SELECT seq FROM gap");
  const journal = text("journal");
  const checks: readonly (readonly [string, boolean])[] = [
    ["start waits for READY, and finds the agent running", /ActiveState=active/u.test(text("started"))],
    ["the status says how the agent is", /StatusText=\S/u.test(text("running"))],
    ["the key comes from the credential, as a user of its own", /^Uid:\s+[1-9]/mu.test(text("process"))],
    ["no privileges, no capabilities, a system call filter", hasSandbox(text("process"))],
    ["it ran for two watchdog times without a restart", /NRestarts=0/u.test(text("running"))],
    ["the watchdog kills a stopped event loop", /Watchdog timeout/u.test(journal)],
    [
      "the service returns",
      /ActiveState=active[^]*NRestarts=1|NRestarts=1[^]*ActiveState=active/u.test(text("returned")),
    ],
    [
      `nothing is lost: ${waiting.length} waited when it was stopped`,
      waiting.length > 0 && waiting.every((time) => kept.has(time)),
    ],
    [`the reader has ${kept.size} readings and no gap`, kept.size > 100 && gaps.length === 0],
    ["an encrypted credential serves as well", /ActiveState=active/u.test(text("encrypted"))],
    ["stop ends it with success", /Result=success/u.test(text("ended")) && /ExecMainStatus=0/u.test(text("ended"))],
  ];
  for (const [what, holds] of checks) process.stdout.write(`${holds ? "ok    " : "NOT OK"} ${what}\n`);
  const failed = checks.filter(([, holds]) => !holds).length;
  process.stdout.write(`${checks.length - failed} passed, ${failed} failed; findings in ${root}/lab\n`);
  process.exitCode = failed === 0 ? 0 : 1;
}

function hasSandbox(status: string): boolean {
  return [/^NoNewPrivs:\s+1$/mu, /^Seccomp:\s+2$/mu, /^CapEff:\s+0+$/mu].every((line) => line.test(status));
}

function timesIn(path: string, sql: string): number[] {
  if (!existsSync(path)) return [];
  const db = new Database(path);
  try {
    return db.prepare<[], number>(sql).pluck().all();
  } finally {
    db.close();
  }
}
