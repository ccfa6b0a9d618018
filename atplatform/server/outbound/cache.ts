import type { Clock } from "../../../core/clock.js";
import type { GroupCommit } from "../../../core/group-commit.js";
import type { AtSign } from "../../protocol/at-sign.js";
import { bareAtSign } from "../../protocol/at-sign.js";
import type { MetadataOptions } from "../../protocol/metadata-options.js";
import type { AtRecord } from "../../protocol/record.js";
import type { MonitorHub } from "../monitors.js";
import { isActive, type KeyRecord, type KeyStore } from "../store/key-store.js";
import { mergeMetadata, omit } from "../store/metadata.js";

export interface CacheOptions {
  readonly self: AtSign;
  readonly clock: Clock;
  readonly commits: GroupCommit;
  readonly keys: KeyStore;
  readonly monitors: MonitorHub;
}

/** Copies of other atSigns' records, `cached:…` (spec 5.6). Every change is logged, so that clients sync it. */
export class Cache {
  readonly #options: CacheOptions;

  constructor(options: CacheOptions) {
    this.#options = options;
  }

  /** A copy that may still be served: active, and not yet due to be fetched again. */
  fresh(name: string): KeyRecord | undefined {
    const now = this.#options.clock.now();
    const record = this.#options.keys.get(name);
    if (!record || !isActive(record, now)) return undefined;
    const { ttrSeconds, refreshAtMs } = record.metadata;
    const isFresh = ttrSeconds === -1 || (refreshAtMs !== undefined && refreshAtMs > now);
    return isFresh ? record : undefined;
  }

  /** Keeps what a look-up gave, if its owner allows it (ttr). */
  async keep(name: string, record: AtRecord, owner: AtSign): Promise<void> {
    const { ttrSeconds } = record.metadata;
    if (ttrSeconds === undefined || ttrSeconds === 0 || owner === this.#options.self) return;
    const options = omit(record.metadata, "ttbMs"); // it was born when its owner gave it
    await this.put(name, record.value, options, owner, "*");
  }

  /** Gives the commit id. */
  async put(
    name: string,
    value: string | null,
    options: MetadataOptions,
    owner: AtSign,
    operation: "*" | "#",
  ): Promise<number> {
    const { clock, commits, keys, monitors } = this.#options;
    const commitId = await commits.write(() => {
      const now = clock.now();
      const metadata = mergeMetadata(keys.get(name)?.metadata, options, owner, now);
      return keys.put({ name, value, metadata }, operation, now);
    });
    monitors.changed("update");
    return commitId;
  }

  /** Removes a copy if there is one, and tells whether there was. */
  async remove(name: string): Promise<boolean> {
    const { clock, commits, keys, monitors } = this.#options;
    if (!keys.get(name)) return false;
    await commits.write(() => keys.delete(name, clock.now()));
    monitors.changed("delete");
    return true;
  }

  /**
   * The public encryption key of a peer, read on every new connection. When it has changed (the peer was set up anew), our
   * copy of the key that we share with the peer is put aside under another name, so that clients make a new one.
   */
  async keepPublicKey(peer: AtSign, record: AtRecord): Promise<void> {
    const { self, clock, commits, keys, monitors } = this.#options;
    const name = `cached:public:publickey${peer}`;
    if (peer === self || record.value === null || keys.get(name)?.value === record.value) return;
    await commits.write(() => {
      const now = clock.now();
      if (keys.get(name)) {
        this.#putAsideSharedKey(peer, now);
        keys.delete(name, now);
      }
      const options = omit(record.metadata, "ttbMs", "ttlMs");
      const metadata = mergeMetadata(undefined, { ...options, ttrSeconds: -1 }, peer, now);
      keys.put({ name, value: record.value, metadata }, "*", now);
    });
    monitors.changed("update");
  }

  #putAsideSharedKey(peer: AtSign, now: number): void {
    const { self, keys } = this.#options;
    const shared = keys.get(`shared_key.${bareAtSign(peer)}${self}`);
    if (!shared) return;
    keys.delete(shared.name, now);
    keys.put({ ...shared, name: `shared_key.${bareAtSign(peer)}.until.${now}${self}` }, "*", now);
  }
}
