import type { OpenDriver } from "../../core/driver.js";
import { ChildSignal } from "../../core/scope.js";
import { commandNamed } from "../configured-command.js";
import { readingValue } from "../field-readings.js";
import { InOrder } from "../in-order.js";
import type { SimulatedConfig } from "./config.js";

const COMMANDS = [
  {
    name: "set",
    argsSchema: {
      type: "object",
      properties: { value: { type: "number" } },
      required: ["value"],
      additionalProperties: false,
    },
    idempotent: true,
    readBack: "get",
  },
  { name: "free", argsSchema: { type: "object", additionalProperties: false }, idempotent: true },
  { name: "get", argsSchema: { type: "object", additionalProperties: false }, idempotent: true },
] as const;

/** Readings on their way into the outbox. */
const MAX_PENDING = 1000;

/** Readings out of thin air: a sine, a square wave, a random walk, or what was recorded once. */
export const openSimulated: OpenDriver<SimulatedConfig> = async (config, deps, signal) => {
  if (config.file !== undefined) {
    const { openReplay } = await import("./replay.js");
    return openReplay({ ...config, file: config.file }, deps, signal);
  }
  const unit = config.unit === undefined ? {} : { unit: config.unit };
  let held: number | undefined;
  let last = config.mean;
  const next = (): number => (last = held ?? shaped(config, deps.clock.now(), last));

  return {
    id: config.id,
    readings: [{ name: config.name, type: "number", class: config.class, ...unit }],
    commands: COMMANDS,

    async run(stop) {
      await using session = new ChildSignal(stop);
      const { signal } = session;
      const pending = new InOrder((error) => session.abort(error));
      while (!signal.aborted) {
        const reading = { name: config.name, value: next(), timeMs: deps.clock.now(), class: config.class };
        // The next one is due whether this one is safe or not.
        pending.add(deps.publish([{ ...reading, ...unit }]), 1, () => undefined);
        await pending.atMost(MAX_PENDING - 1, signal).catch(() => undefined);
        await deps.clock.sleep(config.intervalMs, signal).catch(() => undefined);
      }
      if (!stop.aborted) throw signal.reason;
    },

    async call(name, args) {
      const command = commandNamed(COMMANDS, name).name;
      const value = readingValue(args["value"]);
      if (command === "set" && typeof value === "number") last = held = value;
      if (command === "free") held = undefined;
      return { value: last };
    },

    async [Symbol.asyncDispose]() {},
  };
};

function shaped({ shape, mean, amplitude, periodMs }: SimulatedConfig, nowMs: number, last: number): number {
  const turn = (nowMs % periodMs) / periodMs;
  switch (shape) {
    case "sine":
      return mean + amplitude * Math.sin(2 * Math.PI * turn);
    case "square":
      return turn < 0.5 ? mean + amplitude : mean - amplitude;
    case "replay":
    case "walk": {
      const step = (Math.random() - 0.5) * (amplitude / 5);
      return Math.min(mean + amplitude, Math.max(mean - amplitude, last + step));
    }
  }
}
