import type { LocalChange, PushResult, ServerEntry, SyncedRecord, SyncStore } from "./sync-store.js";

/** A store that is gone with the process: for a copy that need not survive, and for tests. */
export class MemorySyncStore implements SyncStore {
  readonly #records = new Map<string, SyncedRecord>();
  readonly #changes = new Map<string, LocalChange>();
  #position = -1;
  #serial = 0;

  async position(): Promise<number> {
    return this.#position;
  }

  async record(key: string): Promise<SyncedRecord | undefined> {
    return this.#records.get(key);
  }

  async records(after: string | undefined, limit: number): Promise<readonly SyncedRecord[]> {
    const names = [...this.#records.keys()].filter((key) => after === undefined || key > after).sort();
    return names.slice(0, limit).flatMap((key) => this.#records.get(key) ?? []);
  }

  async change(key: string): Promise<LocalChange | undefined> {
    return this.#changes.get(key);
  }

  async changes(afterSerial: number, limit: number): Promise<readonly LocalChange[]> {
    const waiting = [...this.#changes.values()].filter(({ refusedWith }) => refusedWith === undefined);
    return waiting.filter(({ serial }) => serial > afterSerial).slice(0, limit);
  }

  async everyChange(): Promise<readonly LocalChange[]> {
    return [...this.#changes.values()];
  }

  async saveChange(change: Pick<LocalChange, "key" | "command" | "record">): Promise<void> {
    this.#serial += 1;
    this.#changes.delete(change.key); // a map keeps the place of the first
    this.#changes.set(change.key, { ...change, serial: this.#serial });
  }

  async dropChange(key: string): Promise<void> {
    this.#changes.delete(key);
  }

  async savePage(entries: readonly ServerEntry[], position: number): Promise<void> {
    for (const entry of entries) {
      if ("deleted" in entry) this.#records.delete(entry.key);
      else this.#records.set(entry.key, entry);
    }
    this.#position = position;
  }

  async savePushed(results: readonly PushResult[]): Promise<void> {
    for (const result of results) {
      const { key, serial } = result;
      const change = this.#changes.get(key);
      if (change?.serial !== serial) continue;
      if ("refusedWith" in result) {
        this.#changes.set(key, { ...change, refusedWith: result.refusedWith });
        continue;
      }
      this.#changes.delete(key);
      if (change.record) this.#records.set(key, { key, ...change.record, commitId: result.commitId });
      else this.#records.delete(key);
    }
  }
}
