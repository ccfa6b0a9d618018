import { CommandRefused } from "../../core/command-errors.js";
import { EdgeError } from "../../core/errors.js";
import type { JsonObject } from "../../messages/json-field.js";
import type { AuditLog } from "../audit/audit-log.js";
import type { ConfigChange, LiveConfig } from "../config/live-config.js";
import { ConfigInvalid, type ParsedConfig } from "../config/parse.js";
import type { RemoteSettings } from "../config/remote-settings.js";
import { checkSettable, type Settings, type SettingValue } from "../config/settings.js";
import type { AgentHealth } from "../health/health.js";
import { printable } from "../log.js";
import type { LogRing } from "../log-ring.js";
import type { Policy } from "./policy.js";
import type { AgentTarget, AskedBy, TargetCommand } from "./targets.js";

export interface AgentCommandDeps {
  readonly version: string;
  readonly live: LiveConfig;
  readonly settings: RemoteSettings;
  /** The configuration file with these settings above it, checked. @throws {ConfigInvalid} */
  readonly check: (settings: Settings) => Promise<ParsedConfig>;
  /** What the file says, unchecked. @throws {ConfigInvalid} */
  readonly raw: () => Promise<unknown>;
  readonly policy: () => Policy;
  readonly audit: AuditLog;
  readonly logs: LogRing;
  readonly health: () => AgentHealth;
  readonly clock: () => JsonObject;
  readonly diagnose: (signal: AbortSignal) => Promise<unknown>;
  readonly cancel: (caller: string, id: string) => boolean;
  /** Ends the agent's work in a moment and begins it anew. */
  readonly restart: (by: string) => void;
}

type Run = (args: JsonObject, by: AskedBy, signal: AbortSignal) => unknown;

/** An answer must fit into a message, and its texts are escaped twice on the way. */
const MAX_CHARS = 40_000;
const LEVELS: Readonly<Record<string, number>> = { debug: 20, info: 30, warn: 40, error: 50 };

/** What the agent itself can be asked and told, as the commands of the target `agent`. */
export function agentCommands(deps: AgentCommandDeps): AgentTarget {
  const { live, settings, audit, logs, policy } = deps;
  const runs = new Map<string, Run>();
  const commands: TargetCommand[] = [];
  const define = (kind: "reads" | "acts", name: string, properties: JsonObject, required: string[], run: Run): void => {
    const argsSchema = { type: "object", properties, required, additionalProperties: false };
    commands.push({ name, argsSchema, idempotent: true, ...(kind === "reads" && { reads: true }) });
    runs.set(name, run);
  };

  define("reads", "state", {}, [], () => ({
    version: deps.version,
    uptimeS: Math.round(process.uptime()),
    rssBytes: process.memoryUsage.rss(),
    health: deps.health(),
    trial: trialOf(settings),
  }));
  define("reads", "clock", {}, [], deps.clock);
  define("reads", "policy-show", {}, [], () => policy().show());
  define("reads", "diag", {}, [], (_, __, signal) => deps.diagnose(signal));
  define("reads", "logs", { lines: integer(1, 1000), level: { enum: Object.keys(LEVELS) } }, [], ({ lines, level }) =>
    logs.last(Number(lines ?? 100), LEVELS[String(level)] ?? 0, MAX_CHARS),
  );
  define("reads", "audit", { from: integer(1, Number.MAX_SAFE_INTEGER) }, [], ({ from }) =>
    audit.page(Number(from ?? 1), MAX_CHARS),
  );
  define("reads", "config-get", {}, [], () => ({
    config: printable({ ...live.config }),
    set: settings.set,
    disabled: [...settings.disabled],
    trial: trialOf(settings),
    atRestart: live.atRestart,
  }));
  define("acts", "cancel", { id: { type: "string", maxLength: 64 } }, ["id"], ({ id }, { caller }) => ({
    underWay: deps.cancel(caller, String(id)),
  }));
  define("acts", "restart", {}, [], (_, { caller }) => (deps.restart(caller), { restarting: true }));
  define(
    "acts",
    "config-set",
    { set: { type: "object" }, withinS: integer(30, 86_400) },
    ["set"],
    async ({ set, withinS }, { caller }) => setConfig(deps, set as JsonObject, Number(withinS ?? 300) * 1000, caller),
  );
  define("acts", "config-keep", {}, [], async () => {
    if (!settings.trial) throw new CommandRefused("there are no settings on trial");
    await settings.keep();
    return { set: settings.set };
  });
  define("acts", "config-undo", {}, [], async (_, { caller }) => {
    if (!settings.trial) throw new CommandRefused("there are no settings on trial");
    await settings.rollBack();
    return changed(await live.reload(caller));
  });
  for (const [name, isDisabled] of Object.entries({ "driver-enable": false, "driver-disable": true }))
    define("acts", name, { driver: { type: "string", maxLength: 64 } }, ["driver"], async ({ driver }, { caller }) => {
      const id = String(driver);
      if (!live.config.driver.some((known) => known.id === id)) throw new CommandRefused(`there is no driver ${id}`);
      await settings.setDisabled(id, isDisabled);
      await live.applyAgain();
      void audit.append("config", { by: caller, [isDisabled ? "disabled" : "enabled"]: id });
      return { disabled: [...settings.disabled] };
    });

  return {
    commands,
    async call(command, args, by, signal) {
      const run = runs.get(command);
      if (!run) throw new CommandRefused(`no command ${command}`);
      try {
        return await run(args, by, signal);
      } catch (error) {
        // What fails here says so before it changes anything, or leaves what was there.
        if (!(error instanceof EdgeError) || error instanceof CommandRefused) throw error;
        throw new CommandRefused(error.message, { cause: error });
      }
    },
  };
}

/** Checked, kept on the disk with its countdown, and then put into effect. */
async function setConfig(
  deps: AgentCommandDeps,
  change: JsonObject,
  withinMs: number,
  by: string,
): Promise<JsonObject> {
  const { settings, live } = deps;
  if (settings.trial) throw new CommandRefused("settings are on trial already: config-keep or config-undo them first");
  const raw = await deps.raw();
  const merged = new Map<string, SettingValue>(Object.entries(settings.set));
  for (const [path, value] of Object.entries(change)) {
    checkSettable(raw, path);
    if (value === null) merged.delete(path);
    else if (typeof value === "number" || typeof value === "boolean" || typeof value === "string")
      merged.set(path, value);
    else throw new CommandRefused(`${path}: expected a number, a switch, a text, or null to take it back`);
  }
  const next = Object.fromEntries(merged);
  await deps.check(next);
  await settings.begin(next, by, withinMs);
  try {
    return { ...changed(await live.reload(by)), set: next, keepWithinS: withinMs / 1000 };
  } catch (error) {
    if (error instanceof ConfigInvalid) await settings.rollBack();
    throw error;
  }
}

const changed = ({ changed, atRestart }: ConfigChange): JsonObject => ({ changed, atRestart });

function trialOf(settings: RemoteSettings): JsonObject | null {
  const { trial, leftMs } = settings;
  return trial ? { by: trial.by, before: trial.before, leftS: Math.max(0, Math.round((leftMs ?? 0) / 1000)) } : null;
}

const integer = (minimum: number, maximum: number): JsonObject => ({ type: "integer", minimum, maximum });
