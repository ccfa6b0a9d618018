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
import { checkExported, importDatabase } from "./transfer.js";
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

/** Somebody wants the file of an atSign that is in use. */
export interface Transfer {
  readonly atSign: AtSign;
  /** Absolute. */
  readonly path: string;
  /** It is no longer to be hosted here. */
  readonly move: boolean;
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
      (name TEXT PRIMARY KEY, host TEXT, port INTEGER, pinned INTEGER NOT NULL, state TEXT NOT NULL) WITHOUT ROWID;
      CREATE TABLE IF NOT EXISTS transfer
      (name TEXT PRIMARY KEY, path TEXT NOT NULL, move INTEGER NOT NULL, outcome TEXT) WITHOUT ROWID`);
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
    this.#host(atSign, options);
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

  /** Whether it was hosted or known to the directory. The file is put aside by {@link forget}, when nobody has it open. */
  markRemoved(atSign: AtSign): boolean {
    const { changes } = this.directory.db
      .prepare("UPDATE hosted SET state = 'removing' WHERE name = ?")
      .run(bareAtSign(atSign));
    return this.directory.remove(bareAtSign(atSign)) || changes > 0;
  }

  /** An atSign that is hosted elsewhere: the directory only says where. */
  point(atSign: AtSign, { host, port }: { readonly host: string; readonly port: number }): void {
    if (this.find(atSign)) throw new AlreadyHosted(`${atSign} is hosted here`);
    this.directory.set({ name: bareAtSign(atSign), host, port });
  }

  /**
   * Takes in the file of an atSign that was exported elsewhere, or here and then removed.
   *
   * @throws {AlreadyHosted}, TransferRefused.
   */
  async import(path: string, options: { readonly host?: string; readonly port?: number }): Promise<AtSign> {
    const atSign = checkExported(path);
    if (this.find(atSign)) throw new AlreadyHosted(`${atSign} is hosted here already`);
    if (existsSync(this.fileOf(atSign))) await this.putAside(atSign);
    await importDatabase(path, this.fileOf(atSign));
    this.#host(atSign, options);
    return atSign;
  }

  /** Asks the running platform for the file. */
  requestTransfer({ atSign, path, move }: Transfer): void {
    this.directory.db
      .prepare("INSERT OR REPLACE INTO transfer (name, path, move, outcome) VALUES (?, ?, ?, NULL)")
      .run(bareAtSign(atSign), path, move ? 1 : 0);
  }

  /** Those that nobody has carried out yet. */
  transfers(): readonly Transfer[] {
    const rows = this.directory.db
      .prepare<[], { name: string; path: string; move: number }>("SELECT * FROM transfer WHERE outcome IS NULL")
      .all();
    return rows.map(({ name, path, move }) => ({ atSign: parseAtSign(name), path, move: move === 1 }));
  }

  /** `failure` empty: it is done. */
  endTransfer(atSign: AtSign, failure: string): void {
    this.directory.db.prepare("UPDATE transfer SET outcome = ? WHERE name = ?").run(failure, bareAtSign(atSign));
  }

  /** What became of it, once it has ended: empty, or why it failed. */
  transferOutcome(atSign: AtSign): string | undefined {
    const row = this.directory.db
      .prepare<[string], { outcome: string | null }>("SELECT outcome FROM transfer WHERE name = ?")
      .get(bareAtSign(atSign));
    return row?.outcome ?? undefined;
  }

  #host(
    atSign: AtSign,
    { host, port }: { readonly host?: string | undefined; readonly port?: number | undefined },
  ): void {
    this.directory.db
      .prepare("INSERT INTO hosted (name, host, port, pinned, state) VALUES (?, ?, ?, ?, 'hosted')")
      .run(bareAtSign(atSign), host ?? null, port ?? null, port === undefined ? 0 : 1);
  }

  /** Hosted here no longer; what the directory says of it stays until {@link PlatformStore.point} changes it. */
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
