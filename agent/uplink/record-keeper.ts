import type { AtSign } from "../../atplatform/protocol/at-sign.js";
import { backoff } from "../../core/backoff.js";
import { codeOf } from "../../core/errors.js";
import { atStep } from "../../core/steps.js";
import type { JsonObject } from "../../messages/json-field.js";
import { atKeyOf } from "../../messages/names.js";
import { seal } from "../../messages/seal.js";
import type { ServerClock } from "../agent-time.js";
import type { PeerKeys } from "./peer-keys.js";
import type { UplinkContext } from "./uplink-client.js";
import { Wake } from "./wake.js";

export interface RecordOptions {
  /** Entity and namespace, e.g. `state.north.atedge`. */
  readonly name: string;
  readonly for: AtSign;
  /** What it says now; `undefined`: nothing yet. */
  readonly body: () => JsonObject | undefined;
  /** Least time between two rewritings. */
  readonly intervalMs: number;
  /** Rewritten after this long also without news; left out: only with news. */
  readonly refreshMs?: number;
  readonly ttlMs?: number;
  /** By how much both times are stretched now, to save data; 1 unless given. */
  readonly stretch?: (() => number) | undefined;
  /** Told what the atServer's clock showed while it was written. */
  readonly onServerTime?: (shown: ServerClock) => void;
}

const RETRY = { firstMs: 2_000, maxMs: 300_000 };
/** What comes together at start goes into one record. */
const SETTLE_MS = 1_000;

/** Keeps one sealed record for one reader up to date. To be late or to fail here loses no reading: it is tried again. */
export class RecordKeeper {
  readonly #context: UplinkContext;
  readonly #options: RecordOptions;
  readonly #keys: PeerKeys;
  readonly #wake = new Wake();
  #errorCode: string | undefined;
  written = 0;

  constructor(context: UplinkContext, options: RecordOptions) {
    this.#context = context;
    this.#options = options;
    this.#keys = context.keysOf(options.for);
  }

  /** Of the last attempt, when it failed. */
  get errorCode(): string | undefined {
    return this.#errorCode;
  }

  /** There is something new to write. */
  changed(): void {
    this.#wake.wake();
  }

  async run(signal: AbortSignal): Promise<void> {
    const { clock } = this.#context;
    const { intervalMs, refreshMs, stretch = () => 1 } = this.#options;
    let retry = backoff(RETRY);
    for (;;) {
      try {
        await this.#wake.wait(refreshMs === undefined ? undefined : refreshMs * stretch(), clock, signal);
        await clock.sleep(SETTLE_MS, signal);
        await this.#write(signal);
        retry = backoff(RETRY);
        await clock.sleep(Math.max(0, intervalMs * stretch() - SETTLE_MS), signal);
      } catch (error) {
        if (signal.aborted) return;
        this.#report(error);
        this.#wake.wake();
        await clock.sleep(retry.next().value, signal).catch(() => {}); // aborted: the loop ends
      }
    }
  }

  async #write(signal: AbortSignal): Promise<void> {
    const { client, us, clock } = this.#context;
    const { name, for: reader, ttlMs, onServerTime } = this.#options;
    const body = this.#options.body();
    if (!body) return;
    const aesKey = await this.#keys.forSending(signal);
    const text = seal(body, atKeyOf(reader, name, us), aesKey);
    const lifeMs = ttlMs === undefined ? undefined : Math.round(ttlMs * (this.#options.stretch?.() ?? 1));
    const options = { encryptWith: aesKey, ...(lifeMs !== undefined && { ttlMs: lifeMs }) };
    const askedMs = clock.monotonicMs();
    await atStep("state.put", () => client.put({ key: name, for: reader }, text, options, signal));
    const answeredMs = clock.monotonicMs();
    this.#errorCode = undefined;
    this.written += 1;
    if (!onServerTime) return;
    const written = await client.metadataOf({ key: name, for: reader }, signal);
    if (written?.updatedAt) onServerTime({ shownMs: written.updatedAt.getTime(), askedMs, answeredMs });
  }

  #report(error: unknown): void {
    const { log } = this.#context;
    const { name, for: reader } = this.#options;
    const code = codeOf(error) ?? "UNEXPECTED";
    if (code !== this.#errorCode) log.warn({ err: error, record: name, reader }, "a record could not be written yet");
    this.#errorCode = code;
  }
}
