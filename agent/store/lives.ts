import type { Database, Statement } from "better-sqlite3";
import { GAP_REASONS } from "../../messages/gap.js";
import { MIN_TIME_MS } from "../../messages/senml.js";
import type { StreamLife } from "../../messages/telemetry.js";
import type { GapKeeper } from "./gap-keeper.js";
import {
  type Identity,
  type IdentityVerdict,
  identityVerdict,
  newOutboxId,
  streamIdOf,
  streamName,
} from "./identity.js";
import { CLASS_RANKS, CLASSES_BY_RANK, type StreamRow } from "./stream-rows.js";
import type { Streams } from "./streams.js";
import type { LastKnown } from "./time-base.js";

export interface BeginOptions {
  readonly file: Identity | undefined;
  readonly machine: string;
  readonly readers: readonly string[];
  readonly enrolledAnew: boolean;
}

export interface Begun {
  readonly identity: Identity;
  readonly verdict: IdentityVerdict;
}

/** Which life each stream is in. All within the caller's transaction. */
export class Lives {
  readonly #db: Database;
  readonly #streams: Streams;
  readonly #gaps: GapKeeper;
  readonly #sql: ReturnType<typeof prepare>;

  constructor(db: Database, streams: Streams, gaps: GapKeeper) {
    this.#db = db;
    this.#streams = streams;
    this.#gaps = gaps;
    this.#sql = prepare(db);
  }

  /** At start: compares file, database and machine, and sees to it that there is a stream for each reader and class. */
  begin(options: BeginOptions): Begun {
    const { file, machine, readers, enrolledAnew } = options;
    const stored = this.#stored();
    const verdict = identityVerdict(file, stored, machine);
    const outbox = outboxOf(verdict, file, stored?.outbox);
    const before: Identity = {
      machine,
      outbox,
      opens: Math.max(file?.opens ?? 0, stored?.opens ?? 0) + 1,
      lives: file?.lives ?? {},
    };
    if (verdict === "cloned" && !enrolledAnew) return { identity: before, verdict };
    this.#sql.setMeta.run("outbox", outbox);
    this.#sql.setMeta.run("opens", before.opens);
    this.#sql.forgetBoots.run();
    this.#dismissOthers(readers);

    const lives: Record<string, number> = { ...before.lives };
    for (const reader of readers) {
      for (const name of CLASSES_BY_RANK) {
        const life = { stream: streamIdOf(outbox, reader, name), inc: (lives[streamName(reader, name)] ?? 0) + 1 };
        lives[streamName(reader, name)] = this.#ensure(reader, CLASS_RANKS[name], life, verdict);
      }
    }
    return { identity: { ...before, lives }, verdict: verdict === "cloned" ? "new" : verdict };
  }

  /** What a stream's next life is called. */
  next(identity: Identity, streamId: number): { readonly identity: Identity; readonly life: StreamLife } {
    const info = this.#streams.info(streamId);
    const name = streamName(info.reader, info.class);
    const inc = Math.max(identity.lives[name] ?? 0, info.life.inc) + 1;
    return {
      identity: { ...identity, lives: { ...identity.lives, [name]: inc } },
      life: { stream: streamIdOf(identity.outbox, info.reader, info.class), inc },
    };
  }

  /** The latest time that is known to have passed: the earliest that the next boot can begin. It never goes back. */
  rememberTime(nowMs: number, boot: string, monotonicMs: number): void {
    const ms = Math.max(nowMs, MIN_TIME_MS, this.lastKnown.ms);
    this.#sql.setMeta.run("lastKnownMs", ms);
    this.#sql.setMeta.run("lastKnownBoot", boot);
    this.#sql.setMeta.run("lastKnownMonotonicMs", Math.round(monotonicMs - (nowMs - ms)));
  }

  /** What {@link rememberTime} was told. */
  get lastKnown(): LastKnown {
    const ms = this.#sql.getMeta.get("lastKnownMs")?.value;
    const boot = this.#sql.getMeta.get("lastKnownBoot")?.value;
    const monotonicMs = this.#sql.getMeta.get("lastKnownMonotonicMs")?.value;
    return {
      ms: typeof ms === "number" ? ms : 0,
      boot: typeof boot === "string" ? boot : undefined,
      monotonicMs: typeof monotonicMs === "number" ? monotonicMs : undefined,
    };
  }

  /** @returns the life that the stream is in. */
  #ensure(reader: string, rank: number, fresh: StreamLife, verdict: IdentityVerdict): number {
    const row = this.#sql.find.get(reader, rank);
    if (row && verdict === "same") return row.inc;
    // The outbox may have accepted readings that it knows nothing of any more.
    const lost = verdict === "lost" || verdict === "restored";
    if (row) {
      const life = { stream: fresh.stream, inc: Math.max(fresh.inc, row.inc + 1) };
      this.#streams.beginLife(row.id, life);
      if (lost) this.#unknownGap(row.id);
      return life.inc;
    }
    const known = fresh.inc > 1;
    const { lastInsertRowid } = this.#sql.insert.run({
      reader,
      rank,
      ...fresh,
      prevStream: known ? fresh.stream : null,
      prevInc: known ? fresh.inc - 1 : null,
    });
    if (known && lost) this.#unknownGap(Number(lastInsertRowid));
    return fresh.inc;
  }

  #unknownGap(streamId: number): void {
    this.#gaps.add(streamId, { readings: null, timeFrom: null, timeTo: null, reason: GAP_REASONS.lost });
  }

  #dismissOthers(readers: readonly string[]): void {
    for (const { id, reader } of this.#sql.all.all()) {
      if (readers.includes(reader)) continue;
      this.#sql.clear.run(id);
      this.#sql.remove.run(id);
    }
    if (readers.length === 0) this.#db.exec("DELETE FROM reading");
  }

  #stored(): { outbox: string; opens: number } | undefined {
    const outbox = this.#sql.getMeta.get("outbox")?.value;
    const opens = this.#sql.getMeta.get("opens")?.value;
    return typeof outbox === "string" && typeof opens === "number" ? { outbox, opens } : undefined;
  }
}

/** A copy of anything gets an id of its own: the original may be in use elsewhere. */
function outboxOf(verdict: IdentityVerdict, file: Identity | undefined, stored: string | undefined): string {
  if (verdict === "cloned" || verdict === "new") return newOutboxId();
  return file?.outbox ?? stored ?? newOutboxId();
}

function prepare(db: Database) {
  const sql = <P extends unknown[], R = unknown>(text: string): Statement<P, R> => db.prepare<P, R>(text);
  return {
    getMeta: sql<[string], { value: unknown }>("SELECT value FROM meta WHERE name = ?"),
    setMeta: sql("INSERT OR REPLACE INTO meta VALUES (?, ?)"),
    forgetBoots: sql("DELETE FROM boot WHERE id NOT IN (SELECT boot FROM reading WHERE timeMs IS NULL)"),
    all: sql<[], StreamRow>("SELECT * FROM stream"),
    find: sql<[string, number], StreamRow>("SELECT * FROM stream WHERE reader = ? AND class = ?"),
    insert: sql(
      `INSERT INTO stream (reader, class, stream, inc, prevStream, prevInc, packedTo) VALUES ($reader, $rank, $stream, $inc, $prevStream, $prevInc, max(
         coalesce((SELECT max(id) FROM reading WHERE class = $rank), 0),
         coalesce((SELECT max(packedTo) FROM stream WHERE class = $rank), 0)))`,
    ),
    clear: sql("DELETE FROM message WHERE stream = ?"),
    remove: sql("DELETE FROM stream WHERE id = ?"),
  };
}
