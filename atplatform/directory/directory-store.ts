import Database from "better-sqlite3";

export interface DirectoryEntry {
  /** An atSign without `@`, lower case, without dots. */
  readonly name: string;
  readonly host: string;
  readonly port: number;
}

/**
 * What the atDirectory knows: bare atSign → where its atServer listens. The file may be edited by another process while
 * the directory runs (`atedge platform add`): every look-up reads it.
 */
export class DirectoryStore {
  readonly db: Database.Database;
  readonly #find: Database.Statement<[string], DirectoryEntry>;
  readonly #set: Database.Statement<[string, string, number]>;
  readonly #remove: Database.Statement<[string]>;
  readonly #list: Database.Statement<[], DirectoryEntry>;

  /** @throws a SqliteError or Node system error when the file cannot be opened or made. */
  constructor(path: string) {
    this.db = new Database(path, { timeout: 5_000 });
    this.db.pragma("journal_mode = WAL");
    this.db.pragma("synchronous = FULL");
    this.db.exec(
      "CREATE TABLE IF NOT EXISTS entry (name TEXT PRIMARY KEY, host TEXT NOT NULL, port INTEGER NOT NULL) WITHOUT ROWID",
    );
    this.#find = this.db.prepare("SELECT name, host, port FROM entry WHERE name = ?");
    this.#set = this.db.prepare("INSERT OR REPLACE INTO entry (name, host, port) VALUES (?, ?, ?)");
    this.#remove = this.db.prepare("DELETE FROM entry WHERE name = ?");
    this.#list = this.db.prepare("SELECT name, host, port FROM entry ORDER BY name");
  }

  find(name: string): DirectoryEntry | undefined {
    return this.#find.get(name);
  }

  set(entry: DirectoryEntry): void {
    this.#set.run(entry.name, entry.host, entry.port);
  }

  /** Whether there was one. */
  remove(name: string): boolean {
    return this.#remove.run(name).changes > 0;
  }

  list(): readonly DirectoryEntry[] {
    return this.#list.all();
  }

  close(): void {
    this.db.close();
  }
}
