import { constants } from "node:fs";
import { open } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { CONNECTED_MARK } from "../../core/update-request.js";
import type { RunCommand } from "./commands.js";
import type { Services } from "./updater.js";

const OURS = ["atedge.service", "atedge-platform.service", "atedge-collect.service"];
const AGENT = "atedge.service";
const LOOK_EVERY_MS = 500;
/** So long a service must have run without a restart. */
const STEADY_MS = 10_000;
const MAX_MARK_BYTES = 4096;

export interface ServicesOptions {
  readonly run: RunCommand;
  readonly healthyWithinMs: number;
  /** The agent's runtime folder. */
  readonly runtimeDir: string;
}

/** Our services, as systemd sees them. */
export function systemdServices({ run, healthyWithinMs, runtimeDir }: ServicesOptions): Services {
  const show = async (service: string, property: string): Promise<string> =>
    (await run("systemctl", "show", "-P", property, service)).trim();

  /** Which process runs steadily; `undefined` when it does not, or is the wrong version. */
  async function workingPid(service: string, version: string): Promise<string | undefined> {
    if ((await show(service, "ActiveState")) !== "active") return undefined;
    const pid = await show(service, "MainPID");
    if (service !== AGENT) return pid;
    const mark = await readMark(`${runtimeDir}/${CONNECTED_MARK}`);
    return mark?.version === version && String(mark.pid) === pid ? pid : undefined;
  }

  return {
    async running() {
      const states = await Promise.all(OURS.map((service) => show(service, "ActiveState")));
      return OURS.filter((_, index) => ["active", "activating", "reloading"].includes(states[index] ?? ""));
    },

    async restart(services) {
      if (services.length > 0) await run("systemctl", "restart", "--no-block", ...services);
    },

    async becomeHealthy(services, version) {
      const untilMs = performance.now() + healthyWithinMs;
      let last = "";
      let sinceMs = performance.now();
      while (performance.now() < untilMs) {
        const pids = await Promise.all(services.map((service) => workingPid(service, version)));
        const now = pids.join(" ");
        if (now !== last) sinceMs = performance.now();
        last = now;
        if (!pids.includes(undefined) && performance.now() - sinceMs >= STEADY_MS) return true;
        await sleep(LOOK_EVERY_MS);
      }
      return false;
    },
  };
}

/** Written by the agent's user: taken for no more than it is. */
async function readMark(path: string): Promise<{ readonly version?: unknown; readonly pid?: unknown } | undefined> {
  try {
    const file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    try {
      const { bytesRead, buffer } = await file.read(Buffer.alloc(MAX_MARK_BYTES));
      const value: unknown = JSON.parse(buffer.toString("utf8", 0, bytesRead));
      return typeof value === "object" && value !== null ? value : undefined;
    } finally {
      await file.close();
    }
  } catch {
    return undefined;
  }
}
