import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { writeAtKeysFile } from "../../atplatform/crypto/at-keys-file.js";
import type { TelemetryMessage } from "../../messages/telemetry.js";
import { CollectFile } from "../../remote/collect-file.js";
import { openDailyFiles, senmlLines } from "../../remote/senml-lines.js";
import { TestPlatform } from "../fixtures/at-platform.js";
import { AtedgeProcess } from "../fixtures/atedge-process.js";
import { bundleCli } from "../fixtures/bundled-cli.js";
import { tempFolder } from "../fixtures/temp-folder.js";

const LIFE = { stream: "a".repeat(32), inc: 1, class: "measurement" } as const;
const pack = (seq: number): TelemetryMessage => ({
  ...LIFE,
  type: "pack",
  seq,
  readings: [{ name: "board/temperature", unit: "Cel", value: 20.5, timeMs: 1_790_000_000_500 }],
});

t.test("a message becomes SenML, with its place in the stream", async (t) => {
  t.equal(
    senmlLines(pack(7), "@greenhouse", "north"),
    `{"bn":"greenhouse/north/","n":"board/temperature","u":"Cel","v":20.5,"t":1790000000.5,"class":"measurement","stream":"${"a".repeat(32)}","inc":1,"seq":7,"i":0}\n`,
  );
});

t.test("what a collector remembers", async (t) => {
  const path = join(tempFolder(t), "collect.db");
  const kept: number[] = [];
  const keep = async ({ seq }: TelemetryMessage): Promise<void> => void kept.push(seq);
  const file = await CollectFile.open(path);
  const store = file.storeOf("@greenhouse/north.atedge", keep);
  await store.take(pack(1), 1);
  t.equal((await store.take(pack(1), 2)).news, "duplicate");
  const failing = file.storeOf("@greenhouse/north.atedge", () => Promise.reject(new Error("disk full")));
  await t.rejects(failing.take(pack(2), 3), { message: "disk full" });
  t.equal(store.lives()[0]?.have, 1, "what was not kept is not had, and gets no receipt");
  await file[Symbol.asyncDispose]();

  await using again = await CollectFile.open(path);
  const reopened = again.storeOf("@greenhouse/north.atedge", keep);
  t.equal((await reopened.take(pack(1), 4)).news, "duplicate", "also after a restart");
  await reopened.take(pack(2), 5);
  t.same(kept, [1, 2]);
  t.same(again.storeOf("@greenhouse/south.atedge", keep).lives(), [], "each device has its own");
});

t.test("a file a day, and none older than wanted", async (t) => {
  const folder = tempFolder(t);
  await using sink = await openDailyFiles(folder, 2);
  const day = (n: number): number => Date.UTC(2026, 10, n, 23);
  for (let n = 20; n <= 24; n += 1) await sink.write(`${n}\n`, day(n));
  t.same(readdirSync(folder).sort(), ["2026-11-22.senml", "2026-11-23.senml", "2026-11-24.senml"]);
  t.equal(readFileSync(join(folder, "2026-11-24.senml"), "utf8"), "24\n");
});

t.test(
  "two devices of an owner are collected; a killed collector has all, some of it twice",
  { timeout: 90_000 },
  async (t) => {
    const root = tempFolder(t);
    await using cli = await bundleCli();
    await using platform = await TestPlatform.open(join(root, "platform"));
    const ca = join(root, "ca.pem");
    writeFileSync(ca, platform.platform.caPem);
    const keyFile = async (name: string): Promise<string> => {
      const path = join(root, `${name}.atKeys`);
      await writeAtKeysFile(path, name, await platform.onboard(name));
      return path;
    };
    const [owner, reader] = [await keyFile("@greenhouse"), await keyFile("@grower")];
    const { host, port } = platform.directory;
    const run = (device: string): AtedgeProcess => {
      const config = join(root, `${device}.toml`);
      const stateDir = join(root, device);
      mkdirSync(stateDir);
      writeFileSync(
        config,
        `atsign = "@greenhouse"\ndevice = "${device}"\ndirectory = "${host}:${port}"\nca = "${ca}"\nkeys = "${owner}"
stateDir = "${stateDir}"\nallowManagerKeys = true\nmaxDelayMs = 100\n[[reader]]\natsign = "@grower"\nconsumer = "collector"
[[driver]]\nid = "sim"\ntype = "simulated"\nintervalMs = 100\nname = "level"\n`,
      );
      return new AtedgeProcess(cli.path, ["run", "--config", config]);
    };
    const out = join(root, "readings");
    const collector = (): AtedgeProcess => {
      const who = ["--as", "@grower", "--keys", reader, "--directory", `${host}:${port}`, "--ca", ca];
      return new AtedgeProcess(cli.path, [
        "collect",
        "@greenhouse",
        ...who,
        "--state",
        join(root, "state"),
        "--out",
        out,
      ]);
    };
    const lines = (): { readonly bn: string; readonly seq: number; readonly i: number }[] =>
      readdirSync(out)
        .flatMap((name) => readFileSync(join(out, name), "utf8").trim().split("\n"))
        .filter((line) => line !== "")
        .map((line) => JSON.parse(line) as { bn: string; seq: number; i: number });
    const enough = (count: number) => (): true | undefined => {
      try {
        const all = lines();
        const has = (bn: string): boolean => all.filter((line) => line.bn === bn).length >= count;
        return has("greenhouse/north/") && has("greenhouse/south/") ? true : undefined;
      } catch {
        return undefined;
      }
    };

    await using north = run("north");
    await using south = run("south");
    {
      await using first = collector();
      await first.until(enough(20), "20 readings of each", 30_000);
      await first.stop("SIGKILL");
    }
    await using second = collector();
    await second.until(enough(60), "60 readings of each", 40_000);
    await Promise.all([north.stop(), south.stop()]);
    t.equal((await second.stop()).code, 0);

    for (const bn of ["greenhouse/north/", "greenhouse/south/"]) {
      const places = new Set(lines().flatMap((line) => (line.bn === bn ? [line.seq] : [])));
      const last = Math.max(...places);
      const missing = Array.from({ length: last }, (_, index) => index + 1).filter((seq) => !places.has(seq));
      t.same(missing, [], `${bn} has every message from the first to number ${last}`);
    }
  },
);
