import { build } from "esbuild";
import { spawn } from "node:child_process";
import { readFile, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import { openManifest, type SignedManifest } from "../../firmware-bridge/update/manifest.js";
import { BoardProcess } from "./board-process.js";
import { until } from "./link-rig.js";

const program = join(process.cwd(), "node_modules", ".atedge", `cli-child-${process.pid}.mjs`);
await build({
  entryPoints: ["test/firmware-bridge/cli-child.ts"],
  outfile: program,
  bundle: true,
  packages: "external",
  platform: "node",
  target: "node20",
  format: "esm",
});

function start(args: readonly string[]) {
  const child = spawn(process.execPath, [program, ...args], { env: { ...process.env, NODE_OPTIONS: undefined } });
  const run = { out: "", err: "", child, code: new Promise<number | null>((resolve) => child.on("close", resolve)) };
  child.stdout.on("data", (chunk: Buffer) => (run.out += chunk.toString()));
  child.stderr.on("data", (chunk: Buffer) => (run.err += chunk.toString()));
  return run;
}

async function atedge(...args: readonly string[]) {
  const run = start(args);
  run.child.stdin.end();
  return { code: await run.code, out: run.out, err: run.err };
}

t.test("atedge link", async (t) => {
  const home = t.testdir();
  await using board = await BoardProcess.start({ args: ["-r", "50"] });
  const config = join(home, "atedge.toml");
  await writeFile(
    config,
    `stateDir = "state"\n[[driver]]\nid = "press"\ntype = "link"\npath = "${board.path}"\nbaud = 1000000\n[[driver]]\nid = "other"\ntype = "host"\n`,
  );

  await t.test("says what is wrong with its arguments, with exit code 2", async (t) => {
    const { code, err } = await atedge("link", "pair", "pres", "--config", config);
    t.equal(code, 2);
    t.match(err, /no driver pres of type "link"; there is press/u);
  });

  await t.test("refuses a board that is not paired, and says what to do", async (t) => {
    const { code, err } = await atedge("link", "status", "press", "--config", config);
    t.equal(code, 1);
    t.match(err, /run `atedge link pair press`/u);
  });

  await t.test("pairs by the digits that a person compares", async (t) => {
    board.tell("pair");
    await board.counters();
    const run = start(["link", "pair", "press", "--config", config, "--json"]);
    await until(() => /must show (\d{3} \d{3})/u.test(run.err), "the digits");
    const ours = /must show (\d{3} \d{3})/u.exec(run.err)?.[1]?.replace(" ", "");
    const [, theirs] = await board.said(/^digits (\d{6})$/u);
    t.equal(ours, theirs);
    board.tell("confirm");
    run.child.stdin.end("y\n");
    t.equal(await run.code, 0, run.err);
    t.match(JSON.parse(run.out), { driver: "press", paired: true, key: /^sha256:[0-9a-f]{64}$/u });
    t.equal((await stat(join(home, "state", "drivers", "press", "link.json"))).mode & 0o777, 0o600);
  });

  await t.test("tells the board's state", async (t) => {
    const { code, out, err } = await atedge("link", "status", "press", "--config", config, "--json");
    t.equal(code, 0, err);
    t.match(JSON.parse(out), {
      hardware: "host-board",
      reset: "power-on",
      commands: ["relay", "echo", "double", "mute", "burst", "self-test"],
    });
  });

  await t.test("prints readings until it is interrupted", async (t) => {
    const run = start(["link", "log", "press", "--config", config]);
    await until(() => /temperature = [\d.]+ Cel\n/u.test(run.out), "a reading");
    run.child.kill("SIGINT");
    t.equal(await run.code, 0, run.err);
  });

  await t.test("sends the commands of its console", async (t) => {
    const run = start(["link", "console", "press", "--config", config]);
    run.child.stdin.end('relay {"on":true}\nrelay {"on":3}\nrelay {oops\n');
    t.equal(await run.code, 0, run.err);
    t.match(run.out, /^\{"on":true\}$/mu);
    t.match(run.out, /^! on: expected true or false$/mu);
    board.tell("relay");
    await board.said(/^relay on$/u);
  });
});

t.test("atedge firmware makes keys and manifests that devices take", async (t) => {
  const home = t.testdir({ "app.bin": "the image" });
  const [key, image] = [join(home, "signer.key"), join(home, "app.bin")];
  const made = await atedge("firmware", "keygen", "--out", key, "--json");
  t.equal(made.code, 0, made.err);
  t.equal((await stat(key)).mode & 0o777, 0o600);
  t.equal((await atedge("firmware", "keygen", "--out", key)).code, 1, "a key is not overwritten");
  const args = ["--key", key, "--target", "press", "--hardware", "lm3s6965", "--version", "1.3.0", "--counter", "4"];
  const signed = await atedge("firmware", "sign", image, ...args);
  t.equal(signed.code, 0, signed.err);
  const manifest = JSON.parse(await readFile(`${image}.manifest.json`, "utf8")) as SignedManifest;
  const publicKey = Buffer.from((JSON.parse(made.out) as { key: string }).key, "base64");
  t.match(openManifest(manifest, [publicKey]), { target: "press", version: "1.3.0", counter: 4, size: 9 });
});
