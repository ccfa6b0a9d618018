import { access, readdir, readFile, statfs } from "node:fs/promises";
import { join } from "node:path";
import type { DriverDeps, OpenDriver, Reading, ReadingDescription } from "../../core/driver.js";
import { commandNamed } from "../configured-command.js";
import { namePart } from "../field-readings.js";
import { parseLifeTime, parsePreEol, parseReadOnly, parseThrottled, parseWrittenBytes } from "./board.js";
import type { HostConfig } from "./config.js";
import { readFailedUnits } from "./failed-units.js";
import {
  cpuBusyShare,
  parseCpuTimes,
  parseLoad,
  parseMemory,
  parseNetwork,
  parseUptime,
  type CpuTimes,
} from "./proc.js";

/** All that there may be; a machine has some of it. */
const READINGS: readonly ReadingDescription[] = [
  { name: "cpu.temperature", unit: "Cel", type: "number" },
  { name: "thermal.*", unit: "Cel", type: "number" },
  { name: "cpu.busy", unit: "%", type: "number" },
  { name: "load.1m", type: "number" },
  { name: "load.5m", type: "number" },
  { name: "memory.available", unit: "B", type: "number" },
  { name: "memory.used", unit: "%", type: "number" },
  { name: "uptime", unit: "s", type: "number" },
  { name: "disk.*.free", unit: "B", type: "number" },
  { name: "disk.*.used", unit: "%", type: "number" },
  { name: "disk.*.readOnly", type: "boolean" },
  { name: "disk.*.written", unit: "B", type: "number" },
  { name: "disk.*.worn", unit: "%", type: "number" },
  { name: "disk.*.preEol", type: "number" },
  { name: "disk.*.errors", unit: "count", type: "number" },
  { name: "net.*.received", unit: "B", type: "number" },
  { name: "net.*.sent", unit: "B", type: "number" },
  { name: "net.*.errors", unit: "count", type: "number" },
  { name: "pi.*", type: "boolean" },
  { name: "systemd.failed", unit: "count", type: "number" },
  { name: "systemd.failedUnits", type: "string" },
];

/** What this machine tells of itself, once every `intervalMs`. A file that is missing or odd gives no reading. */
export const openHost: OpenDriver<HostConfig> = async (config, deps) => {
  const probe = new HostProbe(config, deps);
  return {
    id: config.id,
    readings: READINGS,
    commands: [],
    counters: () => ({ unreadable: probe.unreadable }),

    async run(stop) {
      while (!stop.aborted) {
        const readings = await probe.read(stop);
        if (readings.length > 0) await deps.publish(readings);
        await deps.clock.sleep(config.intervalMs, stop).catch(() => undefined);
      }
    },

    async call(command) {
      return commandNamed([], command);
    },

    async [Symbol.asyncDispose]() {},
  };
};

type Add = (name: string, value: Reading["value"] | undefined, unit?: string) => void;

class HostProbe {
  readonly #config: HostConfig;
  readonly #deps: DriverDeps;
  #cpuBefore: CpuTimes | undefined;
  #unitsAtMs = -Infinity;
  unreadable = 0;

  constructor(config: HostConfig, deps: DriverDeps) {
    this.#config = config;
    this.#deps = deps;
  }

  async read(signal: AbortSignal): Promise<Reading[]> {
    const timeMs = this.#deps.clock.now();
    const readings: Reading[] = [];
    const add: Add = (name, value, unit) => {
      if (value === undefined || (typeof value === "number" && !Number.isFinite(value))) return;
      readings.push({ name, value, timeMs, ...(unit === undefined ? {} : { unit }) });
    };
    await this.#temperatures(add);
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
    await this.#fileSystems(add);
    await this.#blockDevices(add);
    await this.#network(add);
    for (const folder of await this.#names("sys/devices/platform", /^soc/u)) {
      for (const firmware of await this.#names(`sys/devices/platform/${folder}`, /firmware$/u)) {
        const text = await this.#optional(`sys/devices/platform/${folder}/${firmware}/get_throttled`);
        for (const { name, value } of parseThrottled(text)) add(`pi.${name}`, value);
      }
    }
    await this.#failedUnits(add, signal);
    return readings;
  }

  /** The zone of the processor is `cpu.temperature`, any other has its type in the name; thousandths of a degree. */
  async #temperatures(add: Add): Promise<void> {
    let hasCpu = false;
    for (const zone of await this.#names("sys/class/thermal", /^thermal_zone/u)) {
      const text = await this.#text(`sys/class/thermal/${zone}/temp`);
      if (!/^-?\d{1,7}\s*$/u.test(text)) continue;
      const type = (await this.#text(`sys/class/thermal/${zone}/type`)).trim();
      const isCpu: boolean = !hasCpu && /cpu|x86_pkg_temp|soc/iu.test(type);
      hasCpu ||= isCpu;
      const name = isCpu ? "cpu.temperature" : `thermal.${namePart(`${zone.slice(12)}-${type || "zone"}`)}`;
      add(name, Number(text) / 1000, "Cel");
    }
  }

  async #fileSystems(add: Add): Promise<void> {
    const mounts = await this.#optional("proc/mounts");
    for (const folder of this.#config.disks) {
      const part = folder === "/" ? "root" : namePart(folder.replace(/^\/+/u, "").replaceAll("/", "-"));
      add(`disk.${part}.readOnly`, parseReadOnly(mounts, folder));
      try {
        const { bsize, blocks, bavail } = await statfs(folder);
        add(`disk.${part}.free`, bavail * bsize, "B");
        add(`disk.${part}.used`, blocks === 0 ? 0 : (1 - bavail / blocks) * 100, "%");
      } catch {
        this.unreadable += 1;
      }
    }
  }

  /** Whole disks and cards, not their parts; errors are counted by ext4 for each part. */
  async #blockDevices(add: Add): Promise<void> {
    for (const disk of await this.#names("sys/block", /^(?:mmcblk\d+|sd[a-z]+|nvme\d+n\d+|vd[a-z]+)$/u)) {
      const folder = `sys/block/${disk}`;
      add(`disk.${disk}.written`, parseWrittenBytes(await this.#optional(`${folder}/stat`)), "B");
      add(`disk.${disk}.worn`, parseLifeTime(await this.#optional(`${folder}/device/life_time`)), "%");
      add(`disk.${disk}.preEol`, parsePreEol(await this.#optional(`${folder}/device/pre_eol_info`)));
    }
    for (const part of await this.#names("sys/fs/ext4", /^(?!features$)/u)) {
      const count = (await this.#optional(`sys/fs/ext4/${part}/errors_count`)).trim();
      if (/^\d{1,9}$/u.test(count)) add(`disk.${namePart(part)}.errors`, Number(count), "count");
    }
  }

  async #network(add: Add): Promise<void> {
    const counts = parseNetwork(await this.#optional("proc/net/dev"));
    for (const [name, { receivedBytes, sentBytes, errors }] of counts) {
      if (!(this.#config.interfaces?.includes(name) ?? (await this.#exists(`sys/class/net/${name}/device`)))) continue;
      add(`net.${namePart(name)}.received`, receivedBytes, "B");
      add(`net.${namePart(name)}.sent`, sentBytes, "B");
      add(`net.${namePart(name)}.errors`, errors, "count");
    }
  }

  /** Only where systemd is the init system (sd_booted(3)). */
  async #failedUnits(add: Add, signal: AbortSignal): Promise<void> {
    const nowMs = this.#deps.clock.monotonicMs();
    if (nowMs - this.#unitsAtMs < this.#config.unitsIntervalMs || !(await this.#exists("run/systemd/system"))) return;
    this.#unitsAtMs = nowMs;
    const units = await readFailedUnits(join(this.#config.root, "usr/bin/systemctl"), signal);
    if (!units) {
      this.unreadable += 1;
      return;
    }
    add("systemd.failed", units.length, "count");
    add("systemd.failedUnits", units.join(" ").slice(0, 1024));
  }

  /** A file that every Linux has. */
  async #text(path: string): Promise<string> {
    try {
      return await readFile(join(this.#config.root, path), "utf8");
    } catch {
      this.unreadable += 1;
      return "";
    }
  }

  async #optional(path: string): Promise<string> {
    return readFile(join(this.#config.root, path), "utf8").catch(() => "");
  }

  async #exists(path: string): Promise<boolean> {
    return access(join(this.#config.root, path)).then(
      () => true,
      () => false,
    );
  }

  async #names(folder: string, pattern: RegExp): Promise<string[]> {
    const names = await readdir(join(this.#config.root, folder)).catch(() => []);
    return names.filter((name) => pattern.test(name)).sort();
  }
}
