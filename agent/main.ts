import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { type AtClient, openAtClient, type ReceivedNotification } from "../atplatform/client/at-client.js";
import type { AtKeys } from "../atplatform/crypto/at-keys.js";
import { type Clock, systemClock } from "../core/clock.js";
import { codeOf, EdgeError } from "../core/errors.js";
import type { Reading } from "../core/driver.js";
import type { Log } from "../core/log.js";
import { ChildSignal, TaskGroup } from "../core/scope.js";
import { Traffic } from "../core/traffic.js";
import { anyConfiguredDriver } from "./driver-kinds.js";
import { DriverSupervisor } from "../drivers/supervisor.js";
import { OwnKeyGuard } from "../messages/own-key.js";
import { PeerTrust } from "../messages/peer-trust.js";
import { withAgentStore } from "./agent-store.js";
import { AuditLog } from "./audit/audit-log.js";
import { auditedPins, configuredPins, type ControlDeps, joinControl, keyChanges } from "./control-parts.js";
import { AgentTime } from "./agent-time.js";
import { DataBudget } from "./budget/data-budget.js";
import type { LiveConfig } from "./config/live-config.js";
import type { AgentConfig } from "./config/parse.js";
import { HealthBoard } from "./health/health.js";
import { type ServiceManager, systemdOf } from "./health/notify-systemd.js";
import { reportHealth } from "./health/report.js";
import { clockHealth, dataHealth, driversHealth, linkHealth, reductionHealth, storeHealth } from "./health/sources.js";
import { keepManagerInformed, tellStopping } from "./health/watchdog.js";
import { addDataOps } from "./data-ops.js";
import { deviceInfo } from "./device-info.js";
import { loadAgentKeys } from "./keys/agent-keys.js";
import { addUseKeys } from "./keys/use-keys.js";
import { type LocalControl, openLocalControl } from "./local-control.js";
import { checkEnrollment, knownEnrollment, refuseManagerKeys } from "./keys/manager-keys.js";
import { onHangup, reload } from "./reload.js";
import type { AgentLog } from "./log.js";
import { LogRing } from "./log-ring.js";
import { startConfig } from "./start-config.js";
import { monitor } from "./monitor.js";
import { peerRecords } from "./peer-records.js";
import { Reduction } from "./reduce/reduction.js";
import type { Store } from "./store/store.js";
import { markConnected } from "./update/connected-mark.js";
import { Uplink } from "./uplink/uplink.js";

export interface RunOptions {
  readonly configFile: string;
  readonly version: string;
}

/**
 * Runs the agent until `stop` aborts; then everything that was accepted is on the disk.
 *
 * @throws {ConfigInvalid} {@link KeysUnusable} {@link StateDirUnusable} {@link StoreInUse}, each saying what to do.
 */
export async function runAgent(options: RunOptions, stop: AbortSignal): Promise<void> {
  const manager = systemdOf(process.env);
  const logs = new LogRing();
  let runs = true;
  while (runs) runs = await runOnce({ ...options, manager, logs }, stop);
}

interface OneRun extends RunOptions {
  readonly manager: ServiceManager | undefined;
  readonly logs: LogRing;
}

/** @returns whether an operator wants the agent to begin anew. */
async function runOnce({ configFile, version, manager, logs }: OneRun, stop: AbortSignal): Promise<boolean> {
  await using life = new ChildSignal(stop);
  const clock = systemClock;
  const time = new AgentTime({ clock });
  const { config, settings, log, load } = await startConfig(configFile, time, logs);
  const keys = await loadAgentKeys(config);
  const known = await knownEnrollment(config.stateDir);
  const inUse = { atSign: config.atsign, keyFile: config.keys, keys };
  if (!config.allowManagerKeys) refuseManagerKeys(inUse, known);
  const ca = config.ca === undefined ? undefined : await readCa(config.ca);

  // Only keys that the atServer has seen before can tell that these are others.
  const enrolledAnew = known !== undefined && known.enrollmentId !== keys.enrollmentId;
  const own = { configFile, load, settings, logs, ending: stop, restart: () => life.abort() };
  const run: Run = { ...own, config, keys, ca, clock, time, log, version, manager, enrolledAnew };
  let rounds = 0;
  await withAgentStore(
    config,
    { clock, time, log, enrolledAnew },
    async (store, signal) => runWith(store, rounds++ === 0 ? run : await readAnew(run), signal),
    life.signal,
  );
  log.info({}, "agent stopped");
  return !stop.aborted;
}

interface Run extends Omit<Joint, "store" | "client" | "traffic" | "audit" | "group"> {
  readonly ca: string | undefined;
  readonly manager: ReturnType<typeof systemdOf>;
  readonly enrolledAnew: boolean;
  /** Aborted when the agent is to end for good. */
  readonly ending: AbortSignal;
}

/** When the store was opened anew, the configuration may be another than at the start, and so may the keys. */
async function readAnew(run: Run): Promise<Run> {
  const { config } = await run.load().catch(() => run);
  const keys = await loadAgentKeys(config).catch(() => run.keys);
  return { ...run, config, keys };
}

/** Runs the agent until `stop` aborts, or the store breaks. */
async function runWith(store: Store, run: Run, stop: AbortSignal): Promise<void> {
  const { config, keys, ca, clock, time, log, version, manager, enrolledAnew } = run;
  const nowMs = (): number => time.now() ?? clock.now();
  const { maxBytes } = config.audit;
  await using audit = new AuditLog({ folder: join(config.stateDir, "audit"), maxBytes, nowMs, log });
  if (enrolledAnew) void audit.append("key", { how: "enrolled anew", enrollmentId: keys.enrollmentId });
  const traffic = new Traffic();
  await using client = await openAtClient(
    {
      atSign: config.atsign,
      keys,
      directory: config.directory,
      ...(ca === undefined ? {} : { ca }),
      clock,
      traffic,
      log: log.child({ part: "client" }),
    },
    stop,
  );
  await using group = new TaskGroup(stop);
  const { device, ns, stateDir, allowManagerKeys } = config;
  const check = {
    atSign: config.atsign,
    keyFile: config.keys,
    keys,
    client,
    stateDir,
    address: { device, ns },
    allowManagerKeys,
    clock,
  };
  const parts = joinParts({ ...run, store, client, traffic, audit, group });
  log.info({ version, atsign: config.atsign, device: config.device, drivers: config.driver.length }, "agent started");
  group.start((signal) => checkEnrollment({ ...check, log: log.child({ part: "keys" }) }, signal));
  const { health, live } = parts;
  group.start((signal) => onHangup(() => group.start(() => reload(live, manager, log)), signal));
  const { metricsPort } = config;
  await using metrics = metricsPort === undefined ? undefined : await openMetrics(health, metricsPort, log);
  if (metrics) log.info({ port: metrics.port }, "metrics are served on 127.0.0.1");
  await using local = await openLocalControl(stateDir, log);
  if (local) addLocalOps(local, { ...parts, store, clock, logs: run.logs });
  if (local) addUseKeys(local, { ...check, config, log: log.child({ part: "keys" }) });
  if (manager) {
    const flush = (): Promise<void> => store.flush();
    group.start((signal) => keepManagerInformed({ manager, health, flush, clock, log }, signal));
    const runtimeDir = process.env["RUNTIME_DIRECTORY"];
    group.start((signal) => markConnected({ health, version, runtimeDir, clock, log }, signal));
    const told = (): void => {
      // It may also begin anew: with another store, or as an operator wants it.
      if (run.ending.aborted) void tellStopping(manager, log);
    };
    stop.addEventListener("abort", told, { once: true });
  }
  await parts.run();
}

interface Joint extends Pick<ControlDeps, "configFile" | "load" | "settings" | "logs" | "audit" | "restart"> {
  readonly config: AgentConfig;
  readonly keys: AtKeys;
  readonly store: Store;
  readonly client: AtClient;
  readonly traffic: Traffic;
  readonly clock: Clock;
  readonly time: AgentTime;
  readonly log: AgentLog;
  readonly group: TaskGroup;
  readonly version: string;
}

const MAX_LOG_CHARS = 1 << 20;

function addLocalOps(local: LocalControl, parts: Parts & Pick<Joint, "store" | "clock" | "logs">): void {
  local.add("health", () => parts.health.snapshot());
  local.add("logs", (args) => parts.logs.last(args.at("lines").integer(1, 1000), 0, MAX_LOG_CHARS));
  addDataOps(local, parts);
}

/** A port that is taken is no reason to take no readings. */
async function openMetrics(health: HealthBoard, port: number, log: Log) {
  const { serveMetrics } = await import("./health/metrics.js");
  return serveMetrics(health, port).catch((error: unknown) => {
    log.error({ err: error, port }, "metrics are not served: name a free port with metricsPort in the configuration");
    return undefined;
  });
}

interface Parts {
  readonly live: LiveConfig;
  readonly uplink: Uplink;
  readonly budget: DataBudget;
  readonly health: HealthBoard;
  run(): Promise<void>;
}

/** Makes the parts and tells them of each other; they run when they are started. */
function joinParts(joint: Joint): Parts {
  const { config, keys, store, client, audit, settings, clock, time, log, group, version } = joint;
  const { atsign: us, device, ns } = config;
  const address = { device, ns };
  const pins = auditedPins(store.pins, audit);
  const trust = new PeerTrust({
    us,
    address,
    records: peerRecords(client, clock),
    configured: configuredPins(config),
    remembered: pins,
    onChanged: keyChanges(audit, clock),
    log: log.child({ part: "trust" }),
  });
  const publish = (readings: readonly Reading[]): Promise<void> => store.publish(readings);
  const reduction = new Reduction({
    ...{ channels: config.channel, publish, clock },
    seen: (readings) => control.rules.take(readings),
  });
  const now = (): number | undefined => time.now();
  const { counters } = store;
  const budget = new DataBudget({ megabytes: config.dataBudgetMB, traffic: joint.traffic, now, counters });
  const stretch = (): number => budget.stretch;
  const drivers = new DriverSupervisor({
    drivers: config.driver.map(anyConfiguredDriver),
    disabled: settings.disabled,
    publish: (_, readings) => reduction.publish(readings),
    // What fails here fails for the readings too, and is told there.
    hurry: () => void store.flush().catch(() => undefined),
    stateDir: `${config.stateDir}/drivers`,
    clock,
    log: log.child({ part: "drivers" }),
  });
  const control = joinControl({
    ...joint,
    ...{ address, trust, drivers },
    health: () => health.snapshot(),
    infoChanged: () => uplink.infoChanged(),
  });
  const { live, desk } = control;
  const health = new HealthBoard(clock);
  const ownKeys = new OwnKeyGuard({
    remembered: pins,
    accepted: new Set(config.sharedKeys),
    howToAccept: (fingerprint) => `add ${fingerprint} to sharedKeys in the configuration`,
  });
  const uplink = new Uplink({
    us,
    address,
    client,
    store,
    trust,
    ownKeys,
    privateKey: keys.encryption.privateKey,
    clock,
    log: log.child({ part: "uplink" }),
    maxBatch: config.maxBatch,
    maxDelayMs: config.maxDelayMs,
    stateIntervalMs: config.stateIntervalMs,
    stretch,
    readers: config.reader.map(({ atsign, ...reader }) => ({ atSign: atsign, ...reader })),
    onServerTime: (shown) => time.serverShowed(shown),
    info: () => deviceInfo({ version, config: live.config, drivers, agent: control.agent, health: health.snapshot() }),
  });
  health.add(() => storeHealth(store));
  health.add(() => clockHealth(time));
  health.add(() => linkHealth(client));
  health.add(() => dataHealth(budget));
  health.add(() => driversHealth(drivers));
  health.add(() => reductionHealth(reduction, config.channel));
  health.add(() => uplink.health());
  health.add(() => control.health());
  const onServerTime = (shownMs: number): void => time.serverShowed({ shownMs });
  const receive = async (n: ReceivedNotification, signal: AbortSignal): Promise<void> => {
    if (!(await uplink.receive(n, signal))) desk.receive(n);
  };

  return {
    health,
    live,
    uplink,
    budget,
    async run() {
      group.start((signal) => reduction.run(signal));
      group.start((signal) => store.run(signal));
      group.start((signal) => drivers.run(signal));
      group.start((signal) => control.run(signal));
      group.start((signal) => uplink.run(signal));
      group.start((signal) =>
        monitor({ client, address, resume: store.monitor, clock, stretch, onServerTime, receive }, signal),
      );
      group.start((signal) => reportHealth(health, { clock, log, onDriver: () => uplink.infoChanged() }, signal));
      desk.settleUnfinished();
      await group.join();
    },
  };
}

async function readCa(file: string): Promise<string> {
  try {
    return await readFile(file, "utf8");
  } catch (cause) {
    throw new EdgeError(`the certificate authority ${file} cannot be read (${codeOf(cause) ?? "unknown error"})`, {
      cause,
    });
  }
}
