import { execFileSync, spawn } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import t from "tap";
import { Scope } from "../../core/scope.js";
import { TestPlatform } from "../fixtures/at-platform.js";
import { AtedgeProcess, type Ended } from "../fixtures/atedge-process.js";
import { tempFolder } from "../fixtures/temp-folder.js";

const SUBJECT = "@greenhouse/north";
const ARCH = { x64: "amd64", arm64: "arm64", arm: "armhf" }[process.arch as string] ?? process.arch;

const BUILD = `import { bundle } from "./scripts/bundle.mjs";
import { installedAddons } from "./scripts/native-addons.mjs";
for (const build of JSON.parse(process.argv[1])) await bundle({ ...build, addons: installedAddons() });`;

/** What the helper asks of systemd, for one service whose process is ours. */
const SYSTEMCTL = `#!/bin/sh
root=$(dirname "$0")/..
pid=$(cat "$root/pid" 2>/dev/null || echo 0)
# The executable of a zombie is gone.
runs() { [ -e "/proc/$pid/exe" ]; }
case "$1" in
show)
  if [ "$4" != atedge.service ] || ! runs; then pid=0; state=inactive; else state=active; fi
  if [ "$3" = MainPID ]; then echo "$pid"; else echo "$state"; fi ;;
restart | stop)
  if runs; then kill -TERM "$pid"; fi
  n=0
  while runs && [ $n -lt 100 ]; do sleep 0.1; n=$((n + 1)); done
  rm -rf "$root/run/atedge"
  mkdir -p "$root/run/atedge"
  [ "$1" = restart ] || exit 0
  NOTIFY_SOCKET="$root/run/notify" RUNTIME_DIRECTORY="$root/run/atedge" NODE_OPTIONS= setsid "$NODE" "$root/usr/lib/atedge/atedge.js" run \\
    --config "$root/etc/atedge/atedge.toml" </dev/null >>"$root/agent.log" 2>&1 &
  echo $! >"$root/pid" ;;
esac
`;

/**
 * A machine without dpkg, as a tree of folders: the product as `npm run build` makes it in /opt/atedge/0.1.0, its agent
 * as a process, and in the place of systemd's path unit a look for the request, which starts the helper as it would.
 */
class Board {
  readonly root: string;
  readonly #env: NodeJS.ProcessEnv;
  readonly #closing = new AbortController();
  #looking: Promise<void> | undefined;

  constructor(root: string) {
    this.root = root;
    const bin = join(root, "bin");
    for (const folder of ["bin", "usr/lib", "opt/atedge", "etc/atedge", "run/atedge", "var/lib"])
      mkdirSync(join(root, folder), { recursive: true });
    writeFileSync(join(bin, "systemctl"), SYSTEMCTL, { mode: 0o755 });
    writeFileSync(join(bin, "systemd-notify"), "#!/bin/sh\n", { mode: 0o755 });
    symlinkSync("0.1.0", join(root, "opt/atedge/current"));
    symlinkSync("../../opt/atedge/current", join(root, "usr/lib/atedge"));
    this.#env = { ...process.env, NODE_OPTIONS: "", NODE: process.execPath, PATH: `${bin}:${process.env["PATH"]}` };
  }

  systemctl(...args: string[]): string {
    return execFileSync("systemctl", args, { env: this.#env, encoding: "utf8" });
  }

  /** The agent ends as in a power cut, and is started again. */
  killAgent(): void {
    process.kill(Number(readFileSync(join(this.root, "pid"), "utf8")), "SIGKILL");
    this.systemctl("restart", "atedge.service");
  }

  lookForRequests(): void {
    this.#looking = this.#look();
  }

  async #look(): Promise<void> {
    const { signal } = this.#closing;
    while (!signal.aborted) {
      if (existsSync(join(this.root, "var/lib/atedge/update/request.json"))) await this.#help();
      await sleep(50);
    }
  }

  #help(): Promise<void> {
    const kept = join(this.root, "var/lib/atedge-update/helper.js");
    const helper = existsSync(kept) ? kept : join(this.root, "usr/lib/atedge/update-helper.js");
    const child = spawn(process.execPath, [helper, "run", this.root], { env: this.#env, stdio: "inherit" });
    return new Promise((resolve, reject) => {
      child.on("error", reject);
      child.on("close", (code) => (code === 0 ? resolve() : reject(new Error(`the helper ended with ${code}`))));
    });
  }

  get version(): string {
    return readlinkSync(join(this.root, "opt/atedge/current"));
  }

  files(folder: string): readonly string[] {
    return readdirSync(join(this.root, folder)).sort();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing.abort();
    await this.#looking?.catch(() => undefined);
    this.systemctl("stop", "atedge.service");
  }
}

const sentOf = (out: string): number[] =>
  out
    .split("\n")
    .filter((line) => line.includes('"type":"sent"'))
    .map((line) => (JSON.parse(line) as { bytes: number }).bytes);

t.test("A new version from another atSign", { timeout: 180_000 }, async (t) => {
  const folder = tempFolder(t);
  const scope = new Scope();
  t.teardown(() => scope[Symbol.asyncDispose]());
  const board = scope.use(new Board(join(folder, "board")));
  const platform = scope.use(await TestPlatform.open(join(folder, "platform")));
  for (const name of ["@greenhouse", "@grower", "@visitor"]) await platform.onboard(name);
  const builds = [
    { outdir: join(board.root, "opt/atedge/0.1.0"), version: "0.1.0" },
    { outdir: join(folder, "0.2.0"), version: "0.2.0" },
  ];
  execFileSync(process.execPath, ["--input-type=module", "--eval", BUILD, JSON.stringify(builds)], {
    env: { ...process.env, NODE_OPTIONS: "" },
    cwd: fileURLToPath(new URL("../..", import.meta.url)),
  });
  const cli = join(board.root, "opt/atedge/0.1.0/atedge.js");

  const ca = join(folder, "ca.pem");
  writeFileSync(ca, platform.platform.caPem);
  const directory = `localhost:${platform.directory.port}`;
  writeFileSync(
    join(board.root, "etc/atedge/atedge.toml"),
    `atsign    = "@greenhouse"
device    = "north"
directory = "${directory}"
ca        = "${ca}"
keys      = "${platform.keyFile("@greenhouse")}"
allowManagerKeys = true
stateDir  = "${join(board.root, "var/lib/atedge")}"
[[allow]]
atsign   = "@grower"
commands = ["agent/update-*"]
[[allow]]
atsign   = "@visitor"
commands = ["agent/update-status"]
[[driver]]
id   = "sim"
type = "simulated"
`,
  );
  const run = (...args: string[]): Promise<Ended> => new AtedgeProcess(cli, args).ended;
  const start = (name: string, ...args: string[]): AtedgeProcess => {
    const where = ["--keys", platform.keyFile(name), "--directory", directory, "--ca", ca];
    const all = ["update", ...args, "--as", name, ...where, "--state", join(folder, name)];
    return scope.use(new AtedgeProcess(cli, all));
  };
  const push = (name: string, file: string, ...args: string[]): AtedgeProcess =>
    start(name, "push", SUBJECT, file, ...args);
  const status = async (): Promise<unknown> => {
    const { out, err, code } = await start("@grower", "status", SUBJECT).ended;
    t.equal(code, 0, err);
    return JSON.parse(out);
  };

  const keys = { ours: join(folder, "ours.key"), other: join(folder, "other.key") };
  const made = await run("update", "keygen", "--out", keys.ours);
  t.equal((await run("update", "keygen", "--out", keys.other)).code, 0);
  writeFileSync(join(board.root, "etc/atedge/update.toml"), `${made.out}healthyWithinS = 60\n`);
  const sign = async (file: string, version: string, key = keys.ours): Promise<string> => {
    const { code, err } = await run("update", "sign", file, "--key", key, "--version", version, "--arch", ARCH);
    t.equal(code, 0, err);
    return file;
  };
  // By far the largest part, and not what this is about: the addons are those of the version before.
  rmSync(join(folder, "0.2.0/native"), { recursive: true });
  symlinkSync("../0.1.0/native", join(folder, "0.2.0/native"));
  const archive = join(folder, "atedge-0.2.0.tar");
  execFileSync("tar", ["-czf", archive, "-C", join(folder, "0.2.0"), "."]);
  await sign(archive, "0.2.0");
  const another = (name: string): string => {
    const file = join(folder, name);
    writeFileSync(file, "what is in it is not looked at");
    return file;
  };

  board.systemctl("restart", "atedge.service");
  board.lookForRequests();

  await t.test("is taken from nobody whom the policy does not name for it", async (t) => {
    const { code, err } = await push("@visitor", archive).ended;
    t.equal(code, 1);
    t.match(err, /agent\/update-begin is not allowed to @visitor/u);
  });

  await t.test("is not taken when it is older, and the operator is told so before it is sent", async (t) => {
    const { code, out, err } = await push("@grower", await sign(another("older.tar"), "0.0.9"), "--json").ended;
    t.equal(code, 1);
    t.match(err, /version 0\.0\.9 is not newer than 0\.1\.0, which runs/u);
    t.strictSame(sentOf(out), []);
    t.notOk(existsSync(join(board.root, "var/lib/atedge/update")), "nothing is kept of it");
  });

  await t.test("goes on where it was when the operator, and then the agent, is killed; it is installed", async (t) => {
    const size = readFileSync(archive).length;
    const first = push("@grower", archive, "--json");
    const third = await first.until(({ out }) => sentOf(out).find((bytes) => bytes > size / 3), "a third sent");
    await first.stop("SIGKILL");
    t.match(await status(), { version: "0.1.0", underWay: false, incoming: { version: "0.2.0" }, last: null });

    const second = push("@grower", archive, "--json", "--wait", "90");
    const [from = 0] = await second.until(({ out }) => (sentOf(out).length > 1 ? sentOf(out) : undefined), "more sent");
    t.ok(from >= third, `went on at ${from}, after ${third}`);
    await second.until(({ out }) => sentOf(out).find((bytes) => bytes > (2 * size) / 3), "two thirds sent");
    board.killAgent();
    const { code, out, err } = await second.ended;
    t.equal(code, 0, err);
    t.match(JSON.parse(out.trim().split("\n").at(-1) ?? ""), { type: "ended", outcome: "installed", to: "0.2.0" });
    t.equal(board.version, "0.2.0");
    const told = { version: "0.2.0", underWay: false, incoming: null };
    t.match(await status(), { ...told, last: { outcome: "installed", from: "0.1.0", to: "0.2.0", why: "" } });
    t.strictSame(board.files("opt/atedge"), ["0.1.0", "0.2.0", "current"], "the one before is kept");
  });

  await t.test("is refused when a stranger has signed it, and the operator reads why", async (t) => {
    const { code, out, err } = await push(
      "@grower",
      await sign(another("stranger.tar"), "0.3.0", keys.other),
      "--wait",
      "60",
    ).ended;
    t.equal(code, 1, err);
    t.match(out, /^refused: 0\.2\.0 to unknown: the release is not signed by a key of \/etc\/atedge\/update\.toml$/mu);
    t.match(await status(), { version: "0.2.0", underWay: false, last: { outcome: "refused" } });
    t.equal(board.version, "0.2.0");
  });

  await t.test("leaves nothing half-written", (t) => {
    t.strictSame(board.files("var/lib/atedge/update"), ["handed-over.json"]);
    t.strictSame(board.files("var/lib/atedge-update"), ["outcome.json"]);
    t.strictSame(board.files("opt/atedge"), ["0.1.0", "0.2.0", "current"]);
    t.end();
  });
});
