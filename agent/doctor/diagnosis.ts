import { execFile } from "node:child_process";
import { readdir, readFile, stat } from "node:fs/promises";
import { arch, cpus, freemem, loadavg, release, totalmem, uptime } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { type Clock, systemClock } from "../../core/clock.js";
import { codeOf, EdgeError } from "../../core/errors.js";
import { loadConfig } from "../config/load.js";
import { ConfigInvalid, faultLine } from "../config/parse.js";
import { askAgent } from "../local-client.js";
import { doctorReport, type DoctorOptions } from "./doctor.js";
import { said } from "./finding.js";
import { redactedConfig, scrubber, secretsOf } from "./redact.js";

export interface DiagnosisOptions extends Pick<DoctorOptions, "configFile" | "agent" | "offline"> {
  readonly version: string;
  readonly clock?: Clock;
  /** The longest that the JSON text may be; the oldest log lines go first. */
  readonly maxBytes?: number;
  /** The newest log lines, oldest first. Left out: the running agent is asked, then the journal. */
  readonly log?: () => Promise<readonly unknown[]>;
}

/** What a bundle for whoever helps holds. Every text in it has been scrubbed of secrets. */
export interface Diagnosis {
  readonly v: 1;
  readonly madeAt: string;
  readonly versions: Readonly<Record<string, string>>;
  readonly machine: Readonly<Record<string, unknown>>;
  readonly config: unknown;
  readonly files: readonly unknown[];
  readonly agent: Readonly<Record<string, unknown>>;
  readonly doctor: unknown;
  readonly log: readonly unknown[];
}

const MAX_BYTES = 2_000_000;
const LOG_LINES = 500;
const OPS = ["health", "outbox", "data", "aside.list"] as const;
const ASK_MS = 3_000;
const LEFT_OUT = "left out: too long";
const NOTHING = { files: [], config: LEFT_OUT, agent: {}, doctor: LEFT_OUT };

/**
 * Everything that helps somebody else to find out what is wrong with this device, and nothing that lets him be it:
 * keys, passwords and passphrases are taken out wherever they appear. atSigns, names of devices and channels, addresses
 * and readings that were logged stay.
 */
export async function diagnose(options: DiagnosisOptions, signal: AbortSignal): Promise<Diagnosis> {
  const { configFile, version, clock = systemClock, maxBytes = MAX_BYTES } = options;
  const config = await loadConfig(configFile).then(
    (parsed) => parsed.config,
    (error: unknown) => {
      if (!(error instanceof ConfigInvalid)) throw error;
      return error;
    },
  );
  const isGood = !(config instanceof ConfigInvalid);
  const scrub = scrubber(isGood ? await secretsOf(config) : []);
  const diagnosis: Diagnosis = {
    v: 1,
    madeAt: new Date(clock.now()).toISOString(),
    versions: await versions(version),
    machine: machine(),
    config: isGood ? redactedConfig(config) : { faults: config.faults.map(faultLine) },
    files: isGood ? await listed(config.stateDir) : [],
    agent: isGood ? await asked(config.stateDir) : {},
    doctor: await doctorReport(options, signal),
    log: await (options.log ?? (() => newestLines(isGood ? config.stateDir : undefined)))().catch((error: unknown) => [
      said(error),
    ]),
  };
  return bounded(scrubbed(diagnosis, scrub) as Diagnosis, maxBytes);
}

function scrubbed(value: unknown, scrub: (text: string) => string): unknown {
  if (typeof value === "string") return scrub(value);
  if (Array.isArray(value)) return value.map((inner: unknown) => scrubbed(inner, scrub));
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([name, inner]) => [scrub(name), scrubbed(inner, scrub)]));
}

/** What is worth least goes first: old log lines, then names of files, then the configuration. */
function bounded(diagnosis: Diagnosis, maxBytes: number): Diagnosis {
  const size = (value: unknown): number => Buffer.byteLength(JSON.stringify(value));
  const bare = { ...diagnosis, log: [] };
  const smaller = [bare, { ...bare, files: [] }, { ...bare, files: [], config: LEFT_OUT, agent: {} }];
  const kept = smaller.find((each) => size(each) <= maxBytes) ?? { ...bare, ...NOTHING };
  let left = maxBytes - size(kept);
  const log: unknown[] = [];
  for (const line of diagnosis.log.toReversed()) {
    left -= size(line) + 1;
    if (left < 0) break;
    log.unshift(line);
  }
  return { ...kept, log };
}

async function versions(version: string): Promise<Record<string, string>> {
  const system = await readFile("/etc/os-release", "utf8").catch(() => "");
  const model = await readFile("/proc/device-tree/model", "utf8").catch(() => "");
  return {
    atedge: version,
    node: process.version,
    openssl: process.versions.openssl,
    kernel: release(),
    arch: arch(),
    system: /^PRETTY_NAME="(?<name>.*)"$/mu.exec(system)?.groups?.["name"] ?? "unknown",
    ...(model !== "" && { model: model.replaceAll("\0", "") }),
  };
}

const machine = (): Record<string, unknown> => ({
  uptimeS: Math.round(uptime()),
  load: loadavg(),
  processors: cpus().length,
  memoryBytes: { total: totalmem(), free: freemem() },
  user: process.getuid?.(),
});

/** Names, sizes and modes of what lies in the state folder; nothing of what is in it. */
async function listed(folder: string): Promise<unknown[]> {
  const names = await readdir(folder, { recursive: true }).catch(() => []);
  const all = names
    .sort()
    .slice(0, 500)
    .map(async (name) => {
      const info = await stat(join(folder, name)).catch(() => undefined);
      return (
        info && { name, bytes: info.size, mode: (info.mode & 0o7777).toString(8), changed: info.mtime.toISOString() }
      );
    });
  return (await Promise.all(all)).filter((entry) => entry !== undefined);
}

/** What the running agent says of itself, by question. */
async function asked(stateDir: string): Promise<Record<string, unknown>> {
  const answers = OPS.map(async (op) => {
    const answer = await askAgent(stateDir, op, {}, { timeoutMs: ASK_MS }).catch((error: unknown) => {
      if (error instanceof EdgeError) return { error: error.code };
      return { error: codeOf(error) ?? said(error) };
    });
    return [op, answer] as const;
  });
  return Object.fromEntries(await Promise.all(answers));
}

async function newestLines(stateDir: string | undefined): Promise<readonly unknown[]> {
  if (stateDir !== undefined) {
    const lines = await askAgent(stateDir, "logs", { lines: LOG_LINES }, { timeoutMs: ASK_MS }).catch(() => undefined);
    if (Array.isArray(lines)) return lines as unknown[];
  }
  const args = ["--unit=atedge", `--lines=${LOG_LINES}`, "--no-pager", "--output=short-iso", "--quiet"];
  const { stdout } = await promisify(execFile)("journalctl", args, { timeout: 10_000, maxBuffer: 8 << 20 });
  return stdout.split("\n").filter((line) => line !== "");
}
