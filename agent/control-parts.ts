import { createHash } from "node:crypto";
import type { Clock } from "../core/clock.js";
import type { TaskGroup } from "../core/scope.js";
import type { DriverSupervisor } from "../drivers/supervisor.js";
import type { DeviceAddress } from "../messages/names.js";
import type { PeerKeyChanged, PeerTrust, PinStore } from "../messages/peer-trust.js";
import type { AgentTime } from "./agent-time.js";
import type { Audit, AuditLog } from "./audit/audit-log.js";
import { LiveConfig, type LiveConfigOptions } from "./config/live-config.js";
import type { AgentConfig } from "./config/parse.js";
import { CommandDesk } from "./control/command-desk.js";
import { Policy } from "./control/policy.js";
import { RequestReader } from "./control/request-reader.js";
import { storedCommands } from "./control/stored-commands.js";
import { targetsOf } from "./control/targets.js";
import { anyConfiguredDriver } from "./driver-kinds.js";
import type { PartStatus } from "./health/health.js";
import { LogLimiter } from "./health/log-limiter.js";
import type { AgentLog } from "./log.js";
import type { Store } from "./store/store.js";

export interface ControlDeps {
  readonly config: AgentConfig;
  readonly load: LiveConfigOptions["load"];
  readonly version: string;
  readonly address: DeviceAddress;
  readonly store: Store;
  readonly trust: PeerTrust;
  readonly drivers: DriverSupervisor;
  readonly time: Pick<AgentTime, "now">;
  readonly clock: Clock;
  readonly log: AgentLog;
  readonly audit: AuditLog;
  readonly group: TaskGroup;
  /** What the device tells about itself is another. */
  readonly infoChanged: () => void;
}

export interface ControlParts {
  readonly live: LiveConfig;
  readonly desk: CommandDesk;
  health(): PartStatus[];
}

/** Joins what decides about commands: the configuration in effect, policy, desk and audit log. */
export function joinControl(deps: ControlDeps): ControlParts {
  const { config, load, version, address, store, trust, drivers, time, clock, log, audit, group, infoChanged } = deps;
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
      await drivers.configure(next.driver.map(anyConfiguredDriver), new Set());
      infoChanged();
    },
    onChange: (change) => void audit.append("config", { ...change, sha256: digestOf(live.config) }),
    log: log.child({ part: "config" }),
  });
  const desk = new CommandDesk({
    address,
    policy: () => policy,
    reader: new RequestReader({ us: config.atsign, address, trust, now }),
    store: storedCommands(store, address, () => now() ?? clock.now()),
    targets: targetsOf(drivers),
    ...{ audit, now, clock, group },
    log: log.child({ part: "control" }),
  });
  void audit.append("start", { version, config: digestOf(config) });
  return {
    live,
    desk,
    health: () => [
      ...live.health(),
      ...audit.health(),
      { name: "control", state: "ok", counters: desk.counters.values() },
    ],
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
