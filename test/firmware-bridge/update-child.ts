import { setTimeout as sleep } from "node:timers/promises";
import * as v from "valibot";
import { systemClock } from "../../core/clock.js";
import { type LogFields, silentLog } from "../../core/log.js";
import { openPort } from "../../drivers/serial/open-port.js";
import { linkSchema } from "../../firmware-bridge/link/config.js";
import { openLinkDriver } from "../../firmware-bridge/link/link-driver.js";

/**
 * An agent with one link driver, as a process to be killed: `update-child STATE_FOLDER CONFIG_JSON`. Opens the driver
 * again and again as a supervisor does, prints each step of an update, and its status every 100 ms.
 */
const [folder = "", config = ""] = process.argv.slice(2);
const print = (fields: LogFields, message: string): void => {
  if (message === "firmware update") process.stdout.write(`step ${String(fields["step"])}\n`);
};
const deps = {
  publish: async () => undefined,
  openPort,
  clock: systemClock,
  log: { ...silentLog, info: print },
  stateDir: async () => folder,
};
for (;;) {
  const stop = new AbortController();
  try {
    const driver = await openLinkDriver(v.parse(linkSchema, JSON.parse(config)), deps, stop.signal);
    const running = driver.run(stop.signal).catch(() => stop.abort());
    while (!stop.signal.aborted) {
      process.stdout.write(`status ${JSON.stringify(await driver.call("firmware-status", {}, stop.signal))}\n`);
      await sleep(100);
    }
    await running;
    await driver[Symbol.asyncDispose]();
  } catch {
    // The board is away: a moment later.
  }
  await sleep(100);
}
