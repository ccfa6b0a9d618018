import { spawn } from "node:child_process";
import { once } from "node:events";
import { type DeviceRow, FleetStore } from "../deploy/fleet/fleet-store.js";
import { parseManifest } from "../deploy/fleet/manifest.js";
import { runWaves, WaveStopped, type WaveResult } from "../deploy/fleet/waves.js";
import { readFile, writeFile } from "node:fs/promises";
import { basename } from "node:path";
import type { EachArguments, ReconfigureArguments } from "./fleet.js";
import { fleetFolder } from "./fleet-folder.js";
import { ArgumentInvalid, CommandFailed } from "./next-step.js";
import { interruption } from "./remote-options.js";

const OUTPUT_CHARS = 2_000;

/** Runs an atedge command for every device, in waves; `{}` stands for `@owner/device`. */
export async function each(manifest: string, command: readonly string[], options: EachArguments): Promise<void> {
  if (!command.some((word) => word.includes("{}")))
    throw new ArgumentInvalid("no word of the command is {}: it stands for @owner/device");
  await inWaves(manifest, options, (subject, signal) =>
    atedge(
      command.map((word) => word.replaceAll("{}", subject)),
      signal,
    ),
  );
}

/** Settings on trial; kept where the device is still reached with them and says that it is well. */
export async function reconfigure(manifest: string, settings: string, options: ReconfigureArguments): Promise<void> {
  let set: unknown;
  try {
    set = JSON.parse(settings);
  } catch (cause) {
    throw new ArgumentInvalid("the settings are no JSON object", { cause });
  }
  const remote = ["--as", options.as, ...(options.directory === undefined ? [] : ["--directory", options.directory])];
  if (options.ca !== undefined) remote.push("--ca", options.ca);
  if (options.keys !== undefined) remote.push("--keys", options.keys);
  if (options.pins !== undefined) remote.push("--state", options.pins);
  const withinS = Math.round(options.within / 1000);
  await inWaves(manifest, options, async (subject, signal) => {
    const call = (name: string, args: object): Promise<string> =>
      atedge(["call", subject, "agent", name, JSON.stringify(args), ...remote], signal);
    await call("config-set", { set, withinS });
    await new Promise((resolve) => setTimeout(resolve, options.settle));
    const state: unknown = JSON.parse(await call("state", {}));
    const fault = faultIn(state);
    if (fault !== undefined) {
      await call("config-undo", {});
      throw new CommandFailed(`it went back: ${fault}`);
    }
    await call("config-keep", {});
  });
}

/** What of the answer of `agent state` speaks against the new settings. */
function faultIn(state: unknown): string | undefined {
  const text = JSON.stringify(state);
  const failed = /"state":"(?<state>failed|down)"/u.exec(text)?.groups?.["state"];
  return failed === undefined ? undefined : `a part of it is ${failed}`;
}

async function inWaves(
  manifest: string,
  { state, tag, wave, stopAbove, atOnce, json, report }: EachArguments,
  work: (subject: string, signal: AbortSignal) => Promise<unknown>,
): Promise<void> {
  const signal = interruption();
  const subjects = await subjectsOf(manifest, state, tag);
  if (subjects.size === 0) throw new ArgumentInvalid("no device of the manifest is enrolled and has this tag");
  const print = (result: WaveResult): void => {
    const { device, wave: number, outcome, why } = result;
    if (json) process.stdout.write(`${JSON.stringify(result)}\n`);
    else process.stdout.write(`wave ${number}: ${device}: ${outcome}${why === "" ? "" : `: ${why}`}\n`);
  };
  let results: readonly WaveResult[] = [];
  try {
    results = await runWaves(
      {
        ...{ devices: [...subjects.keys()], waves: wave.split(","), stopAbove: stopAbove / 100, atOnce },
        work: async (device, stop) => {
          await work(subjects.get(device) ?? "", stop);
        },
        onResult: print,
      },
      signal,
    );
  } catch (error) {
    if (error instanceof WaveStopped) ({ results } = error);
    throw error;
  } finally {
    if (report !== undefined)
      await writeFile(report, `${JSON.stringify({ at: new Date().toISOString(), devices: results }, undefined, 2)}\n`);
  }
  const failed = results.filter(({ outcome }) => outcome === "failed").length;
  if (!json) process.stdout.write(`${results.length - failed} devices done, ${failed} failed\n`);
  if (failed > 0) process.exitCode = 1;
}

/** `@owner/device` by device, in the order of the manifest. */
async function subjectsOf(
  file: string,
  state: string | undefined,
  tag: string | undefined,
): Promise<Map<string, string>> {
  const manifest = parseManifest(await readFile(file, "utf8"), basename(file));
  const store = await FleetStore.open(fleetFolder(state));
  try {
    const rows = new Map(store.devices().map((row) => [row.name, row]));
    return new Map(
      manifest.devices
        .filter(({ tags }) => tag === undefined || tags.includes(tag))
        .map(({ name }) => rows.get(name))
        .filter((row): row is DeviceRow => row?.state === "enrolled")
        .map(({ name, atSign }) => [name, `${atSign}/${name}`]),
    );
  } finally {
    store.close();
  }
}

/** This same program, as a child. Gives what it printed. */
async function atedge(args: readonly string[], signal: AbortSignal): Promise<string> {
  const child = spawn(process.execPath, [...process.execArgv, process.argv[1] ?? "", ...args], {
    stdio: ["ignore", "pipe", "pipe"],
    signal,
  });
  let printed = "";
  let errors = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => (printed = (printed + text).slice(-1_000_000)));
  child.stderr.setEncoding("utf8").on("data", (text: string) => (errors = (errors + text).slice(-OUTPUT_CHARS)));
  const [code] = (await once(child, "close")) as [number | null];
  if (code !== 0) throw new CommandFailed(errors.trim() || `ended with ${code ?? "a signal"}`);
  return printed;
}
