import { randomBytes } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { systemClock } from "../core/clock.js";
import type { CommandDescription, DriverDeps, Reading, ReadingDescription } from "../core/driver.js";
import { codeOf, EdgeError } from "../core/errors.js";
import type { Log } from "../core/log.js";
import { ChildSignal, TaskGroup } from "../core/scope.js";
import { DriverSupervisor, type ConfiguredDriver } from "../drivers/supervisor.js";
import type { DriverState } from "../drivers/supervised-driver.js";
import { loadConfig } from "./config/load.js";
import { nearest } from "./config/nearest.js";
import { anyConfiguredDriver, type AnyDriverConfig } from "./driver-kinds.js";

/** No driver of the configuration has this id. */
export class DriverUnknown extends EdgeError {
  override readonly code: string = "ARGUMENT_INVALID";
}

export type TryEvent =
  | { readonly event: "note"; readonly text: string }
  | { readonly event: "state"; readonly state: DriverState; readonly code?: string; readonly reason?: string }
  | {
      readonly event: "declared";
      readonly readings: readonly ReadingDescription[] | undefined;
      readonly commands: readonly CommandDescription[];
    }
  | ({ readonly event: "reading"; readonly timeMs: number } & Reading)
  | { readonly event: "answer"; readonly command: string; readonly result: unknown }
  | { readonly event: "failed"; readonly command: string; readonly code: string; readonly message: string }
  | { readonly event: "log"; readonly message: string; readonly [field: string]: unknown }
  | { readonly event: "end"; readonly counters: Readonly<Record<string, number>> };

export interface TryOptions {
  readonly configFile: string;
  readonly id: string;
  /** Ends then; left out: when `stop` aborts, or the command has its answer. */
  readonly seconds?: number | undefined;
  /** Called once, as soon as the driver is open. */
  readonly command?: { readonly name: string; readonly args: Readonly<Record<string, unknown>> } | undefined;
  readonly tell: (event: TryEvent) => void;
}

const LOOK_MS = 50;
/** The supervisor says these, and they are told as states. */
const TOLD_AS_STATE = new Set(["driver running", "driver failed"]);

/**
 * Runs one driver of a configuration alone, under its supervisor but without outbox or platform, and tells what it
 * gives. What is acknowledged to a device is lost to the agent, so nothing is where that can be helped.
 *
 * @returns whether the driver was open, and its command, if there was one, was carried out.
 */
export async function tryDriver(options: TryOptions, stop: AbortSignal): Promise<boolean> {
  const { id, seconds, command, tell } = options;
  const { config } = await loadConfig(options.configFile);
  const table = config.driver.find((driver) => driver.id === id);
  if (!table) throw new DriverUnknown(unknownText(id, config.driver));
  const ownFolder = await mkdtemp(join(tmpdir(), "atedge-driver-test-"));
  await using session = new ChildSignal(stop);
  await using group = new TaskGroup(session.signal);
  try {
    if (table.type === "exec" || table.type === "link") {
      tell({ event: "note", text: "readings are shown, not kept: what the device forgets then is gone" });
    }
    let opened: () => void = () => undefined;
    const open = new Promise<void>((resolve) => (opened = resolve));
    const supervisor = new DriverSupervisor({
      drivers: [told(anyConfiguredDriver(harmless(table)), tell, () => opened())],
      publish: async (_, readings) => {
        for (const reading of readings) {
          tell({ event: "reading", ...reading, timeMs: reading.timeMs ?? systemClock.now() });
        }
      },
      // A board's pairing is in its folder; everything else starts from nothing.
      stateDir: table.type === "link" || table.type === "smp" ? join(config.stateDir, "drivers") : ownFolder,
      clock: systemClock,
      log: logTo(tell),
    });
    group.start((signal) => supervisor.run(signal));
    group.start((signal) => tellStates(supervisor, tell, signal));
    let succeeded = command === undefined;
    if (command) {
      group.start(async (signal) => {
        await open;
        succeeded = await tellAnswer(supervisor, id, command, tell, signal);
        if (seconds === undefined) session.abort();
      });
    }
    if (seconds !== undefined)
      group.start((signal) => systemClock.sleep(seconds * 1000, signal).then(() => session.abort()));
    await group.join();
    const counters = supervisor.health()[0]?.counters ?? {};
    tell({ event: "end", counters });
    return succeeded && (counters["opened"] ?? 0) > 0;
  } finally {
    await rm(ownFolder, { recursive: true, force: true });
  }
}

/** Without what would take messages, acknowledgements or a session from an agent that runs with the same table. */
function harmless(config: AnyDriverConfig): AnyDriverConfig {
  switch (config.type) {
    case "mqtt":
      return {
        ...config,
        clientId: `atedge-test-${randomBytes(4).toString("hex")}`,
        sessionExpirySeconds: 0,
        will: undefined,
      };
    case "serial":
      return { ...config, ack: undefined };
    default:
      return config;
  }
}

/** The driver, with what it declares told each time it opens. */
function told(configured: ConfiguredDriver, tell: TryOptions["tell"], opened: () => void): ConfiguredDriver {
  let before = "";
  return {
    ...configured,
    async open(deps: DriverDeps, signal: AbortSignal) {
      const driver = await configured.open(deps, signal);
      const { readings, commands } = driver;
      const now = JSON.stringify([readings, commands]);
      if (now !== before) tell({ event: "declared", readings, commands });
      before = now;
      setImmediate(opened);
      return driver;
    },
  };
}

async function tellStates(supervisor: DriverSupervisor, tell: TryOptions["tell"], signal: AbortSignal): Promise<void> {
  let before = "";
  while (!signal.aborted) {
    const { state, lastErrorCode, lastError } = supervisor.health()[0] ?? { state: "stopped" as const };
    const failed = state === "waiting" && lastErrorCode !== undefined && lastError !== undefined;
    const now = failed ? `${state} ${lastErrorCode}` : state;
    // A device that stays away is tried again and again: once is enough said.
    const again = state === "opening" && before.startsWith("waiting");
    if (now !== before && !again) {
      tell({ event: "state", state, ...(failed ? { code: lastErrorCode, reason: lastError } : {}) });
      before = now;
    }
    await systemClock.sleep(LOOK_MS, signal);
  }
}

async function tellAnswer(
  supervisor: DriverSupervisor,
  id: string,
  { name, args }: NonNullable<TryOptions["command"]>,
  tell: TryOptions["tell"],
  signal: AbortSignal,
): Promise<boolean> {
  try {
    tell({ event: "answer", command: name, result: await supervisor.call(id, name, args, signal) });
    return true;
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    tell({ event: "failed", command: name, code: codeOf(error) ?? "INTERNAL", message });
    return false;
  }
}

function logTo(tell: TryOptions["tell"]): Log {
  const say = (fields: Readonly<Record<string, unknown>>, message: string): void => {
    if (TOLD_AS_STATE.has(message) && fields["err"] === undefined) return;
    const err = fields["err"];
    tell({ event: "log", ...fields, ...(err instanceof Error ? { err: err.stack ?? err.message } : {}), message });
  };
  const log: Log = { debug: () => undefined, info: say, warn: say, error: say, child: () => log };
  return log;
}

function unknownText(id: string, drivers: readonly AnyDriverConfig[]): string {
  const ids = drivers.map((driver) => driver.id);
  const guess = nearest(id, ids);
  const hint = guess === undefined ? `there is ${ids.join(", ") || "none"}` : `did you mean ${guess}?`;
  return `no driver has the id ${JSON.stringify(id)}; ${hint}`;
}
