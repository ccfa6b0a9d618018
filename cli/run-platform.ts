import { openLog } from "../agent/log.js";
import { openPlatform, type Platform, type PlatformOptions } from "../atplatform/server/platform.js";
import { Scope } from "../core/scope.js";
import { serveMetrics } from "../atplatform/server/metrics.js";
import { loadPlatformConfig } from "./platform-config.js";
import { interruption } from "./remote-options.js";
import { giveServiceSigns } from "./service-signs.js";

interface RunOptions {
  readonly state?: string;
  readonly config?: string;
  readonly json?: boolean;
  readonly host?: string;
  readonly directoryPort?: number;
  readonly portRange?: { readonly first: number; readonly last: number };
  readonly verbose?: boolean;
}

const DEFAULT_DIRECTORY_PORT = 6464;
/** What is in flight when we are told to stop gets this long to finish. */
const GRACE_MS = 4_000;
const STATUS_MS = 1_000;

/** Runs a platform until SIGTERM or Ctrl-C. */
export async function runPlatform(options: RunOptions, defaultState: string): Promise<void> {
  const stop = interruption();
  const { json, host, directoryPort, portRange, verbose, config } = options;
  const fromFile = config === undefined ? {} : await loadPlatformConfig(config);
  const { metricsPort, ...file } = fromFile;
  const log = openLog({ level: verbose ? "debug" : "info" });
  const settings: PlatformOptions = {
    directoryPort: DEFAULT_DIRECTORY_PORT,
    ...file,
    stateDir: options.state ?? file.stateDir ?? defaultState,
    log,
    ...(directoryPort !== undefined && { directoryPort }),
    ...(host !== undefined && { host }),
    ...(portRange && { portRange }),
  };
  // Not `stop`: that is the wish to end well; this one would cut what is in flight.
  await using platform = await openPlatform(settings, new AbortController().signal);
  await using metrics = new Scope();
  if (metricsPort !== undefined) metrics.use(await serveMetrics(platform, metricsPort));
  announce(platform, json === true);
  giveServiceSigns(log, stop);
  const status = process.stdout.isTTY && !json ? setInterval(() => showStatus(platform), STATUS_MS) : undefined;
  await new Promise<void>((resolve) => {
    if (stop.aborted) resolve();
    stop.addEventListener("abort", () => resolve(), { once: true });
  });
  clearInterval(status);
  if (status) process.stdout.write("\n");
  await platform.close(AbortSignal.timeout(GRACE_MS));
}

function announce(platform: Platform, json: boolean): void {
  const { host, directoryPort, caFile } = platform;
  const atSigns = platform.list();
  if (json) {
    process.stdout.write(`${JSON.stringify({ host, directoryPort, caFile, atSigns })}\n`);
    return;
  }
  process.stdout.write(`atDirectory at ${host}:${directoryPort}, certificate authority in ${caFile}\n`);
  if (atSigns.length === 0) process.stdout.write("No atSign yet: atedge platform add @name\n");
  for (const { atSign, host, port } of atSigns) process.stdout.write(`  ${atSign} at ${host}:${port}\n`);
}

let lastCommands = 0;

function showStatus({ servers, directory }: Platform): void {
  const sum = (count: (server: (typeof servers)[number]) => number): number =>
    servers.reduce((total, server) => total + count(server), 0);
  const commands = sum(({ counters }) => counters.commands);
  const parts = [
    `${servers.length} atSigns`,
    `${sum(({ connections }) => connections)} connections`,
    `${sum(({ services }) => services.monitors.size)} monitors`,
    `${commands - lastCommands} commands/s`,
    `${directory?.counters.lookups ?? 0} look-ups`,
    `${sum(({ services }) => services.delivery.busy)} destinations waiting`,
  ];
  lastCommands = commands;
  process.stdout.write(`\r\u001b[K${parts.join(" · ")}`);
}
