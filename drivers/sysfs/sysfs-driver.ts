import { access, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { CommandRefused } from "../../core/command-errors.js";
import type { CommandDescription, OpenDriver, Reading } from "../../core/driver.js";
import { codeOf } from "../../core/errors.js";
import { commandNamed } from "../configured-command.js";
import type { SysfsConfig } from "./config.js";
import { readHwmon, readIio, readW1 } from "./sensors.js";

const READERS = { iio: readIio, hwmon: readHwmon, w1: readW1 } as const;

/** What the kernel shows, by the keys of {@link SysfsConfig}; sensors may come and go. */
export const openSysfs: OpenDriver<SysfsConfig> = async (config, deps) => {
  const commands = commandsOf(config);
  let rounds = 0;
  return {
    id: config.id,
    readings: config.kinds.map((kind) => ({ name: `${kind}.*`, type: "number" })),
    commands,
    counters: () => ({ rounds }),

    async run(stop) {
      while (!stop.aborted) {
        const timeMs = deps.clock.now();
        const all: Reading[] = [];
        for (const kind of config.kinds) all.push(...(await READERS[kind](config.root, timeMs)));
        if (all.length > 0) await deps.publish(all);
        rounds += 1;
        await deps.clock.sleep(config.intervalMs, stop).catch(() => undefined);
      }
    },

    async call(name, args) {
      commandNamed(commands, name);
      return name === "led" ? setLed(config, args) : setPwm(config, args);
    },

    async [Symbol.asyncDispose]() {},
  };
};

function commandsOf({ leds, pwm }: SysfsConfig): readonly CommandDescription[] {
  const command = (name: string, output: readonly string[], value: object): CommandDescription => ({
    name,
    idempotent: true,
    argsSchema: {
      type: "object",
      properties: { output: { type: "string", enum: output }, ...value },
      required: ["output", ...Object.keys(value)],
      additionalProperties: false,
    },
  });
  const share = { type: "number", minimum: 0, maximum: 1 };
  return [
    ...(leds.length > 0 ? [command("led", leds, { brightness: share })] : []),
    ...(pwm.length > 0
      ? [
          command(
            "pwm",
            pwm.map(({ name }) => name),
            { duty: share },
          ),
        ]
      : []),
  ];
}

async function setLed({ root, leds }: SysfsConfig, args: Readonly<Record<string, unknown>>): Promise<unknown> {
  const { output, brightness } = args;
  if (typeof output !== "string" || !leds.includes(output))
    throw new CommandRefused("output: expected a configured LED");
  const folder = join(root, "class", "leds", output);
  const max = Number(await read(join(folder, "max_brightness")));
  await write(join(folder, "brightness"), String(Math.round(Number(brightness) * max)));
  return { brightness: Number(await read(join(folder, "brightness"))) / max };
}

async function setPwm({ root, pwm }: SysfsConfig, args: Readonly<Record<string, unknown>>): Promise<unknown> {
  const found = pwm.find(({ name }) => name === args["output"]);
  if (!found) throw new CommandRefused("output: expected a configured PWM");
  const chip = join(root, "class", "pwm", `pwmchip${found.chip}`);
  const folder = join(chip, `pwm${found.channel}`);
  const there = await access(folder).then(
    () => true,
    () => false,
  );
  if (!there) await write(join(chip, "export"), String(found.channel));
  // A period below the duty that is set would be refused, so the duty is 0 in between.
  await write(join(folder, "duty_cycle"), "0");
  await write(join(folder, "period"), String(found.periodNs));
  await write(join(folder, "duty_cycle"), String(Math.round(found.periodNs * Number(args["duty"]))));
  await write(join(folder, "enable"), "1");
  return { duty: Number(await read(join(folder, "duty_cycle"))) / found.periodNs };
}

async function read(file: string): Promise<string> {
  return readFile(file, "utf8").catch((cause: unknown) => refuse(file, cause));
}

async function write(file: string, text: string): Promise<void> {
  // Never made: what is not there is no output.
  await writeFile(file, text, { flag: "r+" }).catch((cause: unknown) => refuse(file, cause));
}

function refuse(file: string, cause: unknown): never {
  throw new CommandRefused(`${file}: ${codeOf(cause) ?? "cannot be used"}`, { cause });
}
