import { readdir, readFile, statfs } from "node:fs/promises";
import { join } from "node:path";
import type { DriverDeps, OpenDriver, Reading } from "../../core/driver.js";
import { commandNamed } from "../configured-command.js";
import { namePart } from "../field-readings.js";
import type { HostConfig } from "./config.js";
import { cpuBusyShare, parseCpuTimes, parseLoad, parseMemory, parseUptime, type CpuTimes } from "./proc.js";

/** What this machine tells of itself, once every `intervalMs`. A file that is missing or odd gives no reading. */
export const openHost: OpenDriver<HostConfig> = async (config, deps) => {
  const probe = new HostProbe(config, deps);
  return {
    id: config.id,
    commands: [],
    counters: () => ({ unreadable: probe.unreadable }),

    async run(stop) {
      while (!stop.aborted) {
        await deps.publish(await probe.read());
        await deps.clock.sleep(config.intervalMs, stop).catch(() => undefined);
      }
    },

    async call(command) {
      return commandNamed([], command);
    },

    async [Symbol.asyncDispose]() {},
  };
};

class HostProbe {
  readonly #config: HostConfig;
  readonly #deps: DriverDeps;
  #cpuBefore: CpuTimes | undefined;
  unreadable = 0;

  constructor(config: HostConfig, deps: DriverDeps) {
    this.#config = config;
    this.#deps = deps;
  }

  async read(): Promise<Reading[]> {
    const timeMs = this.#deps.clock.now();
    const readings: Reading[] = [];
    const add = (name: string, value: number | undefined, unit?: string): void => {
      if (value === undefined || !Number.isFinite(value)) return;
      readings.push({ name, value, timeMs, ...(unit === undefined ? {} : { unit }) });
    };
    for (const { name, degreesCel } of await this.#temperatures()) add(name, degreesCel, "Cel");
    const cpu = parseCpuTimes(await this.#text("proc/stat"));
    if (cpu && this.#cpuBefore) add("cpu.busy", cpuBusyShare(this.#cpuBefore, cpu), "%");
    this.#cpuBefore = cpu;
    const load = parseLoad(await this.#text("proc/loadavg"));
    add("load.1m", load?.oneMinute);
    add("load.5m", load?.fiveMinutes);
    const memory = parseMemory(await this.#text("proc/meminfo"));
    add("memory.available", memory?.availableBytes, "B");
    add("memory.used", memory && (1 - memory.availableBytes / memory.totalBytes) * 100, "%");
    add("uptime", parseUptime(await this.#text("proc/uptime")), "s");
    for (const folder of this.#config.disks) {
      const disk = await this.#disk(folder);
      const part = folder === "/" ? "root" : namePart(folder.replace(/^\/+/u, "").replaceAll("/", "-"));
      add(`disk.${part}.free`, disk?.freeBytes, "B");
      add(`disk.${part}.used`, disk?.usedPercent, "%");
    }
    return readings;
  }

  /** The zone of the processor is `cpu.temperature`, any other has its type in the name; thousandths of a degree. */
  async #temperatures(): Promise<{ readonly name: string; readonly degreesCel: number }[]> {
    const zones = await readdir(join(this.#config.root, "sys/class/thermal")).catch(() => []);
    const found: { name: string; degreesCel: number }[] = [];
    for (const zone of zones.filter((name) => name.startsWith("thermal_zone")).sort()) {
      const text = await this.#text(`sys/class/thermal/${zone}/temp`);
      if (!/^-?\d{1,7}\s*$/u.test(text)) continue;
      const type = (await this.#text(`sys/class/thermal/${zone}/type`)).trim();
      const isCpu = /cpu|x86_pkg_temp|soc/iu.test(type) && !found.some(({ name }) => name === "cpu.temperature");
      const name = isCpu ? "cpu.temperature" : `thermal.${namePart(`${zone.slice(12)}-${type || "zone"}`)}`;
      found.push({ name, degreesCel: Number(text) / 1000 });
    }
    return found;
  }

  async #text(path: string): Promise<string> {
    try {
      return await readFile(join(this.#config.root, path), "utf8");
    } catch {
      this.unreadable += 1;
      return "";
    }
  }

  async #disk(folder: string): Promise<{ readonly freeBytes: number; readonly usedPercent: number } | undefined> {
    try {
      const { bsize, blocks, bavail } = await statfs(folder);
      return { freeBytes: bavail * bsize, usedPercent: blocks === 0 ? 0 : (1 - bavail / blocks) * 100 };
    } catch {
      this.unreadable += 1;
      return undefined;
    }
  }
}
