import { readdir, readFile, readlink, stat } from "node:fs/promises";
import { join } from "node:path";

/** A process that has a port open. */
export interface PortHolder {
  readonly pid: number;
  /** Its name, at most 15 characters. */
  readonly name: string;
}

/**
 * Who has the ports open: by open files, which only root sees of others, and by locks (flock), which everybody sees.
 * `proc` is another folder than /proc in tests only.
 */
export async function holdersOf(paths: readonly string[], proc = "/proc"): Promise<ReadonlyMap<string, PortHolder>> {
  const pids = new Map<string, number>();
  const locks = await readFile(join(proc, "locks"), "utf8").catch(() => "");
  for (const path of paths) {
    const info = await stat(path).catch(() => undefined);
    const pid = info && lockHolder(locks, info.dev, info.ino);
    if (pid !== undefined) pids.set(path, pid);
  }
  for (const pid of (await readdir(proc).catch(() => [])).filter((name) => /^\d+$/u.test(name))) {
    const folder = join(proc, pid, "fd");
    for (const fd of await readdir(folder).catch(() => [])) {
      const target = await readlink(join(folder, fd)).catch(() => "");
      if (paths.includes(target)) pids.set(target, Number(pid));
    }
  }
  const holders = new Map<string, PortHolder>();
  for (const [path, pid] of pids) {
    const name = (await readFile(join(proc, String(pid), "comm"), "utf8").catch(() => "")).trim();
    holders.set(path, { pid, name });
  }
  return holders;
}

/** From a line such as `3: FLOCK  ADVISORY  WRITE 4711 00:05:1234 0 EOF` (proc_locks(5)). */
export function lockHolder(locks: string, dev: number, inode: number): number | undefined {
  const hex = (number: number): string => number.toString(16).padStart(2, "0");
  // glibc's gnu_dev_major and gnu_dev_minor, for numbers of 32 bits.
  const file = `${hex((dev >>> 8) & 0xfff)}:${hex((dev & 0xff) | ((dev >>> 12) & 0xfff00))}:${inode}`;
  for (const line of locks.split("\n")) {
    const fields = line.trim().split(/\s+/u);
    if (fields[1] === "FLOCK" && fields[5] === file && /^[1-9]\d*$/u.test(fields[4] ?? "")) return Number(fields[4]);
  }
  return undefined;
}
