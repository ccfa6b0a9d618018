import { spawn } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { stringify } from "smol-toml";
import type { Test } from "tap";
import t from "tap";
import { loadConfig } from "../../agent/config/load.js";
import { readAtKeysFile } from "../../atplatform/crypto/at-keys-file.js";
import { parseProvision } from "../../deploy/fleet/provision-file.js";
import { TestPlatform } from "../fixtures/at-platform.js";
import { bundleCli } from "../fixtures/bundled-cli.js";
import { tempFolder } from "../fixtures/temp-folder.js";

const signal = AbortSignal.timeout(120_000);

/** A board as a tree of folders: its boot partition, its LED, and where things go. */
class Board {
  readonly boot: string;
  readonly leds: string;
  readonly state: string;
  readonly config: string;
  readonly #program: string;

  constructor(t: Test, program: string) {
    const root = tempFolder(t);
    this.#program = program;
    [this.boot, this.leds, this.state] = ["boot", "leds", "state"].map((name) => join(root, name)) as [
      string,
      string,
      string,
    ];
    for (const folder of [this.boot, this.state, join(this.leds, "ACT"), join(root, "etc")])
      mkdirSync(folder, { recursive: true });
    this.config = join(root, "etc", "atedge.toml");
    writeFileSync(join(this.leds, "ACT/trigger"), "none [mmc0] timer heartbeat\n");
    for (const delay of ["delay_on", "delay_off"]) writeFileSync(join(this.leds, "ACT", delay), "0\n");
  }

  get led(): string {
    return readFileSync(join(this.leds, "ACT/trigger"), "utf8").trim();
  }

  put(text: string): void {
    writeFileSync(join(this.boot, "atedge-provision.toml"), text);
  }

  /** @returns its exit code. */
  start(wait = "60s"): Promise<number | null> {
    const env = {
      ...process.env,
      NODE_OPTIONS: "",
      ATEDGE: `${process.execPath} ${this.#program}`,
      ATEDGE_BOOT: this.boot,
      ATEDGE_LEDS: this.leds,
      ATEDGE_CONFIG: this.config,
      ATEDGE_STATE: this.state,
      ATEDGE_WAIT: wait,
      ATEDGE_POLL: "200ms",
    };
    const child = spawn("sh", ["deploy/image/first-boot.sh"], { env, stdio: "ignore" });
    return new Promise((resolve) => child.on("close", resolve));
  }
}

const CONFIG = `atsign = "@greenhouse"\ndevice = "north"\n[[driver]]\nid = "host"\ntype = "host"\n`;

t.test("a board at its first start", { timeout: 120_000 }, async (t) => {
  await using cli = await bundleCli();
  await using platform = await TestPlatform.open(tempFolder(t));
  await platform.onboard("@greenhouse");
  await using owner = await platform.client("@greenhouse");
  const { host, port } = platform.directory;
  const file = (passcodes: readonly string[]): string =>
    stringify({
      ...{ atsign: "@greenhouse", device: "north", directory: `${host}:${port}`, passcodes },
      ...{ ca: platform.platform.caPem, config: CONFIG },
    });

  await t.test("does nothing without a file on the boot partition", async (t) => {
    const board = new Board(t, cli.path);
    t.equal(await board.start(), 0);
    t.same(readdirSync(board.boot), []);
    t.match(board.led, /\[mmc0\]/u);
  });

  await t.test("becomes a device by the file alone, which is wiped", async (t) => {
    const board = new Board(t, cli.path);
    const passcode = await newPasscode();
    board.put(file([passcode]));
    const started = board.start();
    await approveNext();
    t.equal(await started, 0);
    t.same(readdirSync(board.boot), [], "nothing of the secret is left, and there is no error");
    const keys = await readAtKeysFile(join(board.state, "keys/@greenhouse_key.atKeys"));
    t.ok(keys.enrollmentId, "its keys were enrolled");
    t.equal(statSync(join(board.state, "keys/@greenhouse_key.atKeys")).mode & 0o777, 0o600);
    t.equal(readFileSync(board.config, "utf8"), CONFIG);
    t.equal(readFileSync(join(dirname(board.config), "ca.pem"), "utf8"), platform.platform.caPem);
    t.equal(board.led, "mmc0", "the LED is what it was");
  });

  await t.test("says in plain words beside the file what is wrong with it, and by LED", async (t) => {
    for (const [text, words] of [
      ["atsign = ", /line 1: this is no TOML/u],
      [file([]), /passcodes is missing, unknown or not of its form/u],
      [file(["WRONG1"]), /takes none of the 1 passcodes any more/u],
    ] as const) {
      const board = new Board(t, cli.path);
      board.put(text);
      t.equal(await board.start(), 1);
      const error = readFileSync(join(board.boot, "atedge-provision.error.txt"), "utf8");
      t.match(error, words);
      t.match(error, /tried again at the next start/u);
      t.notMatch(error, /WRONG1|\bat .*\.m?js/u, "no secret, no stack");
      t.equal(readFileSync(join(board.boot, "atedge-provision.toml"), "utf8"), text, "the file is as it was");
      t.equal(board.led, "timer");
      t.equal(readFileSync(join(board.leds, "ACT/delay_on"), "utf8"), "100\n");
    }
  });

  await t.test("takes a mended file, and removes the words", async (t) => {
    const board = new Board(t, cli.path);
    board.put("atsign = ");
    t.equal(await board.start(), 1);
    await owner.enrollments.revoke(await idOfNorth(), {}, signal);
    board.put(file([await newPasscode()]));
    const started = board.start();
    await approveNext();
    t.equal(await started, 0);
    t.same(readdirSync(board.boot), []);
  });

  async function newPasscode(): Promise<string> {
    return (await owner.enrollments.newPasscode({}, signal)).reveal();
  }

  async function approveNext(): Promise<void> {
    for (;;) {
      const [pending] = await owner.enrollments.list({ states: ["pending"] }, signal);
      if (pending) return owner.enrollments.approve(pending, {}, signal);
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }

  async function idOfNorth(): Promise<string> {
    const [approved] = await owner.enrollments
      .list({ states: ["approved"] }, signal)
      .then((all) => all.filter(({ deviceName }) => deviceName === "north"));
    return approved?.id ?? "none";
  }
});

t.test("the example is a file that a board takes, with a configuration that the agent takes", async (t) => {
  const { config = "" } = parseProvision(readFileSync("deploy/image/atedge-provision.example.toml", "utf8"), "example");
  const path = join(tempFolder(t), "atedge.toml");
  writeFileSync(path, config);
  t.same((await loadConfig(path)).warnings, []);
  t.ok(existsSync("deploy/image/first-boot.sh"));
});
