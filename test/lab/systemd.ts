/**
 * The units of the Debian package under a real systemd, in a container: READY seen, the credential loaded, stopped event
 * loops of agent, platform and collector killed by the watchdog, the services back, and nothing lost; an upgrade starts
 * each anew once. Takes two minutes, and one more when the root must be made. Run by `npm run lab`.
 */
import Database from "better-sqlite3";
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { DebianRoot, judge as tell } from "../fixtures/lab/debian-root.js";

const WITHIN_S = 200;

/** Runs inside as the last unit of the boot. Its findings are files in /lab. */
const SCRIPT = `#!/bin/bash
exec > /lab/script.log 2>&1
set -x
trap 'journalctl -b -u atedge -u atedge-platform -u atedge-collect -o short-monotonic > /lab/journal; systemctl --no-block poweroff' EXIT
set -e
platform=/var/lib/atedge-platform
DEBIAN_FRONTEND=noninteractive dpkg -i /lab/atedge_0.1.0_amd64.deb
systemctl start atedge-platform
show() { systemctl show $1 -p ActiveState,SubState,NRestarts,StatusText,MainPID,MemoryCurrent; }
show atedge-platform > /lab/platform.started
ls $platform > /lab/platform.files
install -d -m 700 /etc/credstore
cp $platform/ca.pem /etc/atedge/ca.pem; chmod 644 /etc/atedge/ca.pem
site="--directory localhost:6464 --ca /etc/atedge/ca.pem"
for name in greenhouse grower; do
  runuser -u atedge-platform -- atedge platform add @$name --state $platform --cram-secret-file $platform/$name.cram
  for i in {1..20}; do atedge onboard @$name --cram-file $platform/$name.cram --keys /lab/$name.atKeys $site && break; sleep 0.5; done
done
install -m 600 /lab/greenhouse.atKeys /etc/credstore/atedge.atkeys
install -m 600 /lab/grower.atKeys /etc/credstore/collect.atkeys
rm /lab/greenhouse.atKeys
cp /lab/atedge.toml /etc/atedge/atedge.toml
systemctl start atedge
show atedge > /lab/started
cp /etc/atedge/ca.pem /etc/atedge-collect/ca.pem; chmod 644 /etc/atedge-collect/ca.pem
echo "COLLECT_OPTIONS=@greenhouse --as @grower --keys /run/credentials/atedge-collect.service/collect.atkeys --directory localhost:6464 --ca /etc/atedge-collect/ca.pem" > /etc/atedge-collect/collect.env
systemctl start atedge-collect
show atedge-collect > /lab/collect.started
sleep 14
show atedge > /lab/running
pid=$(systemctl show -P MainPID atedge)
grep -E '^(NoNewPrivs|Seccomp|CapEff|Uid|Groups|VmRSS):' /proc/$pid/status > /lab/process
back() { for i in {1..300}; do [ "$(systemctl show -P NRestarts $1)" != 0 ] && [ "$(systemctl is-active $1)" = active ] && break; sleep 0.1; done; show $1; }
kill -STOP $pid
mkdir /lab/stopped; cp /var/lib/atedge/outbox.db* /lab/stopped/
back atedge > /lab/returned
for unit in atedge-platform atedge-collect; do kill -STOP $(systemctl show -P MainPID $unit); done
for unit in atedge-platform atedge-collect; do back $unit > /lab/$unit.returned; done
sleep 12
systemctl show -P MainPID atedge > /lab/upgrade; cp /var/lib/atedge/outbox.db* /lab/before-upgrade/
starts() { journalctl -b -u atedge -o cat | grep -c '"agent started"'; }
starts > /lab/starts.before
DEBIAN_FRONTEND=noninteractive dpkg -i /lab/atedge_0.2.0_amd64.deb
for i in {1..100}; do [ "$(systemctl is-active atedge)" = active ] && break; sleep 0.1; done
starts > /lab/starts.after
sleep 12
mkdir /lab/readings; cp /var/lib/atedge-collect/readings/* /lab/readings/
systemctl stop atedge atedge-collect atedge-platform
systemctl show atedge -p ActiveState,Result,ExecMainStatus > /lab/ended
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
consumer = "collector"

[[driver]]
id = "sim"
type = "simulated"
intervalMs = 50
name = "level"
`;

using root = DebianRoot.open("amd64");
furnish();
root.boot(WITHIN_S, "systemd.unit=lab.target");
judge();

function furnish(): void {
  const at = (path: string): string => join(root.path, path);
  for (const version of ["0.1.0", "0.2.0"]) {
    const args = ["scripts/pack-deb.mjs", "--arch", "amd64", "--out", at("lab"), "--version", version];
    execFileSync(process.execPath, args, { stdio: ["ignore", "ignore", "inherit"] });
  }
  mkdirSync(at("lab/before-upgrade"));
  const system = at("usr/lib/systemd/system");
  // A lab has not the patience of a mast.
  for (const unit of ["atedge", "atedge-platform", "atedge-collect"]) {
    mkdirSync(join(system, `${unit}.service.d`), { recursive: true });
    writeFileSync(join(system, `${unit}.service.d/lab.conf`), "[Service]\nWatchdogSec=6\nRestartSec=1\n");
  }
  writeFileSync(at("lab/atedge.toml"), CONFIG);
  writeFileSync(at("lab/script"), SCRIPT, { mode: 0o755 });
  writeFileSync(
    join(system, "lab.service"),
    "[Unit]\nAfter=multi-user.target\n[Service]\nType=exec\nExecStart=/lab/script\n",
  );
  writeFileSync(join(system, "lab.target"), "[Unit]\nRequires=multi-user.target\nWants=lab.service\n");
}

function judge(): void {
  const text = (name: string): string => root.text(name);
  const lab = (name: string): string => join(root.path, "lab", name);
  const waiting = timesIn(lab("stopped/outbox.db"), "SELECT timeMs FROM reading");
  const waitingLater = timesIn(lab("before-upgrade/outbox.db"), "SELECT timeMs FROM reading");
  const { times: kept, seqs } = collected(lab("readings"));
  const missing = Array.from({ length: Math.max(0, ...seqs) }, (_, index) => index + 1).filter((seq) => !seqs.has(seq));
  const journal = text("journal");
  const isBack = (name: string): boolean => /ActiveState=active/u.test(text(name)) && /NRestarts=1/u.test(text(name));
  const checks: readonly (readonly [string, boolean])[] = [
    ["start of the agent waits for READY", /ActiveState=active/u.test(text("started"))],
    [
      "start of the platform waits for READY: its authority is there at once",
      /ActiveState=active/u.test(text("platform.started")) && text("platform.files").includes("ca.pem"),
    ],
    ["start of the collector waits for READY", /ActiveState=active/u.test(text("collect.started"))],
    ["the status says how the agent is", /StatusText=\S/u.test(text("running"))],
    ["the key comes from the credential, as a user of its own", /^Uid:\s+[1-9]/mu.test(text("process"))],
    ["no privileges, no capabilities, a system call filter", hasSandbox(text("process"))],
    ["it ran for two watchdog times without a restart", /NRestarts=0/u.test(text("running"))],
    ["the watchdog kills stopped event loops", (journal.match(/Watchdog timeout/gu) ?? []).length >= 3],
    ["the agent returns", isBack("returned")],
    ["the platform returns", isBack("atedge-platform.returned")],
    ["the collector returns", isBack("atedge-collect.returned")],
    [`nothing is lost: ${waiting.length} waited when the agent was stopped`, hasAll(waiting, kept)],
    [`nothing is lost by the upgrade: ${waitingLater.length} waited`, hasAll(waitingLater, kept)],
    [
      `the collector has ${kept.size} readings, and no hole in ${seqs.size} messages`,
      kept.size > 100 && missing.length === 0,
    ],
    ["an upgrade starts the agent anew, once", Number(text("starts.after")) === Number(text("starts.before")) + 1],
    ["stop ends it with success", /Result=success/u.test(text("ended")) && /ExecMainStatus=0/u.test(text("ended"))],
  ];
  tell("systemd", checks);
  const failed = checks.filter(([, holds]) => !holds).length;
  process.stdout.write(`${checks.length - failed} passed, ${failed} failed\n`);
  if (failed > 0) process.stdout.write(`${text("script.log").slice(-3000)}\n${journal.slice(-3000)}\n`);
}

function hasAll(times: readonly number[], kept: ReadonlySet<number>): boolean {
  return times.length > 0 && times.every((time) => kept.has(time));
}

function collected(folder: string): { readonly times: ReadonlySet<number>; readonly seqs: ReadonlySet<number> } {
  const lines = (existsSync(folder) ? readdirSync(folder) : [])
    .flatMap((name) => readFileSync(join(folder, name), "utf8").trim().split("\n"))
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as { readonly t?: number; readonly seq: number });
  const times = lines.flatMap(({ t }) => (t === undefined ? [] : [Math.round(t * 1000)]));
  return { times: new Set(times), seqs: new Set(lines.map(({ seq }) => seq)) };
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
