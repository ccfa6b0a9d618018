import { randomBytes } from "node:crypto";
import { existsSync } from "node:fs";
import { rename } from "node:fs/promises";
import { join } from "node:path";
import { systemClock } from "../../core/clock.js";
import { codeOf, EdgeError } from "../../core/errors.js";
import { DirectoryStore } from "../directory/directory-store.js";
import { bareAtSign, parseAtSign, type AtSign } from "../protocol/at-sign.js";
import { openAtDatabase } from "./store/database.js";
import { KeyStore } from "./store/key-store.js";
import { mergeMetadata } from "./store/metadata.js";
import { CRAM_SECRET } from "./verbs/login.js";

/** The atSign is hosted here already. */
export class AlreadyHosted extends EdgeError {
  override readonly code: string = "ALREADY_HOSTED";
}

export interface HostedAtSign {
  readonly atSign: AtSign;
  /** What clients are told; `null`: the platform's own. */
  readonly host: string | null;
  /** The one of last time; `null`: not yet found. */
  readonly port: number | null;
  /** Somebody chose the port: no other will do. */
  readonly pinned: boolean;
  /** `removing`: the running platform is to stop it and put its file aside. */
  readonly state: "hosted" | "removing";
}

interface Row {
  readonly name: string;
  readonly host: string | null;
  readonly port: number | null;
  readonly pinned: number;
  readonly state: "hosted" | "removing";
}

/**
 * Which atSigns a platform hosts, in the file of its atDirectory. The command line edits it while the platform runs; the
 * platform notices by {@link PlatformStore.version}.
 */
export class PlatformStore {
  readonly directory: DirectoryStore;
  readonly stateDir: string;

  /** @throws a SqliteError or Node system error when the folder cannot be written. */
  constructor(stateDir: string) {
    this.stateDir = stateDir;
    this.directory = new DirectoryStore(join(stateDir, "directory.db"));
    this.directory.db.exec(`CREATE TABLE IF NOT EXISTS hosted
      (name TEXT PRIMARY KEY, host TEXT, port INTEGER, pinned INTEGER NOT NULL, state TEXT NOT NULL) WITHOUT ROWID`);
  }

  /** Changes when another process has written. */
  get version(): number {
    return Number(this.directory.db.pragma("data_version", { simple: true }));
  }

  list(): readonly HostedAtSign[] {
    const rows = this.directory.db.prepare("SELECT * FROM hosted ORDER BY name").all() as Row[];
    return rows.map(({ name, pinned, ...rest }) => ({ atSign: parseAtSign(name), pinned: pinned === 1, ...rest }));
  }

  find(atSign: AtSign): HostedAtSign | undefined {
    return this.list().find((hosted) => hosted.atSign === atSign);
  }

  fileOf(atSign: AtSign): string {
    return join(this.stateDir, "atsigns", `${fileName(atSign)}.db`);
  }

  /**
   * Makes the atSign's file with its CRAM secret and lists it as hosted.
   *
   * @throws {AlreadyHosted}.
   */
  async add(
    atSign: AtSign,
    options: { readonly cramSecret: string; readonly host?: string | undefined; readonly port?: number | undefined },
  ): Promise<void> {
    if (this.find(atSign)) throw new AlreadyHosted(`${atSign} is hosted here already`);
    if (existsSync(this.fileOf(atSign))) await this.putAside(atSign);
    await writeSecret(this.fileOf(atSign), atSign, options.cramSecret);
    const { host = null, port = null } = options;
    this.directory.db
      .prepare("INSERT INTO hosted (name, host, port, pinned, state) VALUES (?, ?, ?, ?, 'hosted')")
      .run(bareAtSign(atSign), host, port, port === null ? 0 : 1);
  }

  /** Where it listens now: tells the directory. */
  setAddress(atSign: AtSign, host: string, port: number): void {
    this.directory.db.transaction(() => {
      this.directory.db
        .prepare("UPDATE hosted SET port = ? WHERE name = ? AND port IS NOT ?")
        .run(port, bareAtSign(atSign), port);
      this.directory.set({ name: bareAtSign(atSign), host, port });
    })();
  }

  /** Whether it was hosted. The file is put aside by {@link forget}, when nobody has it open. */
  markRemoved(atSign: AtSign): boolean {
    const { changes } = this.directory.db
      .prepare("UPDATE hosted SET state = 'removing' WHERE name = ?")
      .run(bareAtSign(atSign));
    this.directory.remove(bareAtSign(atSign));
    return changes > 0;
  }

  async forget(atSign: AtSign): Promise<void> {
    if (existsSync(this.fileOf(atSign))) await this.putAside(atSign);
    this.directory.db.prepare("DELETE FROM hosted WHERE name = ?").run(bareAtSign(atSign));
  }

  /** Nothing is deleted: the file gets another name, with the time in it. */
  async putAside(atSign: AtSign): Promise<void> {
    const stamp = new Date().toISOString().replaceAll(/[:.]/gu, "-");
    for (const suffix of ["", "-wal"]) {
      try {
        await rename(`${this.fileOf(atSign)}${suffix}`, `${this.fileOf(atSign)}.removed-${stamp}${suffix}`);
      } catch (error) {
        if (codeOf(error) !== "ENOENT") throw error;
      }
    }
  }

  close(): void {
    this.directory.close();
  }
}

/** 512 random bits, in the form that the registrar gives them. */
export const makeCramSecret = (): string => randomBytes(64).toString("hex");

/** Letters, digits, `_` and `-` stand for themselves; everything else, emoji for one, as percent-encoded UTF-8. */
const fileName = (atSign: AtSign): string => encodeURIComponent(bareAtSign(atSign));

async function writeSecret(path: string, atSign: AtSign, secret: string): Promise<void> {
  const database = await openAtDatabase(path);
  try {
    const keys = new KeyStore(database.db);
    const metadata = mergeMetadata(undefined, {}, atSign, systemClock.now());
    await database.commits.write(() => keys.putUnlogged({ name: CRAM_SECRET, value: secret, metadata }));
  } finally {
    await database[Symbol.asyncDispose]();
  }
}
