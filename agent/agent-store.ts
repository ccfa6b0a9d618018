import { existsSync } from "node:fs";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import type { Clock } from "../core/clock.js";
import { codeOf, EdgeError } from "../core/errors.js";
import type { Log } from "../core/log.js";
import { ChildSignal } from "../core/scope.js";
import type { AgentTime } from "./agent-time.js";
import type { AgentConfig } from "./config/parse.js";
import { diskWorks, memoryFolder, pinsOf } from "./memory-folder.js";
import type { Pin } from "./store/pins.js";
import type { SpaceOptions } from "./store/space.js";
import { openStore, type Store, type StoreOptions } from "./store/store.js";
import type { OutboxClass } from "./store/stream-rows.js";
import { isBroken, isCorrupt, StoreBroken } from "./store/writes.js";

/** The state folder cannot be used. */
export class StateDirUnusable extends EdgeError {
  override readonly code = "STATE_DIR_UNUSABLE";
}

export interface AgentStoreDeps {
  readonly clock: Clock;
  readonly time: AgentTime;
  readonly log: Log;
  readonly enrolledAnew: boolean;
}

export type StoreConfig = Pick<AgentConfig, "stateDir" | "outbox" | "durability" | "reader">;

const OUTBOX_CLASSES: readonly OutboxClass[] = ["alarm", "answer", "event", "measurement"];
const PROBE_EVERY_MS = 30_000;
/** A store that breaks twice within this time is not worth opening at once. */
const SOON_MS = 60_000;
/** By these the system says that the disk is at fault, not the way that it was named or who may use it. */
const DISK_FAULTS = new Set(["EIO", "EROFS", "ENOSPC", "EDQUOT", "ENXIO", "ENODEV", "SQLITE_FULL", "OUTBOX_FULL"]);

/**
 * Runs `work` with the agent's store until it returns because `stop` has aborted. When the store breaks, `work` is run
 * again with one that was opened anew; while the disk cannot be used, with one in memory, from which what nobody has
 * receipted goes to the disk when that is back.
 *
 * @throws {StateDirUnusable}, what {@link openStore} throws, and what `work` throws but for a broken store.
 */
export async function withAgentStore(
  config: StoreConfig,
  deps: AgentStoreDeps,
  work: (store: Store, signal: AbortSignal) => Promise<void>,
  stop: AbortSignal,
): Promise<void> {
  const keeper = new StoreKeeper(config, deps);
  while (!stop.aborted) {
    await using store = await keeper.open();
    await using round = new ChildSignal(stop);
    const back = store.health.inMemory ? keeper.diskIsBack(round.signal) : undefined;
    const watching = back?.then(
      () => round.abort(),
      () => undefined, // we did not wait to the end
    );
    try {
      await work(store, round.signal);
    } catch (error) {
      if (!keeper.takes(error, store)) throw error;
    } finally {
      round.abort();
      await watching;
    }
  }
}

class StoreKeeper {
  readonly #config: StoreConfig;
  readonly #deps: AgentStoreDeps;
  #damaged = false;
  #brokeMs = -Infinity;
  #brokeAgain: unknown;
  #pins: readonly Pin[] | undefined;

  constructor(config: StoreConfig, deps: AgentStoreDeps) {
    this.#config = config;
    this.#deps = deps;
  }

  async open(): Promise<Store> {
    try {
      if (this.#brokeAgain !== undefined) throw this.#brokeAgain;
      const store = await openStore(this.#options(this.#config.stateDir));
      this.#damaged = false;
      await this.#fetchFromMemory(store);
      this.#pins = store.pins.all();
      return store;
    } catch (cause) {
      return await this.#openInMemory(cause);
    }
  }

  /** Whether `work` ended because the store broke: then it is opened anew, or soon after another time, in memory. */
  takes(error: unknown, store: Store): boolean {
    if (!store.isBrokenBy(error)) return false;
    const { clock, log } = this.#deps;
    const nowMs = clock.monotonicMs();
    this.#damaged = isCorrupt(error instanceof StoreBroken ? error.cause : error);
    this.#brokeAgain = nowMs - this.#brokeMs < SOON_MS ? error : undefined;
    this.#brokeMs = nowMs;
    try {
      this.#pins = store.pins.all();
    } catch {
      // Those of its beginning have to do.
    }
    log.error({ err: error }, "the outbox is opened anew");
    return true;
  }

  /** Resolves when the disk can be used again. */
  async diskIsBack(signal: AbortSignal): Promise<void> {
    do await this.#deps.clock.sleep(PROBE_EVERY_MS, signal);
    while (!(await diskWorks(this.#config.stateDir)));
    this.#deps.log.info({}, "the disk can be used again");
  }

  async #openInMemory(cause: unknown): Promise<Store> {
    this.#brokeAgain = undefined;
    const { stateDir, outbox } = this.#config;
    const code = codeOf(cause);
    const isDisk = code !== undefined && (DISK_FAULTS.has(code) || isBroken(cause) || cause instanceof StoreBroken);
    if (!isDisk && (cause instanceof EdgeError || code === undefined)) throw cause;
    const folder = isDisk && outbox.memoryBytes > 0 ? await memoryFolder(stateDir, process.env, "make") : undefined;
    if (folder === undefined) {
      const what = `the state folder ${stateDir} cannot be used (${code})`;
      throw new StateDirUnusable(`${what}: make it writable for this user, or name another with stateDir`, { cause });
    }
    this.#deps.log.error(
      { err: cause, stateDir, memoryBytes: outbox.memoryBytes },
      "the disk cannot be used: readings are relayed through memory and a power cut would lose them",
    );
    const space = { maxBytes: outbox.memoryBytes, minFreeBytes: 0, shares: sharesOf(outbox) };
    const pins = this.#pins ?? (await pinsOf(stateDir, folder));
    return openStore({ ...this.#options(folder), space, inMemory: { pins }, walLimitBytes: 262_144 });
  }

  /** What an earlier run has left in memory goes to the disk, dated as it was; its readers may get it twice. */
  async #fetchFromMemory(store: Store): Promise<void> {
    const folder = await memoryFolder(this.#config.stateDir, process.env, "find").catch(() => undefined);
    if (folder === undefined || !existsSync(join(folder, "outbox.db"))) return;
    const { log } = this.#deps;
    try {
      const memory = await openStore({ ...this.#options(folder), inMemory: { pins: [] } });
      try {
        for (const readings of memory.readings.unreceipted()) await store.publish(readings);
      } finally {
        await memory.close();
      }
      await rm(folder, { recursive: true, force: true });
      log.info({}, "what was relayed through memory is on the disk now");
    } catch (error) {
      // It stays where it is, for the next time.
      log.error({ err: error, folder }, "what was relayed through memory could not be brought to the disk");
    }
  }

  #options(folder: string): StoreOptions {
    const { outbox, durability, reader } = this.#config;
    const { clock, time, log, enrolledAnew } = this.#deps;
    const { maxBytes, minFreeBytes, commitIntervalMs } = outbox;
    return {
      folder,
      readers: reader.map(({ atsign }) => atsign),
      clock,
      time,
      log: log.child({ part: "store" }),
      space: { maxBytes, minFreeBytes, shares: sharesOf(outbox) },
      durability,
      maxAgeMs: agesOf(outbox),
      commitIntervalMs,
      enrolledAnew,
      damaged: this.#damaged,
    };
  }
}

function sharesOf(outbox: AgentConfig["outbox"]): NonNullable<SpaceOptions["shares"]> {
  const shares = OUTBOX_CLASSES.map((name) => [name, (outbox[name].sharePercent ?? 100) / 100] as const);
  return Object.fromEntries(shares);
}

function agesOf({ alarm, event, measurement }: AgentConfig["outbox"]): NonNullable<StoreOptions["maxAgeMs"]> {
  const ages = Object.entries({ alarm, event, measurement }).map(([name, { maxAgeMs }]) => [name, maxAgeMs] as const);
  return Object.fromEntries(ages.filter(([, age]) => age !== undefined));
}
