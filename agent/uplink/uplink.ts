import type { ReceivedNotification } from "../../atplatform/client/at-client.js";
import { codeOf } from "../../core/errors.js";
import { TaskGroup } from "../../core/scope.js";
import { type DeviceInfo, formatInfo } from "../../messages/info.js";
import { infoKey, receiptKey, stateKey } from "../../messages/names.js";
import { formatState } from "../../messages/state.js";
import type { ServerClock } from "../agent-time.js";
import { AnswerUplink } from "./answer-uplink.js";
import { LatestValues } from "./latest-values.js";
import { type ReaderOptions, ReaderUplink } from "./reader-uplink.js";
import { RecordKeeper } from "./record-keeper.js";
import type { PackOptions } from "./stream-uplink.js";
import { keyRing } from "./peer-keys.js";
import type { UplinkContext, UplinkDeps } from "./uplink-client.js";

export interface UplinkOptions extends UplinkDeps, PackOptions {
  readonly readers: readonly ReaderOptions[];
  /** Least time between two rewritings of the record with the latest values. */
  readonly stateIntervalMs: number;
  /** Told what the atServer's clock showed. */
  readonly onServerTime?: (shown: ServerClock) => void;
  /** What the device is, for the info record; `at` is set here. */
  readonly info: () => Omit<DeviceInfo, "at">;
}

/** How one part of the uplink is; fits the agent's health board. */
export interface UplinkPart {
  readonly name: string;
  readonly state: "ok" | "degraded" | "failed";
  readonly code: string | undefined;
  readonly counters: Readonly<Record<string, number>>;
}

const INFO_REFRESH_MS = 600_000;
/** A device that is gone is not shown as there for long. */
const INFO_TTL_MS = 3 * INFO_REFRESH_MS;

/** Brings what is in the outbox to those it is for, and takes their receipts. */
export class Uplink {
  readonly #options: UplinkOptions;
  readonly #readers: readonly ReaderUplink[];
  readonly #answers: AnswerUplink;
  readonly #latest = new LatestValues();
  readonly #states: readonly RecordKeeper[];
  readonly #infos: readonly RecordKeeper[];
  readonly #refused: Record<string, number> = {};

  constructor(options: UplinkOptions) {
    const { readers, address, stateIntervalMs, maxBatch, maxDelayMs, stretch } = options;
    const pack = { maxBatch, maxDelayMs, ...(stretch && { stretch }) };
    const context: UplinkContext = { ...options, keysOf: keyRing(options) };
    this.#options = options;
    this.#readers = readers.map((reader) => new ReaderUplink(context, reader, pack));
    this.#answers = new AnswerUplink(context);
    this.#states = readers.map(
      ({ atSign }) =>
        new RecordKeeper(context, {
          name: stateKey(address),
          for: atSign,
          body: () => this.#state(),
          intervalMs: stateIntervalMs,
          stretch,
        }),
    );
    this.#infos = readers.map(
      ({ atSign }) =>
        new RecordKeeper(context, {
          name: infoKey(address),
          for: atSign,
          body: () => formatInfo({ ...options.info(), at: Math.round(options.clock.now()) }),
          intervalMs: stateIntervalMs,
          stretch,
          refreshMs: INFO_REFRESH_MS,
          ttlMs: INFO_TTL_MS,
          ...(options.onServerTime && { onServerTime: options.onServerTime }),
        }),
    );
  }

  /** A part for each reader and one for the answers. */
  health(): UplinkPart[] {
    const readers = this.#readers.map(({ health }): UplinkPart => {
      const { reader, state, code, unreceipted, counters } = health;
      return {
        name: `reader.${reader}`,
        state: state === "ok" ? "ok" : state === "waiting" ? "degraded" : "failed",
        code,
        counters: { unreceipted, ...counters },
      };
    });
    const { code, waiting, counters } = this.#answers.health;
    return [
      ...readers,
      { name: "answers", state: code === undefined ? "ok" : "degraded", code, counters: { waiting, ...counters } },
      { name: "receipts", state: "ok", code: undefined, counters: { ...this.#refused } },
      this.#recordsHealth(),
    ];
  }

  /** What the device is has changed: a driver came or went. */
  infoChanged(): void {
    for (const record of this.#infos) record.changed();
  }

  /** Something was put into the outbox by other ways than readings take: it goes out now. */
  nudge(): void {
    for (const reader of this.#readers) reader.arrived([]);
  }

  /** Takes a notification when it is a receipt for this device, and says whether it was. One that is not right is counted. */
  async receive(notification: ReceivedNotification, signal: AbortSignal): Promise<boolean> {
    const { address, log } = this.#options;
    if (notification.key !== receiptKey(address)) return false;
    const reader = this.#readers.find(({ atSign }) => atSign === notification.from);
    if (!reader) {
      this.#count("UNKNOWN_READER");
      return true;
    }
    try {
      await reader.receive(notification, signal);
    } catch (error) {
      signal.throwIfAborted();
      const code = codeOf(error);
      // Whatever it was, the reader will say it again; only without a store nothing goes on.
      if (code === undefined || this.#options.store.isBrokenBy(error)) throw error;
      this.#count(code);
      const fields = { err: error, reader: notification.from };
      if (code === "OTHER_CONSUMER") log.debug(fields, "a receipt that does not count");
      else log.warn(fields, "a receipt was refused, nothing was trimmed");
    }
    return true;
  }

  /** Returns when `signal` aborts. @throws what the store throws. */
  async run(signal: AbortSignal): Promise<void> {
    const { store, log, clock, readers } = this.#options;
    if (store.identityVerdict === "cloned") {
      log.error({}, "this is a copy of another machine's card: nothing is sent before it is enrolled anew");
      return new Promise((resolve) => {
        if (signal.aborted) resolve();
        else signal.addEventListener("abort", () => resolve(), { once: true });
      });
    }
    for (const { atSign, receipts } of readers) {
      if (!receipts)
        log.warn(
          { reader: atSign },
          "this reader gives no receipts: readings count as delivered when its atServer has them",
        );
    }
    const unlisten = store.readings.listen((readings) => {
      this.#latest.take(readings, clock.now());
      for (const reader of this.#readers) reader.arrived(readings);
      for (const record of this.#states) record.changed();
    });
    try {
      await using group = new TaskGroup(signal);
      for (const part of [...this.#readers, this.#answers, ...this.#states, ...this.#infos]) {
        group.start((signal) => part.run(signal));
      }
      this.infoChanged();
      await group.join();
    } finally {
      unlisten();
    }
  }

  /** A record that is late or cannot be written costs no reading. */
  #recordsHealth(): UplinkPart {
    const records = [...this.#states, ...this.#infos];
    const code = records.map(({ errorCode }) => errorCode).find((found) => found !== undefined);
    const written = records.reduce((sum, record) => sum + record.written, 0);
    const counters = { written, channelsLeftOut: this.#latest.leftOut };
    return { name: "records", state: code === undefined ? "ok" : "degraded", code, counters };
  }

  #state() {
    const readings = this.#latest.all();
    return readings.length === 0 ? undefined : formatState({ at: Math.round(this.#options.clock.now()), readings });
  }

  #count(code: string): void {
    this.#refused[code] = (this.#refused[code] ?? 0) + 1;
  }
}
