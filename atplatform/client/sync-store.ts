import type { Metadata } from "../protocol/metadata.js";

/** A record as the atServer has it: the value encrypted, as stored there. */
export interface SyncedRecord {
  readonly key: string;
  readonly value: string | null;
  readonly metadata: Metadata | null;
  readonly commitId: number;
}

/** What the atServer said about a key: a record, or that it is gone. */
export type ServerEntry = SyncedRecord | { readonly key: string; readonly deleted: true; readonly commitId: number };

/** A change made here that the atServer has not confirmed. One a key: a later one takes its place. */
export interface LocalChange {
  readonly key: string;
  /** From 1 on, in the order made; tells a change from a later one of the same key. */
  readonly serial: number;
  /** The line to send. */
  readonly command: string;
  /** What the record is then; `null`: deleted. */
  readonly record: Pick<SyncedRecord, "value" | "metadata"> | null;
  /** Given, the atServer refused it for what it is, and it is not sent again. */
  readonly refusedWith?: string;
}

export type PushResult = Pick<LocalChange, "key" | "serial"> &
  ({ readonly commitId: number } | { readonly refusedWith: string });

/** Where {@link Sync} keeps its copy. Every method is atomic, and what it has resolved survives as the store promises. */
export interface SyncStore {
  /** The commit id up to which the atServer's changes are here; -1: none. */
  position(): Promise<number>;
  /** Without local changes. */
  record(key: string): Promise<SyncedRecord | undefined>;
  /** In the order of their names, after `after`, at most `limit`. Without local changes. */
  records(after: string | undefined, limit: number): Promise<readonly SyncedRecord[]>;
  change(key: string): Promise<LocalChange | undefined>;
  /** Those that are to be sent and have a higher serial number, in the order made, at most `limit`. */
  changes(afterSerial: number, limit: number): Promise<readonly LocalChange[]>;
  /** All, refused ones too. */
  everyChange(): Promise<readonly LocalChange[]>;
  /** Puts the change in the place of an earlier one of its key, under a new serial number. */
  saveChange(change: Pick<LocalChange, "key" | "command" | "record">): Promise<void>;
  /** Takes back a change that was not sent, and a refused one. */
  dropChange(key: string): Promise<void>;
  savePage(entries: readonly ServerEntry[], position: number): Promise<void>;
  /** A confirmed change becomes the record, unless a later one of its key has come: that one stays to be sent. */
  savePushed(results: readonly PushResult[]): Promise<void>;
}
