import { type Clock, systemClock } from "../../core/clock.js";
import { EdgeError, LimitExceeded, SyntaxInvalid } from "../../core/errors.js";
import { type Log, silentLog } from "../../core/log.js";
import { TaskGroup } from "../../core/scope.js";
import { makeAtKey, partsOf } from "../protocol/at-key.js";
import { AtServerError } from "../protocol/at-error.js";
import { type Metadata, metadataJson } from "../protocol/metadata.js";
import type { MetadataOptions } from "../protocol/metadata-options.js";
import { batch, parseBatchResults } from "../protocol/verbs/batch.js";
import { deleteVerb } from "../protocol/verbs/delete.js";
import { parseStats, stats } from "../protocol/verbs/stats.js";
import { parseSyncEntries, type SyncEntry, syncFrom } from "../protocol/verbs/sync-from.js";
import { update } from "../protocol/verbs/update.js";
import type { AtClient } from "./at-client.js";
import { AnswerInvalid } from "./errors.js";
import { parseRecordJson } from "./record-json.js";
import type { RecordName } from "./record-name.js";
import type { AtRecord, PutOptions } from "./records.js";
import type { LocalChange, PushResult, ServerEntry, SyncStore } from "./sync-store.js";

export interface SyncOptions {
  readonly client: AtClient;
  readonly store: SyncStore;
  /** Which names are copied; left out: all that the login may see. */
  readonly regex?: string;
  readonly clock?: Clock;
  readonly log?: Log;
}

export interface SyncReport {
  /** Entries of the atServer that were taken over. */
  readonly pulled: number;
  /** Entries that were left, because a change made here goes first. */
  readonly overruled: number;
  readonly pushed: number;
  /** Changes that the atServer refused for what they are. */
  readonly refused: number;
}

export interface SyncHealth {
  readonly state: "idle" | "syncing" | "waiting" | "ended";
  readonly runs: number;
  readonly lastErrorCode?: string;
  readonly total: SyncReport;
}

/** A record of one's own. */
export type OwnName = Omit<RecordName, "by">;

const PAGE = 25;
const BATCH = 5;
/** So that a batch fits the 10,240,000 bytes of a command, and a page is never one value. */
const MAX_VALUE_BYTES = 1_000_000;
/** One run in so much time, however many reasons there are (client.md, 9). */
const PACE_MS = 5_000;
/** Also when nobody said that there is something: a stats notification can be lost. */
const IDLE_MS = 300_000;
/** Pages without a visible entry that one run looks past. */
const MAX_EMPTY_PAGES = 40;
const NOTHING: SyncReport = { pulled: 0, overruled: 0, pushed: 0, refused: 0 };

/**
 * A copy of one's atServer that can be read and written without a connection. Changes are kept and sent when they can
 * be; a change made here wins over one made elsewhere meanwhile (client.md, 9). One Sync a store.
 */
export class Sync {
  readonly #client: AtClient;
  readonly #store: SyncStore;
  readonly #regex: string | undefined;
  readonly #clock: Clock;
  readonly #log: Log;
  #state: SyncHealth["state"] = "idle";
  #runs = 0;
  #lastErrorCode: string | undefined;
  #total = NOTHING;
  #running: Promise<unknown> = Promise.resolve();
  #wanted = false;
  #wake = (): void => undefined;

  constructor({ client, store, regex, clock = systemClock, log = silentLog }: SyncOptions) {
    this.#client = client;
    this.#store = store;
    this.#regex = regex;
    this.#clock = clock;
    this.#log = log;
  }

  get health(): SyncHealth {
    return {
      state: this.#state,
      runs: this.#runs,
      total: this.#total,
      ...(this.#lastErrorCode !== undefined && { lastErrorCode: this.#lastErrorCode }),
    };
  }

  /**
   * Writes a record here; resolves when the store has it. For another atSign the shared key must be known already or a
   * connection be there.
   */
  async put(name: OwnName, value: string | Uint8Array, options: PutOptions, signal: AbortSignal): Promise<void> {
    const { key, value: text, options: given } = await this.#client.prepare(name, value, options, signal);
    if (Buffer.byteLength(text) > MAX_VALUE_BYTES) {
      throw new LimitExceeded(`a synced value has at most ${MAX_VALUE_BYTES} bytes on the wire`);
    }
    const record = { value: text, metadata: metadataOf(given, this.#clock.now()) };
    await this.#change({ key, command: update.format({ key, value: text, options: given }), record });
  }

  async delete(name: OwnName): Promise<void> {
    const key = this.#keyOf(name);
    await this.#change({ key, command: deleteVerb.format({ key }), record: null });
  }

  /** A record of ours as it is here, changes that are not sent yet included. */
  async get(name: OwnName, signal: AbortSignal): Promise<AtRecord | undefined> {
    const key = this.#keyOf(name);
    const change = await this.#store.change(key);
    const record = change ? change.record : await this.#store.record(key);
    if (!record || !isVisible(record.metadata, this.#clock.now())) return undefined;
    const { value, metadata } = record;
    const json = JSON.stringify({ key, data: value, metaData: metadata && metadataJson(metadata) });
    return await this.#client.open(name, parseRecordJson(json), signal);
  }

  /** The full names that are here. */
  async *names(): AsyncGenerator<string, void> {
    const nowMs = this.#clock.now();
    const changed = new Map((await this.#store.everyChange()).map((change) => [change.key, change.record]));
    let after: string | undefined;
    for (;;) {
      const page = await this.#store.records(after, 100);
      for (const { key, metadata } of page) if (!changed.has(key) && isVisible(metadata, nowMs)) yield key;
      after = page.at(-1)?.key;
      if (after === undefined) break;
    }
    for (const [key, record] of changed) if (record && isVisible(record.metadata, nowMs)) yield key;
  }

  /** Changes that the atServer refused; each stays until it is changed or {@link forget}ed. */
  async refused(): Promise<readonly LocalChange[]> {
    return (await this.#store.everyChange()).filter(({ refusedWith }) => refusedWith !== undefined);
  }

  /** Takes back a change that has not been sent. */
  async forget(name: OwnName): Promise<void> {
    await this.#store.dropChange(this.#keyOf(name));
  }

  /** One run: first pulls, then pushes. @throws what the client throws; what was taken over until then stays. */
  async once(signal: AbortSignal): Promise<SyncReport> {
    const run = this.#running.then(() => this.#once(signal));
    this.#running = run.catch(() => undefined);
    return await run;
  }

  /** Runs until `signal` aborts: at first, when the atServer or this side has a change, and now and then. */
  async run(signal: AbortSignal): Promise<void> {
    await using tasks = new TaskGroup(signal);
    tasks.start((signal) => this.#listen(signal));
    try {
      while (!signal.aborted) {
        this.#wanted = false;
        await this.#attempt(signal);
        await this.#clock.sleep(PACE_MS, signal);
        await this.#nextReason(signal);
      }
    } catch (error) {
      if (!signal.aborted) throw error;
    } finally {
      this.#state = "ended";
    }
  }

  async #attempt(signal: AbortSignal): Promise<void> {
    try {
      await this.once(signal);
    } catch (error) {
      signal.throwIfAborted();
      if (!(error instanceof EdgeError)) throw error;
      this.#lastErrorCode = error.code;
      this.#wanted = true;
      this.#state = "waiting";
      this.#log.info({ code: error.code }, "a sync run failed and is tried again");
    }
  }

  /** The stats notifications of a monitor connection whose expression no key fits. */
  async #listen(signal: AbortSignal): Promise<void> {
    const onStats = (commitId: number): void => {
      this.#store.position().then((position) => {
        if (commitId > position) this.#want();
      }, this.#want);
    };
    const options = { regex: "^$", since: "live", catchUp: false, onStats } as const;
    for await (const stray of this.#client.subscribe(options, signal))
      this.#log.debug({ id: stray.id }, "not asked for");
  }

  readonly #want = (): void => {
    this.#wanted = true;
    this.#wake();
  };

  async #nextReason(signal: AbortSignal): Promise<void> {
    if (this.#wanted) return;
    const idle = new AbortController();
    const end = (): void => idle.abort();
    signal.addEventListener("abort", end, { once: true });
    await Promise.race([
      new Promise<void>((resolve) => (this.#wake = resolve)),
      this.#clock.sleep(IDLE_MS, idle.signal).catch(() => undefined),
    ]);
    idle.abort();
    signal.removeEventListener("abort", end);
  }

  async #once(signal: AbortSignal): Promise<SyncReport> {
    this.#state = "syncing";
    const pull = await this.#pull(signal);
    const push = await this.#push(signal);
    const report = { ...pull, ...push };
    this.#runs += 1;
    this.#state = "idle";
    this.#lastErrorCode = undefined;
    this.#total = {
      pulled: this.#total.pulled + report.pulled,
      overruled: this.#total.overruled + report.overruled,
      pushed: this.#total.pushed + report.pushed,
      refused: this.#total.refused + report.refused,
    };
    return report;
  }

  async #pull(signal: AbortSignal): Promise<Pick<SyncReport, "pulled" | "overruled">> {
    const lastCommitId = await this.#lastCommitId(signal);
    let [pulled, overruled, empty] = [0, 0, 0];
    for (let position = await this.#store.position(); position < lastCommitId && empty < MAX_EMPTY_PAGES;) {
      const line = syncFrom.format({ commitId: position, limit: PAGE, ...(this.#regex && { regex: this.#regex }) });
      const page = parseSyncEntries(await this.#client.send(line, { repeatable: true }, signal));
      const entries: ServerEntry[] = [];
      for (const entry of page) {
        if (entry.commitId <= position) throw new AnswerInvalid("the atServer sent a change that is here already");
        position = entry.commitId;
        if (!isSynced(entry.key)) continue;
        if (await this.#isOverruled(entry)) overruled += 1;
        else pulled += 1;
        entries.push(serverEntry(entry));
      }
      if (page.length === 0) {
        // The reference takes a page first and then leaves out what this login may not see, so what is visible may
        // stand behind an empty page. A page covers as many entries, so at least as many commit ids.
        empty += 1;
        position = Math.min(position + PAGE, lastCommitId);
      }
      await this.#store.savePage(entries, position);
    }
    return { pulled, overruled };
  }

  /** The record is kept beside the change that hides it, so that the change can still be taken back. */
  async #isOverruled({ key }: SyncEntry): Promise<boolean> {
    return (await this.#store.change(key)) !== undefined;
  }

  async #lastCommitId(signal: AbortSignal): Promise<number> {
    const answer = await this.#client.send(stats.format({ ids: [3] }), { repeatable: true }, signal);
    const value = String(parseStats(answer)[0]?.value);
    if (value === "null") return -1;
    if (!/^-?\d{1,15}$/u.test(value)) throw new AnswerInvalid("the last commit id is no number");
    return Number(value);
  }

  async #push(signal: AbortSignal): Promise<Pick<SyncReport, "pushed" | "refused">> {
    let [pushed, refused] = [0, 0];
    for (let after = 0; ;) {
      const changes = await this.#store.changes(after, BATCH);
      const last = changes.at(-1);
      if (!last) return { pushed, refused };
      after = last.serial;
      const commands = changes.map(({ command }, index) => ({ id: index + 1, command }));
      // Twice the same update or deletion does no harm.
      const answer = await this.#client.send(batch.format({ commands }), { repeatable: true }, signal);
      // What is missing in it, or failed for a reason that passes, waits for the next run.
      const results = pushResults(changes, answer);
      await this.#store.savePushed(results);
      pushed += results.filter((result) => "commitId" in result).length;
      refused += results.filter((result) => "refusedWith" in result).length;
    }
  }

  async #change(change: Pick<LocalChange, "key" | "command" | "record">): Promise<void> {
    await this.#store.saveChange(change);
    this.#want();
  }

  #keyOf({ key, for: scope }: OwnName): string {
    const name = makeAtKey({ scope, entity: key, owner: this.#client.atSign });
    if (!isSynced(name)) throw new SyntaxInvalid(`${name} is not synced`);
    return name;
  }
}

/** Names that stay where they are; others' records that were cached are pulled, but cannot be changed here. */
const isSynced = (key: string): boolean =>
  !/^(?:private|privatekey|local):|^_/u.test(key) && partsOf(key).type !== "invalid";

const serverEntry = ({ key, value, metadata, commitId, operation }: SyncEntry): ServerEntry =>
  operation === "-" ? { key, deleted: true, commitId } : { key, value, metadata, commitId };

function pushResults(changes: readonly LocalChange[], answer: string): readonly PushResult[] {
  const results = new Map(parseBatchResults(answer).map((result) => [result.id, result]));
  return changes.flatMap(({ key, serial }, index): readonly PushResult[] => {
    const result = results.get(index + 1);
    if (!result) return [];
    if ("errorCode" in result) {
      return new AtServerError(result.errorCode, result.message).remedy === "fix"
        ? [{ key, serial, refusedWith: result.errorCode }]
        : [];
    }
    const commitId = Number(result.data ?? "");
    return Number.isSafeInteger(commitId) && result.data !== "" ? [{ key, serial, commitId }] : [];
  });
}

/** What the atServer will say about it, as far as that is known here. */
function metadataOf(options: MetadataOptions, nowMs: number): Metadata {
  const given = Object.entries(options).filter(([, value]) => value !== null && value !== undefined);
  const metadata = Object.fromEntries(given) as Metadata; // its members have the same names
  const { ttlMs = 0, ttbMs = 0 } = metadata;
  return {
    ...metadata,
    ...(ttbMs > 0 && { availableAtMs: nowMs + ttbMs }),
    ...(ttlMs > 0 && { expiresAtMs: nowMs + ttbMs + ttlMs }),
  };
}

const isVisible = (metadata: Metadata | null, nowMs: number): boolean =>
  (metadata?.availableAtMs ?? 0) <= nowMs && (metadata?.expiresAtMs ?? Infinity) > nowMs;
