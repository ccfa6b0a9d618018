import { randomBytes } from "node:crypto";
import { copyFile, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import * as nodePty from "@lydell/node-pty";
import t from "tap";
import { BoardProcess, imageOf, installImage } from "../firmware-bridge/board-process.js";
import { smpImage } from "../firmware-bridge/smp-board.js";
import { SmpPtyBoard } from "../firmware-bridge/smp-pty.js";
import { TestPlatform } from "../fixtures/at-platform.js";
import { AtedgeProcess, type Ended } from "../fixtures/atedge-process.js";
import { bundleCli } from "../fixtures/bundled-cli.js";
import { findClearText } from "../fixtures/clear-text-search.js";

/** Firmware on trial goes back by itself after this. */
const TRIAL_MS = "30000";
const SUBJECT = "@greenhouse/north";
/** Stands in every image, so that it can be looked for where it must not be. */
const MARK = "the-secret-of-our-firmware";

interface Status {
  readonly floor: number;
  readonly update: { readonly step: string; readonly version: string; readonly reason?: string };
}

/**
 * The product as its user runs it, every part a process or a real line of its own: platform, agent, watcher and
 * operator, the C board behind its link, and an SMP board whose console a serial driver reads.
 */
async function startSite() {
  const folder = await mkdtemp(join(tmpdir(), "atedge-firmware-"));
  const cli = await bundleCli();
  const platform = await TestPlatform.open(join(folder, "platform"));
  for (const name of ["@greenhouse", "@grower", "@visitor"]) await platform.onboard(name);
  const ca = join(folder, "ca.pem");
  await writeFile(ca, platform.platform.caPem);
  const { host, port } = platform.directory as { host: string; port: number };
  const directory = `${host}:${port}`;

  const key = join(folder, "provisioning.key");
  await writeFile(key, randomBytes(32).toString("hex"), { mode: 0o600 });
  const args = ["-r", "100", "-T", TRIAL_MS, "-k", key];
  let press = await BoardProcess.start({ args });
  await press.kill();
  const boardFolder = press.folder;
  await installImage(boardFolder, imageOf("G", "1.0.0"));
  press = await BoardProcess.start({ args, folder: boardFolder });
  const radio = await SmpPtyBoard.open(50, { bufferBytes: 1024 });

  const run = (...command: string[]): Promise<Ended> => new AtedgeProcess(cli.path, command).ended;
  const signer = join(folder, "signer.key");
  const made = await run("firmware", "keygen", "--out", signer, "--json");
  const { key: publicKey } = JSON.parse(made.out) as { key: string };
  const config = join(folder, "atedge.toml");
  await writeFile(
    config,
    `
atsign    = "@greenhouse"
device    = "north"
directory = "${directory}"
ca        = "${ca}"
keys      = "${platform.keyFile("@greenhouse")}"
allowManagerKeys = true
stateDir  = "${join(folder, "agent")}"
maxDelayMs = 200
[[reader]]
atsign   = "@grower"
[[allow]]
atsign   = "@grower"
commands = ["press/*", "radio/*"]
[[allow]]
atsign   = "@visitor"
commands = ["press/relay", "press/firmware-status"]
[[driver]]
id   = "press"
type = "link"
path = "${press.path}"
baud = 1000000
keepAliveMs = 500
openTimeoutMs = 5000
[driver.firmware]
keys     = ["${publicKey}"]
selfTest = "self-test"
[[driver]]
id       = "radio"
type     = "smp"
path     = "${radio.path}"
hardware = "nrf52840dk"
[driver.firmware]
keys     = ["${publicKey}"]
[[driver]]
id   = "console"
type = "serial"
path = "${radio.path}"
[[driver.reading]]
pointer = "/n"
name    = "radio/n"
`,
  );
  const as = (name: string): string[] => [
    ...["--as", name, "--keys", platform.keyFile(name), "--directory", directory, "--ca", ca],
    ...["--state", join(folder, name)],
  ];
  press.tell("pair");
  await press.counters();
  const paired = await run("link", "pair", "press", "--config", config, "--key", key);
  t.equal(paired.code, 0, paired.err);

  const startAgent = (): AtedgeProcess => new AtedgeProcess(cli.path, ["run", "--config", config]);
  let agent = startAgent();
  const watch = new AtedgeProcess(cli.path, [
    ...["watch", SUBJECT, ...as("@grower"), "--keep", join(folder, "kept.db"), "--json"],
  ]);

  return {
    folder,
    press,
    radio,
    watch,
    get agent() {
      return agent;
    },
    /** The agent's log of all its lives. */
    async killAgent() {
      await agent.stop("SIGKILL");
      agent = startAgent();
    },
    firmware: (command: string, target: string, ...rest: string[]) =>
      run("firmware", command, SUBJECT, target, ...rest, ...as("@grower")),
    start: (command: string[], name = "@grower") => new AtedgeProcess(cli.path, [...command, ...as(name)]),
    /** The same on a terminal: what a person sees. */
    async onTerminal(...command: string[]): Promise<{ readonly code: number; readonly screen: string }> {
      const env = { ...process.env, NODE_OPTIONS: "" };
      const terminal = nodePty.spawn(process.execPath, [cli.path, ...command, ...as("@grower")], { cols: 120, env });
      let screen = "";
      terminal.onData((text) => (screen += text));
      const code = await new Promise<number>((resolve) => terminal.onExit(({ exitCode }) => resolve(exitCode)));
      return { code, screen };
    },
    /** Writes and signs an image. @returns its path. */
    async image(target: "press" | "radio", bytes: Uint8Array, version: string, counter: number): Promise<string> {
      const path = join(folder, `${target}-${version}-${counter}.bin`);
      await writeFile(path, Buffer.concat([bytes, Buffer.from(MARK)]));
      const hardware = target === "press" ? "host-board" : "nrf52840dk";
      const about = ["--target", target, "--hardware", hardware, "--version", version, "--counter", String(counter)];
      const signed = await run("firmware", "sign", path, "--key", signer, ...about);
      t.equal(signed.code, 0, signed.err);
      return path;
    },
    /** A command as the operator types it, in a folder of theirs. */
    atDesk(desk: string, command: string[]): Promise<Ended> {
      const where = command.includes("--as") ? as("@grower").slice(2) : [];
      return new AtedgeProcess(cli.path, [...command, ...where], { cwd: desk }).ended;
    },
    call: (name: string, ...command: string[]) => run("call", SUBJECT, ...command, ...as(name)),
    numbers(reading: string): number[] {
      return watch.out
        .split("\n")
        .filter((line) => line.includes(`"name":"${reading}"`))
        .map((line) => Number((JSON.parse(line) as { value: unknown }).value));
    },
    async until(what: string, holds: () => boolean, withinMs = 30_000): Promise<void> {
      const endMs = performance.now() + withinMs;
      while (!holds()) {
        if (performance.now() > endMs)
          throw new Error(
            `waited in vain for ${what}\n${agent.err.slice(-3000)}\n${watch.out.slice(-500)}${watch.err}`,
          );
        await sleep(20);
      }
    },
    async [Symbol.asyncDispose]() {
      await watch[Symbol.asyncDispose]();
      await agent.stop("SIGTERM");
      await press[Symbol.asyncDispose]();
      await radio[Symbol.asyncDispose]();
      await platform[Symbol.asyncDispose]();
      await cli[Symbol.asyncDispose]();
      await rm(boardFolder, { recursive: true, force: true });
      if (process.env["ATEDGE_KEEP_FILES"]) process.stderr.write(`kept: ${folder}\n`);
      else await rm(folder, { recursive: true, force: true });
    },
  };
}

const statusOf = ({ out }: Ended): Status => JSON.parse(out.trim().split("\n").at(-1) ?? "") as Status;
const sentOf = (out: string): number[] =>
  out
    .split("\n")
    .filter((line) => line.includes('"type":"sent"'))
    .map((line) => (JSON.parse(line) as { bytes: number }).bytes);

t.test("Firmware from another atSign", { timeout: 180_000 }, async (t) => {
  await using site = await startSite();
  const { press, radio } = site;
  const version = (): string | undefined =>
    press.lines.flatMap((line) => /^boot slot=\d version=(\S+)/u.exec(line)?.[1] ?? []).at(-1);
  await site.until(
    "readings of both boards",
    () => site.numbers("number").length > 3 && site.numbers("radio/n").length > 3,
  );

  await t.test("is taken from nobody whom the policy does not name for it", async (t) => {
    const image = await site.image("press", imageOf("G", "1.1.0"), "1.1.0", 1);
    const refused = await site.start(["firmware", "push", SUBJECT, "press", image], "@visitor").ended;
    t.equal(refused.code, 1);
    t.match(refused.err, /firmware-begin: press\/firmware-begin is not allowed to @visitor/u);
    const status = await site.start(["firmware", "status", SUBJECT, "press", "--json"], "@visitor").ended;
    t.strictSame(JSON.parse(status.out), { floor: 0 });
  });

  await t.test("is not taken when another key has signed it", async (t) => {
    const image = await site.image("press", imageOf("G", "1.1.0"), "1.1.0", 1);
    const other = join(site.folder, "other.key");
    await site.start(["firmware", "keygen", "--out", other]).ended.catch(() => undefined);
    const manifest = join(site.folder, "forged.json");
    const signed = JSON.parse(await readFile(`${image}.manifest.json`, "utf8")) as {
      signed: string;
      signature: string;
    };
    await writeFile(manifest, JSON.stringify({ ...signed, signature: Buffer.alloc(64, 7).toString("base64") }));
    const refused = await site.firmware("push", "press", image, "--manifest", manifest);
    t.equal(refused.code, 1);
    t.match(refused.err, /not signed by a key that this device allows/u);
  });

  await t.test("is brought, taken back and sealed as docs/operate/firmware.md says", async (t) => {
    await site.image("press", imageOf("G", "2.0.0"), "2.0.0", 0);
    const desk = join(site.folder, "desk");
    await mkdir(desk);
    await copyFile(join(site.folder, "press-2.0.0-0.bin"), join(desk, "press-2.0.0.bin"));
    const page = await readFile("docs/operate/firmware.md", "utf8");
    const steps = [...page.matchAll(/^```console\n([\s\S]*?)^```/gmu)].flatMap(([, block = ""]) =>
      block.split(/^\$ atedge /mu).slice(1),
    );
    t.equal(steps.length, 8, "commands on the page");
    for (const step of steps) {
      const [command = "", ...shown] = step.trimEnd().split("\n");
      const { out, err } = await site.atDesk(desk, command.split(" "));
      for (const line of shown) {
        const parts = line.split("…").map((part) => part.replace(/[.*+?^${}()|[\]\\]/gu, "\\$&"));
        t.match(`${out}${err}`, new RegExp(parts.join(".*"), "u"), `atedge ${command}`);
      }
      // The device knows the key that its configuration names.
      if (command.startsWith("firmware keygen"))
        await copyFile(join(site.folder, "signer.key"), join(desk, "signer.key"));
    }
    t.equal(version(), "2.0.0");
  });

  await t.test("is installed, with bars on the operator's terminal, and readings go on", async (t) => {
    const image = await site.image("press", imageOf("G", "2.1.0", 40_000), "2.1.0", 2);
    const { code, screen } = await site.onTerminal("firmware", "push", SUBJECT, "press", image);
    t.equal(code, 0, screen);
    t.match(screen, /sending {3}\[\.{25}\] 0 % of 40026 bytes/u);
    t.match(screen, /sending {3}\[#{25}\] 100 %/u);
    t.match(screen, /confirmed: version 2\.1\.0, before it 2\.0\.0/u);
    t.equal(version(), "2.1.0");
    const before = site.numbers("number").length;
    await site.until("readings of the new firmware", () => site.numbers("number").length > before + 5);
    // The numbers begin anew with each start of the board; within one life none is missing.
    const jumps = site.numbers("number").filter((n, at, all) => at > 0 && n !== (all[at - 1] ?? 0) + 1 && n !== 1);
    t.strictSame(jumps, []);
  });

  await t.test("goes on where it was when the operator's machine, and then the agent, is killed", async (t) => {
    const image = await site.image("press", imageOf("G", "3.0.0", 150_000), "3.0.0", 3);
    const command = ["firmware", "push", SUBJECT, "press", image, "--json"];
    const first = site.start(command);
    await first.until(({ out }) => sentOf(out).find((bytes) => bytes >= 60_000), "60,000 bytes sent");
    await first.stop("SIGKILL");
    const status = statusOf(await site.firmware("status", "press", "--json"));
    t.match(status.update, { step: "receiving", version: "3.0.0" });

    const second = site.start(command);
    await second.until(({ out }) => (sentOf(out).length > 1 ? true : undefined), "more sent");
    const [from = 0] = sentOf(second.out);
    t.ok(from >= 60_000, `went on at ${from}`);
    await site.killAgent();
    await second.until(
      ({ out }) => (out.includes('"step":"leased"') ? true : undefined),
      "the board is written",
      60_000,
    );
    await site.killAgent();
    const ended = await second.ended;
    t.equal(ended.code, 0, ended.err);
    t.match(statusOf(ended).update, { step: "confirmed", version: "3.0.0" });
    t.equal(version(), "3.0.0");
    t.equal((await site.call("@grower", "press", "relay", '{"on":true}')).code, 0);
  });

  await t.test("that does not work is reverted, and the exit code says so", async (t) => {
    const image = await site.image("press", imageOf("S", "3.1.0"), "3.1.0", 3);
    const ended = await site.firmware("push", "press", image);
    t.equal(ended.code, 1);
    t.match(ended.out, /reverted: version 3\.1\.0, before it 3\.0\.0 \(the self-test failed/u);
    t.equal(version(), "3.0.0");
  });

  await t.test("is not taken below the seal, which outlives the agent", async (t) => {
    await site.killAgent();
    await site.until("the board", () => /"driver":"press"[^\n]*"driver running"/u.test(site.agent.err));
    t.equal(statusOf(await site.firmware("status", "press", "--json")).floor, 2, "nothing but the seal has raised it");
    const older = await site.image("press", imageOf("G", "1.9.0"), "1.9.0", 1);
    const refused = await site.firmware("push", "press", older);
    t.equal(refused.code, 1);
    t.match(refused.err, /counter 1 is below the sealed floor 2/u);
    t.equal(version(), "3.0.0");
  });

  await t.test("goes to an SMP board whose console another driver reads, which waits meanwhile", async (t) => {
    const image = await site.image("radio", smpImage("2.0.0", 30_000), "2.0.0", 1);
    const seen = site.numbers("radio/n").length;
    const ended = await site.firmware("push", "radio", image);
    t.equal(ended.code, 0, ended.err);
    t.match(ended.out, /confirmed: version 2\.0\.0, before it 1\.0\.0/u);
    t.strictSame(radio.running, { version: "2.0.0", confirmed: true });
    t.match(site.agent.err, /"driver":"console"[^\n]*PORT_LEASED/u, "the console's driver was suspended");
    await site.until("the console again", () => site.numbers("radio/n").length > seen + 20);
    const numbers = site.numbers("radio/n");
    t.strictSame(
      numbers,
      [...numbers].sort((a, b) => a - b),
      "its readings came in order",
    );
    const back = await site.firmware("rollback", "radio");
    t.match(back.out, /confirmed: version 1\.0\.0, before it 2\.0\.0/u, back.err);
    t.strictSame(radio.running, { version: "1.0.0", confirmed: true });
    const bad = await site.image("radio", smpImage("bad", 3000), "2.1.0", 1);
    const reverted = await site.firmware("push", "radio", bad);
    t.equal(reverted.code, 1);
    t.match(reverted.out, /reverted: version 2\.1\.0/u, reverted.err);
    t.strictSame(radio.running, { version: "1.0.0", confirmed: true });
  });

  await t.test("is seen by neither atServer", async (t) => {
    const folder = join(site.folder, "platform");
    const names = (await readdir(folder, { recursive: true })).filter((name) => /\.db(?:-wal)?$/u.test(name));
    let commands = 0;
    for (const name of names) {
      const bytes = await readFile(join(folder, name));
      if (bytes.includes(".cmd.__rpcs.north.atedge")) commands += 1;
      t.strictSame(findClearText(bytes, [MARK, "firmware-data", "nrf52840dk"], name), []);
    }
    t.ok(commands > 0, "the commands went through them");
  });

  t.equal(await press.end(), 0, press.errors);
});
