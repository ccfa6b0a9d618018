import { createHash } from "node:crypto";
import { join } from "node:path";
import type { Clock } from "../core/clock.js";
import { withDeadline } from "../core/deadline.js";
import { EdgeError } from "../core/errors.js";
import type { TaskGroup } from "../core/scope.js";
import { UPDATE_FOLDER } from "../core/update-request.js";
import type { DriverSupervisor } from "../drivers/supervisor.js";
import type { JsonObject } from "../messages/json-field.js";
import type { DeviceAddress } from "../messages/names.js";
import type { PeerKeyChanged, PeerTrust, PinStore } from "../messages/peer-trust.js";
import type { AgentTime } from "./agent-time.js";
import type { Audit, AuditLog } from "./audit/audit-log.js";
import { loadConfig, loadRaw } from "./config/load.js";
import { LiveConfig, type LiveConfigOptions } from "./config/live-config.js";
import type { AgentConfig } from "./config/parse.js";
import type { RemoteSettings } from "./config/remote-settings.js";
import { agentCommands } from "./control/agent-commands.js";
import { CommandDesk } from "./control/command-desk.js";
import { Policy } from "./control/policy.js";
import { RequestReader } from "./control/request-reader.js";
import { storedCommands } from "./control/stored-commands.js";
import { type AgentTarget, targetsOf } from "./control/targets.js";
import { anyConfiguredDriver } from "./driver-kinds.js";
import type { AgentHealth, PartStatus } from "./health/health.js";
import { LogLimiter } from "./health/log-limiter.js";
import type { AgentLog } from "./log.js";
import type { LogRing } from "./log-ring.js";
import { RuleRunner } from "./rules/rule-runner.js";
import type { Store } from "./store/store.js";
import { withUpdateCommands } from "./update/update-commands.js";

export interface ControlDeps {
  readonly config: AgentConfig;
  readonly configFile: string;
  readonly load: LiveConfigOptions["load"];
  readonly settings: RemoteSettings;
  readonly version: string;
  readonly address: DeviceAddress;
  readonly store: Store;
  readonly trust: PeerTrust;
  readonly drivers: DriverSupervisor;
  readonly time: AgentTime;
  readonly clock: Clock;
  readonly log: AgentLog;
  readonly logs: LogRing;
  readonly audit: AuditLog;
  readonly health: () => AgentHealth;
  /** Ends the agent's work and begins it anew. */
  readonly restart: () => void;
  readonly group: TaskGroup;
  /** What the device tells about itself is another. */
  readonly infoChanged: () => void;
}

export interface ControlParts {
  readonly live: LiveConfig;
  readonly desk: CommandDesk;
  /** What the agent itself can be told to do. */
  readonly agent: AgentTarget;
  readonly rules: Pick<RuleRunner, "take">;
  health(): PartStatus[];
  run(signal: AbortSignal): Promise<void>;
}

/** An answer to `restart` gets so long to be on its way; it is sent after the restart otherwise. */
const RESTART_AFTER_MS = 2000;
const DIAGNOSE_WITHIN_MS = 60_000;
const MAX_ASIDE = 50;

/** Joins what decides about commands: the configuration in effect, policy, desk and audit log. */
export function joinControl(deps: ControlDeps): ControlParts {
  const { config, configFile, load, settings, address, store, trust, drivers, time, clock, log, audit, group } = deps;
  const { device } = address;
  const now = (): number | undefined => time.now();
  let policy = new Policy(config.allow, { device, clock });
  const live = new LiveConfig({
    config,
    load,
    async apply(next) {
      policy = new Policy(next.allow, { device, clock }, policy);
      trust.configure(configuredPins(next));
      log.setLevel(next.logLevel);
      rules.configure(next.rule);
      await drivers.configure(next.driver.map(anyConfiguredDriver), settings.disabled);
      deps.infoChanged();
    },
    onChange: (change) => void audit.append("config", { ...change, sha256: digestOf(live.config) }),
    log: log.child({ part: "config" }),
  });
  const restart = (by: string): void => {
    log.warn({ by }, "the agent restarts: it was told to");
    group.start(async (signal) => {
      await clock.sleep(RESTART_AFTER_MS, signal);
      deps.restart();
    });
  };
  const own = agentCommands({
    ...{ version: deps.version, live, settings, audit, logs: deps.logs, health: deps.health, restart },
    policy: () => policy,
    check: (set) => loadConfig(configFile, set),
    raw: () => loadRaw(configFile),
    clock: () => clockState(time),
    diagnose: (signal) => diagnose(deps, signal),
    cancel: (caller, id) => desk.cancel(caller, id),
  });
  const folder = join(config.stateDir, UPDATE_FOLDER);
  const agent = withUpdateCommands(own, { folder, version: deps.version });
  const desk = new CommandDesk({
    address,
    policy: () => policy,
    reader: new RequestReader({ us: config.atsign, address, trust, now }),
    store: storedCommands(store, address, () => now() ?? clock.now()),
    targets: targetsOf(drivers, agent),
    ...{ audit, now, clock, group },
    log: log.child({ part: "control" }),
  });
  const rules = new RuleRunner({
    ...{ rules: config.rule, stateDir: config.stateDir, audit, clock },
    command: (asked, signal) => desk.runOwn(asked, signal),
    log: log.child({ part: "rules" }),
  });
  void audit.append("start", { version: deps.version, config: digestOf(config) });
  const goneBack = async (): Promise<void> => {
    await live.reload("rollback").catch((error: unknown) => {
      if (!(error instanceof EdgeError)) throw error; // told by `live`
    });
  };
  return {
    ...{ live, desk, agent, rules },
    health: () => [
      ...live.health(),
      ...audit.health(),
      ...rules.health(),
      { name: "control", state: "ok", counters: desk.counters.values() },
    ],
    async run(signal) {
      await Promise.all([settings.run(goneBack, clock, signal), rules.run(signal)]);
    },
  };
}

/** What `atedge doctor` finds, within a bound. */
function diagnose({ configFile, store, health, clock }: ControlDeps, signal: AbortSignal): Promise<unknown> {
  const agent = {
    health: async () => health(),
    aside: async () => store.setAside.list({ after: 0, limit: MAX_ASIDE }),
  };
  const examined = async (inner: AbortSignal): Promise<unknown> => {
    const { doctorReport } = await import("./doctor/doctor.js");
    return doctorReport({ configFile, agent, clock }, inner);
  };
  return withDeadline(examined, { clock, timeoutMs: DIAGNOSE_WITHIN_MS, what: "the diagnosis" }, signal);
}

function clockState(time: AgentTime): JsonObject {
  const nowMs = time.now();
  return {
    time: nowMs === undefined ? null : new Date(nowMs).toISOString(),
    wallClock: new Date(time.wallMs()).toISOString(),
    utcOffsetMin: -new Date(time.wallMs()).getTimezoneOffset(),
    boot: time.boot,
    sinceBootS: Math.round(time.monotonicMs() / 1000),
    ...time.health,
  };
}

const digestOf = (config: AgentConfig): string => createHash("sha256").update(JSON.stringify(config)).digest("hex");

/** Fingerprints that a human gave. */
export function configuredPins({ reader, allow }: AgentConfig): ReadonlyMap<string, string> {
  return new Map(
    [...reader, ...allow].flatMap(({ atsign, key }) => (key === undefined ? [] : [[atsign, key] as const])),
  );
}

/** Pins whose first use the audit log tells of. */
export function auditedPins(pins: PinStore, audit: Audit): PinStore {
  return {
    get: (peer) => pins.get(peer),
    async set(peer, fingerprint) {
      await pins.set(peer, fingerprint);
      void audit.append("key", { how: "first use", peer, fingerprint });
    },
  };
}

const TELL_AGAIN_MS = 3_600_000;

/** Tells the audit log of keys that have changed, each peer once in a while. */
export function keyChanges(audit: Audit, clock: Clock): (error: PeerKeyChanged) => void {
  const limiter = new LogLimiter({ clock, everyMs: TELL_AGAIN_MS, maxSubjects: 256 });
  return ({ peer, actual }) => {
    if (limiter.admit(peer) === undefined) return;
    void audit.append("key", { how: "changed: refused", peer, fingerprint: actual });
  };
}
