import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { build } from "esbuild";
import t from "tap";
import { parseConfig } from "../../agent/config/parse.js";
import { driverSchemas } from "../../drivers/registry.js";
import type { OpenDriver } from "../../core/driver.js";
import { recordingDeps } from "../contracts/driver.js";
import { PtyDevice } from "../fixtures/pty-device.js";

const root = join(dirname(fileURLToPath(import.meta.url)), "..", "..");

void t.test("the driver in docs/extend/driver.md runs as it stands there", async (t) => {
  const page = await readFile(join(root, "docs", "extend", "driver.md"), "utf8");
  const code = /```ts\n(?<code>[\s\S]*?)```/u.exec(page)?.groups?.["code"] ?? "";
  const dir = await mkdtemp(join(root, "drivers", ".example-"));
  t.teardown(() => rm(dir, { recursive: true, force: true }));
  await writeFile(join(dir, "driver.ts"), code);
  const outfile = join(dir, "driver.mjs");
  await build({
    entryPoints: [join(dir, "driver.ts")],
    outfile,
    bundle: true,
    platform: "node",
    format: "esm",
    target: "node20",
  });
  const { openThermometer } = (await import(pathToFileURL(outfile).href)) as {
    openThermometer: OpenDriver<{ id: string; path: string }>;
  };
  await using device = await PtyDevice.open();
  await using deps = await recordingDeps();
  const stop = new AbortController();
  const driver = await openThermometer({ id: "north", path: device.path }, deps, stop.signal);
  const running = driver.run(stop.signal);
  device.say("boot v1");
  device.say("T=21.5");
  await deps.until(1);
  t.match(deps.readings, [{ name: "temperature", unit: "Cel", value: 21.5 }]);
  t.strictSame(driver.counters?.(), { noise: 1 });
  stop.abort();
  await running;
  await driver[Symbol.asyncDispose]();
});

void t.test("every table in docs/operate/drivers.md is configuration as it stands there", async (t) => {
  const page = await readFile(join(root, "docs", "operate", "drivers.md"), "utf8");
  const blocks = [...page.matchAll(/```toml\n(?<toml>[\s\S]*?)```/gu)].map((match) => match.groups?.["toml"] ?? "");
  const head = 'atsign = "@greenhouse"\ndevice = "north"\n[[reader]]\natsign = "@grower"\n';
  const { config, warnings } = parseConfig(head + blocks.join("\n"), "/etc/atedge");
  t.strictSame(warnings, []);
  t.strictSame(
    [...new Set(config.driver.map(({ type }) => type))].sort(),
    Object.keys(driverSchemas).sort(),
    "one for each kind",
  );
});
