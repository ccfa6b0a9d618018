/** Processor time since boot in clock ticks, summed over all processors (proc(5), /proc/stat). */
export interface CpuTimes {
  readonly busyTicks: number;
  readonly totalTicks: number;
}

export function parseCpuTimes(stat: string): CpuTimes | undefined {
  const line = /^cpu +(?<ticks>[\d ]+)$/mu.exec(stat)?.groups?.["ticks"];
  if (line === undefined) return undefined;
  const ticks = line.split(" ").map(Number);
  // user nice system idle iowait irq softirq steal; guest times are in user already.
  const [user = 0, nice = 0, system = 0, idle = 0, iowait = 0, irq = 0, softirq = 0, steal = 0] = ticks;
  const busyTicks = user + nice + system + irq + softirq + steal;
  return { busyTicks, totalTicks: busyTicks + idle + iowait };
}

/** Percent of the time between the two that the processors were busy; `undefined` when no time passed. */
export function cpuBusyShare(before: CpuTimes, now: CpuTimes): number | undefined {
  const totalTicks = now.totalTicks - before.totalTicks;
  return totalTicks > 0 ? ((now.busyTicks - before.busyTicks) / totalTicks) * 100 : undefined;
}

export function parseLoad(loadavg: string): { readonly oneMinute: number; readonly fiveMinutes: number } | undefined {
  const groups = /^(?<one>\d+\.\d+) (?<five>\d+\.\d+) /u.exec(loadavg)?.groups;
  return groups ? { oneMinute: Number(groups["one"]), fiveMinutes: Number(groups["five"]) } : undefined;
}

export function parseMemory(
  meminfo: string,
): { readonly totalBytes: number; readonly availableBytes: number } | undefined {
  const totalKib = /^MemTotal: +(?<kib>\d+) kB$/mu.exec(meminfo)?.groups?.["kib"];
  const availableKib = /^MemAvailable: +(?<kib>\d+) kB$/mu.exec(meminfo)?.groups?.["kib"];
  if (totalKib === undefined || availableKib === undefined || Number(totalKib) === 0) return undefined;
  return { totalBytes: Number(totalKib) * 1024, availableBytes: Number(availableKib) * 1024 };
}

/** Seconds since boot. */
export function parseUptime(uptime: string): number | undefined {
  const seconds = /^(?<seconds>\d+\.\d+) /u.exec(uptime)?.groups?.["seconds"];
  return seconds === undefined ? undefined : Number(seconds);
}

/** What an interface has carried since boot. */
export interface NetworkCounts {
  readonly receivedBytes: number;
  readonly sentBytes: number;
  readonly errors: number;
}

/** The interfaces of /proc/net/dev by name. */
export function parseNetwork(dev: string): ReadonlyMap<string, NetworkCounts> {
  const found = new Map<string, NetworkCounts>();
  for (const line of dev.split("\n")) {
    const { name, counts } = /^\s*(?<name>[^\s:]{1,15}):\s*(?<counts>\d+(?:\s+\d+){15})\s*$/u.exec(line)?.groups ?? {};
    if (name === undefined || counts === undefined) continue;
    const [receivedBytes = 0, , receiveErrors = 0, , , , , , sentBytes = 0, , sendErrors = 0] = counts
      .split(/\s+/u)
      .map(Number);
    found.set(name, { receivedBytes, sentBytes, errors: receiveErrors + sendErrors });
  }
  return found;
}
