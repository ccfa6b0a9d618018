import { execFileSync, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { chmodSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { tempFolder } from "../fixtures/temp-folder.js";

const MAX_INSTALLED_BYTES = 6_000_000;
const EPOCH_S = "1795000000";
const ARCH = execFileSync("dpkg", ["--print-architecture"], { encoding: "utf8" }).trim();

function pack(out: string): string {
  const env = { ...process.env, NODE_OPTIONS: "", SOURCE_DATE_EPOCH: EPOCH_S };
  execFileSync(process.execPath, ["scripts/pack-deb.mjs", "--arch", ARCH, "--out", out], { env });
  const [name] = readdirSync(out);
  return join(out, name ?? "no package");
}

const sha256 = (path: string): string => createHash("sha256").update(readFileSync(path)).digest("hex");

// Compiling SQLite takes half a minute the first time on a machine, and nothing later.
t.test(`the Debian package for ${ARCH}`, { timeout: 280_000 }, async (t) => {
  const folder = tempFolder(t);
  const deb = pack(join(folder, "once"));
  const list = execFileSync("dpkg-deb", ["-c", deb], { encoding: "utf8" }).trim().split("\n");
  const entries = new Map(
    list.map((line) => {
      const [mode = "", owner = "", , , , path = ""] = line.split(/\s+/u);
      return [path.replace(/^\./u, ""), { mode, owner }] as const;
    }),
  );

  t.test("has the same bytes when it is built again", async (t) => {
    t.equal(sha256(pack(join(folder, "twice"))), sha256(deb));
  });

  t.test("has nothing that lintian calls an error", async (t) => {
    const { stdout, error } = spawnSync("lintian", ["--fail-on", "none", deb], { encoding: "utf8" });
    if (error) throw error;
    t.same(
      stdout.split("\n").filter((line) => /^[EW]:/u.test(line) && !line.includes("unusual-interpreter")),
      [],
    );
  });

  t.test("takes no more than its room, and belongs to root", async (t) => {
    const root = join(folder, "root");
    mkdirSync(root);
    execFileSync("dpkg-deb", ["-x", deb, root]);
    const bytes = readdirSync(root, { recursive: true, encoding: "utf8" })
      .map((name) => statSync(join(root, name)))
      .filter((stat) => stat.isFile())
      .reduce((sum, { size }) => sum + size, 0);
    t.ok(bytes < MAX_INSTALLED_BYTES, `${bytes} bytes`);
    t.same(new Set([...entries.values()].map(({ owner }) => owner)), new Set(["root/root"]));
    for (const [path, { mode }] of entries) t.notMatch(mode, /^[^l].{4}w|^[^l].{7}w|s/u, path);
    const run = spawnSync(join(root, "usr/bin/atedge"), ["--version"], { encoding: "utf8" });
    t.match(run.stdout, /^\d+\.\d+\.\d+\n$/u, "and it runs");
  });

  t.test("has units, rules, users, manual, and an addon for each Node that it admits", async (t) => {
    const units = ["atedge", "atedge-platform"].map((name) => `/usr/lib/systemd/system/${name}.service`);
    const addons = [115, 127, 137].map(
      (abi) => `/usr/lib/atedge/native/better_sqlite3.linux-${process.arch}-${abi}.node`,
    );
    for (const path of [
      ...units,
      ...addons,
      "/usr/lib/udev/rules.d/60-atedge-serial.rules",
      "/usr/lib/sysusers.d/atedge.conf",
      "/usr/share/man/man1/atedge.1.gz",
      "/usr/share/doc/atedge/copyright",
    ])
      t.ok(entries.has(path), path);
    const depends = execFileSync("dpkg-deb", ["-f", deb, "Depends"], { encoding: "utf8" });
    const allows = (version: string): boolean =>
      depends.split(",").every((clause) => {
        const nodes = clause.split("|").filter((part) => part.includes("nodejs"));
        return nodes.length === 0 || nodes.some((part) => isWithin(version, part));
      });
    t.same(["18.20.4", "20.19.2", "21.7.3", "22.20.0", "23.1.0", "24.11.0", "25.0.0"].filter(allows), [
      "20.19.2",
      "22.20.0",
      "24.11.0",
    ]);
  });

  t.test("marks every file in /etc as configuration", async (t) => {
    const control = join(folder, "control");
    execFileSync("dpkg-deb", ["-e", deb, control]);
    const marked = readFileSync(join(control, "conffiles"), "utf8").trim().split("\n");
    const inEtc = [...entries.keys()].filter((path) => path.startsWith("/etc/") && !path.endsWith("/"));
    t.same(marked.sort(), inEtc.sort());
  });
});

function isWithin(version: string, part: string): boolean {
  const [, operator = "", bound = ""] = /\((\S+) ([^)]+)\)/u.exec(part) ?? [];
  return spawnSync("dpkg", ["--compare-versions", version, operator, bound]).status === 0;
}

t.test("the package for armhf refuses an ARMv6 board in plain words", async (t) => {
  const bin = join(tempFolder(t), "bin");
  mkdirSync(bin);
  const install = (machine: string) => {
    writeFileSync(join(bin, "uname"), `#!/bin/sh\necho ${machine}\n`);
    chmodSync(join(bin, "uname"), 0o755);
    const env = { PATH: `${bin}:${process.env["PATH"] ?? ""}` };
    return spawnSync("sh", ["deploy/debian/preinst.armhf", "install"], { encoding: "utf8", env });
  };
  const refused = install("armv6l");
  t.equal(refused.status, 1);
  t.match(refused.stderr, /ARMv6 processor .*needs ARMv7/u);
  t.match(install("armv7l"), { status: 0, stderr: "" });
  t.match(install("aarch64"), { status: 0, stderr: "" });
});
