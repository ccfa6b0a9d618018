import type { Statement } from "better-sqlite3";
import type { Db } from "./database.js";

export type Setting =
  /** PKCS#8 PEM of the RSA key that proves to other atServers who this is. */
  | "signing_private_key"
  /** Base64 of its public half, as `public:signing_publickey` has it. */
  | "signing_public_key"
  /** JSON array of atSigns that may not connect. */
  | "block_list";

/** What the owner set and what the server must remember of itself. `set` is to be called inside a write. */
export class SettingStore {
  readonly #get: Statement<[string], { value: string }>;
  readonly #set: Statement<[string, string]>;
  readonly #remove: Statement<[string]>;

  constructor(db: Db) {
    this.#get = db.prepare("SELECT value FROM setting WHERE name = ?");
    this.#set = db.prepare("INSERT OR REPLACE INTO setting (name, value) VALUES (?, ?)");
    this.#remove = db.prepare("DELETE FROM setting WHERE name = ?");
  }

  get(name: Setting): string | undefined {
    return this.#get.get(name)?.value;
  }

  set(name: Setting, value: string): void {
    this.#set.run(name, value);
  }

  remove(name: Setting): void {
    this.#remove.run(name);
  }
}
