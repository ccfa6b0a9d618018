import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { systemClock } from "../../core/clock.js";
import type { Driver, DriverDeps, Reading } from "../../core/driver.js";
import { type Log, type LogFields, silentLog } from "../../core/log.js";
import type { Port } from "../../core/port.js";
import { openPort } from "../../drivers/serial/open-port.js";
import { type LinkConfig, linkSchema } from "../../firmware-bridge/link/config.js";
import { openLinkDriver } from "../../firmware-bridge/link/link-driver.js";
import { saveLinkRecord } from "../../firmware-bridge/link/link-record.js";
import { pairBoard } from "../../firmware-bridge/link/pair-board.js";
import * as v from "valibot";
import type { BoardProcess } from "./board-process.js";

export const never = new AbortController().signal;

/** What lies between the host and the board, in a test: each side's bytes on their way to the other. */
export interface Wire {
  readonly toBoard?: (bytes: Uint8Array) => Uint8Array;
  readonly toHost?: (bytes: Uint8Array) => Uint8Array;
}

export function portThrough(port: Port, { toBoard = same, toHost = same }: Wire): Port {
  return {
    path: port.path,
    async *read(signal) {
      for await (const chunk of port.read(signal)) {
        const bytes = toHost(chunk);
        if (bytes.length > 0) yield bytes;
      }
    },
    async write(bytes, signal) {
      const through = toBoard(bytes);
      if (through.length > 0) await port.write(through, signal);
    },
    [Symbol.asyncDispose]: () => port[Symbol.asyncDispose](),
  };
}

const same = (bytes: Uint8Array): Uint8Array => bytes;

/** The host of a board: its state folder, and what it published. */
export class Host implements AsyncDisposable {
  readonly folder: string;
  readonly readings: Reading[] = [];
  readonly logged: (LogFields & { readonly message: string })[] = [];
  publish: (readings: readonly Reading[]) => Promise<void> = async () => undefined;

  private constructor(folder: string) {
    this.folder = folder;
  }

  static async create(): Promise<Host> {
    return new Host(await mkdtemp(join(tmpdir(), "atedge-host-")));
  }

  deps(wire: Wire = {}): DriverDeps {
    return {
      publish: async (batch) => {
        await this.publish(batch);
        this.readings.push(...batch);
      },
      openPort: async (path, options, signal) => portThrough(await openPort(path, options, signal), wire),
      clock: systemClock,
      log: this.#log(),
      stateDir: async () => this.folder,
    };
  }

  #log(): Log {
    const keep = (fields: LogFields, message: string): void => void this.logged.push({ ...fields, message });
    return { ...silentLog, debug: keep, info: keep, warn: keep, error: keep };
  }

  /** How each session began: `resume`, `renew` or `clear`. */
  get sessions(): unknown[] {
    return this.logged.filter(({ message }) => message === "link session").map(({ kind }) => kind);
  }

  /** The values of the readings of this name. */
  values(name: string): unknown[] {
    return this.readings.filter((reading) => reading.name === name).map(({ value }) => value);
  }

  /** Pairs with the board; gives the digits that both show. */
  async pair(
    board: BoardProcess,
    { key, wire = {} }: { readonly key?: Uint8Array; readonly wire?: Wire } = {},
  ): Promise<string | undefined> {
    board.tell("pair");
    await board.counters(); // it has read the line before
    await using port = portThrough(await openPort(board.path, { baudRate: 115_200 }, never), wire);
    let shown: string | undefined;
    const confirm = async (digits: string): Promise<boolean> => {
      shown = digits;
      const [, theirs] = await board.said(/^digits (\d{6})$/u);
      board.tell(theirs === digits ? "confirm" : "reject");
      return theirs === digits;
    };
    const record = await pairBoard({ port, clock: systemClock, provisioningKey: key, confirm, timeoutMs: 8000 }, never);
    await saveLinkRecord(this.folder, record);
    await board.said(/^paired$/u);
    return shown;
  }

  open(board: BoardProcess, config: Partial<LinkConfig> = {}, wire: Wire = {}): Promise<Driver> {
    return openLinkDriver(linkConfig(board, config), this.deps(wire), never);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await rm(this.folder, { recursive: true, force: true });
  }
}

export const linkConfig = (board: BoardProcess, config: Partial<LinkConfig> = {}): LinkConfig =>
  v.parse(linkSchema, { id: "board", type: "link", path: board.path, baud: 1_000_000, ...config });

/** Resolves when it holds; rejects after `withinMs`. */
export async function until(condition: () => boolean, what: string, withinMs = 20_000): Promise<void> {
  const endMs = performance.now() + withinMs;
  while (!condition()) {
    if (performance.now() > endMs) throw new Error(`waited in vain for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 3));
  }
}

/** Runs the driver while `work` does; ends both. */
export async function whileRunning<T>(driver: Driver, work: (running: Promise<unknown>) => Promise<T>): Promise<T> {
  const stop = new AbortController();
  const running = driver.run(stop.signal).then(
    () => undefined,
    (error: unknown) => error,
  );
  try {
    return await work(running);
  } finally {
    stop.abort();
    await running;
    await driver[Symbol.asyncDispose]();
  }
}
