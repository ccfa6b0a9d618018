import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import * as v from "valibot";
import { systemClock } from "../../core/clock.js";
import type { Driver } from "../../core/driver.js";
import { codeOf } from "../../core/errors.js";
import { type LogFields, silentLog } from "../../core/log.js";
import { openPort } from "../../drivers/serial/open-port.js";
import { linkSchema } from "../../firmware-bridge/link/config.js";
import { openLinkDriver } from "../../firmware-bridge/link/link-driver.js";
import { portThrough } from "./link-rig.js";

/**
 * An agent with one link driver, as a process to be killed: `update-child STATE_FOLDER CONFIG_JSON`. Opens the driver
 * again and again as a supervisor does, and prints each step of an update. Takes lines: `call ID COMMAND ARGS_JSON`,
 * answered by `answer ID JSON`, and `cut MS`, for a cable that is out for so long.
 */
const [folder = "", config = ""] = process.argv.slice(2);
const say = (line: string): void => void process.stdout.write(`${line}\n`);
let cutUntilMs = 0;
const pass = (bytes: Uint8Array): Uint8Array => (performance.now() < cutUntilMs ? new Uint8Array() : bytes);
const deps = {
  publish: async () => undefined,
  openPort: async (...port: Parameters<typeof openPort>) =>
    portThrough(await openPort(...port), { toBoard: pass, toHost: pass }),
  clock: systemClock,
  log: {
    ...silentLog,
    info: (fields: LogFields, message: string) => {
      if (message === "firmware update") say(`step ${String(fields["step"])}`);
    },
  },
  stateDir: async () => folder,
};

let driver: Driver | undefined;
const never = new AbortController().signal;
const lines = createInterface({ input: process.stdin });
lines.on("line", (line) => {
  const [what, id, command = "", args = "{}"] = line.split(" ");
  if (what === "cut") cutUntilMs = performance.now() + Number(id);
  else void answer(id ?? "", command, JSON.parse(args) as Record<string, unknown>);
});
lines.on("close", () => process.exit()); // whoever started it is gone

async function answer(id: string, command: string, args: Record<string, unknown>): Promise<void> {
  const outcome = driver
    ? await driver.call(command, args, never).then(
        (result) => ({ result }),
        (error: unknown) => ({ refused: codeOf(error) ?? String(error), message: String(error) }),
      )
    : { refused: "AWAY" };
  say(`answer ${id} ${JSON.stringify(outcome)}`);
}

for (;;) {
  try {
    await using opened = await openLinkDriver(v.parse(linkSchema, JSON.parse(config)), deps, never);
    driver = opened;
    await opened.run(never).finally(() => (driver = undefined));
  } catch {
    // The board is away: a moment later.
  }
  await sleep(50);
}
