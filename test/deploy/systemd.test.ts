import { spawnSync } from "node:child_process";
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";

const FOLDER = join(process.cwd(), "deploy", "systemd");
const UNITS = ["atedge.service", "atedge-platform.service", "atedge-collect.service"];
/** They run as root, for moments, and are not scored. */
const HELPERS = [
  "atedge-update.service",
  "atedge-update-recover.service",
  "atedge-update.path",
  "atedge-provision.service",
];
const MAX_EXPOSURE = 1.9;

/** systemd's own tools; Debian: `systemd`. */
function analyze(...args: string[]) {
  const { stdout, stderr, status, error } = spawnSync("systemd-analyze", args, { encoding: "utf8" });
  if (error) throw error;
  return { stdout, stderr, status };
}

/** The units with programs that are there, since what they start is not installed on this machine. */
function installed(t: { teardown(f: () => void): void }): string {
  const folder = mkdtempSync(join(tmpdir(), "atedge-units-"));
  t.teardown(() => rmSync(folder, { recursive: true }));
  for (const unit of [...UNITS, ...HELPERS]) {
    const text = readFileSync(join(FOLDER, unit), "utf8")
      .replaceAll("/usr/bin/node", process.execPath)
      .replaceAll("/usr/lib/atedge/first-boot", "/bin/true");
    writeFileSync(join(folder, unit), text);
  }
  return folder;
}

t.test("the units", async (t) => {
  const folder = installed(t);

  for (const unit of [...UNITS, ...HELPERS])
    t.test(`${unit} has nothing that systemd does not know`, async (t) => {
      // It ends with 0 on most faults: what counts is what it says.
      t.same(analyze("verify", join(folder, unit)), { stdout: "", stderr: "", status: 0 });
    });

  for (const unit of UNITS) {
    t.test(`${unit} is exposed by at most ${MAX_EXPOSURE}`, async (t) => {
      const { stdout } = analyze("security", "--offline=true", "--no-pager", join(folder, unit));
      const exposure = Number(/Overall exposure level for \S+: ([0-9.]+)/u.exec(stdout)?.[1]);
      t.ok(exposure <= MAX_EXPOSURE, `exposure ${exposure}`);
    });
  }

  t.test("a unit with a misspelt key is found", async (t) => {
    const bad = join(folder, "atedge-bad.service");
    copyFileSync(join(folder, "atedge.service"), bad);
    writeFileSync(bad, readFileSync(bad, "utf8").replace("WatchdogSec=", "WatchdogSecs="));
    t.match(analyze("verify", bad).stderr, /WatchdogSecs/);
  });

  t.test("they log to the journal and nowhere else, and tell systemd when they are ready", async (t) => {
    for (const unit of UNITS) {
      const text = readFileSync(join(FOLDER, unit), "utf8");
      for (const line of ["StandardOutput=journal", "StandardError=journal", "Type=notify", "WatchdogSec=60"])
        t.ok(text.split("\n").includes(line), `${unit}: ${line}`);
    }
  });

  t.test("the agent's gives the watchdog its way in, and V8 what it needs", async (t) => {
    const text = readFileSync(join(FOLDER, "atedge.service"), "utf8");
    t.match(text, /^Type=notify$/m);
    t.match(text, /^NotifyAccess=all$/m, "signs of life come from a child");
    t.match(text, /^ExecReload=\/bin\/kill -HUP \$MAINPID$/m);
    t.match(text, /^SystemCallFilter=@system-service @pkey$/m);
    t.notMatch(text, /^MemoryDenyWriteExecute/m);
  });
});
