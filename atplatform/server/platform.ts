import Database from "better-sqlite3";
import { join } from "node:path";
import { createSecureContext, type SecureContext } from "node:tls";
import { systemClock, type Clock } from "../../core/clock.js";
import { codeOf, EdgeError } from "../../core/errors.js";
import { silentLog, type Log } from "../../core/log.js";
import { makeFolder } from "../../core/make-folder.js";
import { Scope, type Disposable } from "../../core/scope.js";
import { DirectoryServer } from "../directory/directory-server.js";
import { bareAtSign, parseAtSign, type AtSign } from "../protocol/at-sign.js";
import { formatHostPort, type HostPort } from "../transport/host-port.js";
import { listenTls, type ServerIdentity, type TlsListener } from "../transport/listen.js";
import { AtServer } from "./at-server.js";
import { DevCa } from "./dev-ca.js";
import { makeCramSecret, PlatformStore, type HostedAtSign } from "./platform-store.js";
import { defaultSettings, type AtServerSettings } from "./settings.js";

const POLL_MS = 300;
const LOOPBACK: ReadonlySet<string> = new Set(["localhost", "127.0.0.1", "::1"]);

/** Another process runs a platform from this folder. */
export class PlatformRunning extends EdgeError {
  override readonly code: string = "PLATFORM_RUNNING";
}

/** A port cannot be listened on; the message says which, for what and why. */
export class PortUnavailable extends EdgeError {
  override readonly code: string = "PORT_UNAVAILABLE";
}

/** Every port of the range is taken. */
export class NoPortLeft extends EdgeError {
  override readonly code: string = "NO_PORT_LEFT";
}

export interface PortRange {
  readonly first: number;
  readonly last: number;
}

export interface PlatformOptions {
  /** Everything that is kept; made when it is not there, for the owner's eyes only. */
  readonly stateDir: string;
  /** What clients are told, and what the certificate is for; `localhost` unless given. */
  readonly host?: string;
  /** What is listened on; loopback for a loopback host, otherwise all addresses. */
  readonly bind?: string;
  /** 0 (default): any free port. */
  readonly directoryPort?: number;
  /** Ports of the atServers; left out: any free ones, and the same again after a restart. */
  readonly portRange?: PortRange;
  readonly settings?: Partial<AtServerSettings>;
  readonly clock?: Clock;
  readonly log?: Log;
}

export interface AddedAtSign extends HostPort {
  readonly atSign: AtSign;
  /** For the first login; shown once. */
  readonly cramSecret: string;
}

/** Opens an atDirectory and the atServers of all atSigns that the folder holds. */
export const openPlatform = (options: PlatformOptions, signal: AbortSignal): Promise<Platform> =>
  Platform.open(options, signal);

interface Running {
  readonly server: AtServer;
  readonly listener: TlsListener;
  /** What clients are told. */
  readonly host: string;
}

/** An atPlatform in one process: an atDirectory and any number of atServers. */
export class Platform implements Disposable {
  readonly caPem: string;
  readonly caFile: string;
  readonly host: string;
  readonly store: PlatformStore;
  readonly #options: PlatformOptions;
  readonly #bind: string;
  readonly #signal: AbortSignal;
  readonly #scope: Scope;
  readonly #log: Log;
  readonly #clock: Clock;
  readonly #running = new Map<AtSign, Running>();
  readonly #identity: ServerIdentity;
  readonly #secureContext: SecureContext;
  #directory: DirectoryServer | undefined;
  #syncing: Promise<void> = Promise.resolve();
  #seenVersion = -1;

  private constructor(
    options: PlatformOptions,
    parts: {
      readonly store: PlatformStore;
      readonly ca: DevCa;
      readonly identity: ServerIdentity;
      readonly scope: Scope;
    },
    signal: AbortSignal,
  ) {
    const { ca, identity, store, scope } = parts;
    this.#options = options;
    this.host = hostOf(options);
    this.#bind = options.bind ?? (LOOPBACK.has(this.host) ? "127.0.0.1" : "::");
    this.#log = options.log ?? silentLog;
    this.#clock = options.clock ?? systemClock;
    this.store = store;
    this.#scope = scope;
    this.#signal = signal;
    this.caPem = ca.caPem;
    this.caFile = ca.caFile;
    this.#identity = identity;
    this.#secureContext = createSecureContext({ ...identity, ca: ca.caPem, minVersion: "TLSv1.2" });
  }

  /** @throws {PlatformRunning}, {@link PortUnavailable}, or a system error when the folder cannot be written. */
  static async open(options: PlatformOptions, signal: AbortSignal): Promise<Platform> {
    const { stateDir, clock = systemClock } = options;
    const scope = new Scope();
    try {
      await makeFolder(join(stateDir, "atsigns"));
      scope.defer(lockFolder(stateDir));
      const store = new PlatformStore(stateDir);
      scope.defer(() => store.close());
      const ca = await DevCa.open(stateDir, clock);
      const identity = await ca.leafFor(certificateHosts(hostOf(options)));
      const platform = new Platform(options, { store, ca, identity, scope }, signal);
      await platform.#start();
      return platform;
    } catch (error) {
      await scope[Symbol.asyncDispose]();
      throw error;
    }
  }

  get directoryPort(): number {
    return this.#directory?.port ?? 0;
  }

  get directory(): DirectoryServer | undefined {
    return this.#directory;
  }

  get servers(): readonly AtServer[] {
    return [...this.#running.values()].map(({ server }) => server);
  }

  list(): readonly (HostPort & { readonly atSign: AtSign })[] {
    return [...this.#running.values()].map(({ server, listener, host }) => ({
      atSign: server.atSign,
      host,
      port: listener.port,
    }));
  }

  /**
   * Hosts one more atSign, listening when this resolves.
   *
   * @throws AtSignInvalid, AlreadyHosted, NoPortLeft, {@link PortUnavailable}.
   */
  async add(
    text: string,
    options: { readonly cramSecret?: string; readonly port?: number } = {},
  ): Promise<AddedAtSign> {
    const atSign = parseAtSign(text);
    const { cramSecret = makeCramSecret(), port: wanted } = options;
    await this.store.add(atSign, { cramSecret, port: wanted });
    try {
      await this.#sync();
    } catch (error) {
      this.store.markRemoved(atSign);
      await this.store.forget(atSign);
      throw error;
    }
    const port = this.#running.get(atSign)?.listener.port;
    if (port === undefined) throw new Error(`${atSign} was added but does not run`);
    return { atSign, host: this.host, port, cramSecret };
  }

  /** Stops hosting an atSign and puts its file aside. Whether it was hosted. */
  async remove(text: string): Promise<boolean> {
    const was = this.store.markRemoved(parseAtSign(text));
    await this.#sync();
    return was;
  }

  /** Lets what is in flight finish, then ends; aborting `signal` abandons it. */
  async close(signal: AbortSignal): Promise<void> {
    this.#directory?.stopAnswering();
    const closing = [...this.#running.values()].map(async ({ server, listener }) => {
      listener.stopAccepting();
      await server.close(signal);
    });
    await Promise.all(closing);
    await this[Symbol.asyncDispose]();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#scope[Symbol.asyncDispose]();
  }

  async #start(): Promise<void> {
    const { directoryPort = 0 } = this.#options;
    this.#scope.defer(() => this.#stopAll());
    const find = (name: string): string | undefined => {
      const entry = this.store.directory.find(name);
      return entry && formatHostPort(entry);
    };
    const open = { host: this.#bind, port: directoryPort, identity: this.#identity, find };
    const directory = DirectoryServer.open({ ...open, clock: this.#clock, log: this.#log }, this.#signal);
    this.#directory = this.#scope.use(await explained(directory, "the atDirectory", directoryPort));
    await this.#sync();
    const poll = setInterval(() => this.#pollStore(), POLL_MS);
    this.#scope.defer(() => clearInterval(poll));
  }

  #pollStore(): void {
    if (this.store.version === this.#seenVersion) return;
    this.#sync().catch((error: unknown) =>
      this.#log.error({ err: error }, "an atSign could not be started or stopped"),
    );
  }

  /** Brings what runs in line with what the store lists, one change after the other. */
  #sync(): Promise<void> {
    const next = this.#syncing.then(() => this.#syncOnce());
    this.#syncing = next.catch(() => undefined);
    return next;
  }

  async #syncOnce(): Promise<void> {
    this.#signal.throwIfAborted();
    this.#seenVersion = this.store.version;
    const failures: unknown[] = [];
    for (const hosted of this.store.list()) {
      try {
        if (hosted.state === "removing") await this.#remove(hosted.atSign);
        else if (!this.#running.has(hosted.atSign)) await this.#startServer(hosted);
      } catch (error) {
        failures.push(error); // the others are not to suffer
      }
    }
    if (failures.length > 0) throw failures[0];
  }

  async #remove(atSign: AtSign): Promise<void> {
    const running = this.#running.get(atSign);
    this.#running.delete(atSign);
    if (running) await stop(running);
    await this.store.forget(atSign);
    this.#log.info({ atSign }, "atServer removed");
  }

  async #startServer(hosted: HostedAtSign): Promise<void> {
    const { atSign } = hosted;
    const host = hosted.host ?? this.host;
    const server = await AtServer.open(
      {
        atSign,
        path: this.store.fileOf(atSign),
        settings: { ...defaultSettings, ...this.#options.settings },
        resolve: (other) => Promise.resolve(this.store.directory.find(bareAtSign(other))),
        secureContext: () => this.#secureContext,
        clock: this.#clock,
        log: this.#log,
      },
      this.#signal,
    );
    try {
      const listener = await this.#listenSomewhere(server, hosted);
      this.#running.set(atSign, { server, listener, host });
      this.store.setAddress(atSign, host, listener.port);
      this.#log.info({ atSign, port: listener.port }, "atServer listens");
    } catch (error) {
      await server[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** On the port of last time; if nobody chose that one, on another when it is in use. */
  async #listenSomewhere(server: AtServer, { atSign, port, pinned }: HostedAtSign): Promise<TlsListener> {
    const { portRange } = this.#options;
    const what = `the atServer of ${atSign}`;
    if (pinned && port !== null) return await explained(this.#listen(server, port), what, port);
    const taken = new Set(this.store.list().map((other) => (other.atSign === atSign ? null : other.port)));
    for (const candidate of candidates(port, portRange)) {
      if (taken.has(candidate)) continue;
      try {
        return await this.#listen(server, candidate);
      } catch (error) {
        if (codeOf(error) !== "EADDRINUSE") throw error;
      }
    }
    throw new NoPortLeft(
      `no port is left for ${what}${portRange ? ` from ${portRange.first} to ${portRange.last}` : ""}`,
    );
  }

  #listen(server: AtServer, port: number): Promise<TlsListener> {
    const log = this.#log.child({ atSign: server.atSign });
    return listenTls(
      {
        host: this.#bind,
        port,
        identity: this.#identity,
        clientCa: this.caPem,
        onHandshakeError: (error) => log.debug({ reason: error.message }, "TLS handshake failed"),
        onFailure: (error) => log.error({ err: error }, "a connection failed"),
      },
      (channel, stop) => server.serve(channel, stop),
      this.#signal,
    );
  }

  async #stopAll(): Promise<void> {
    await this.#syncing;
    const all = [...this.#running.values()];
    this.#running.clear();
    await Promise.all(all.map(stop));
  }
}

async function stop({ server, listener }: Running): Promise<void> {
  listener.stopAccepting();
  await server[Symbol.asyncDispose]();
  await listener[Symbol.asyncDispose]();
}

function* candidates(last: number | null, range: PortRange | undefined): Generator<number> {
  if (!range) {
    if (last !== null) yield last;
    yield 0;
    return;
  }
  if (last !== null && last >= range.first && last <= range.last) yield last;
  for (let port = range.first; port <= range.last; port += 1) yield port;
}

const hostOf = ({ host = "localhost" }: PlatformOptions): string => host;

const certificateHosts = (host: string): [string, ...string[]] =>
  LOOPBACK.has(host) ? ["localhost", "127.0.0.1", "::1"] : [host];

/** Whether a process runs a platform from this folder. */
export function platformRuns(stateDir: string): boolean {
  try {
    lockFolder(stateDir)();
    return false;
  } catch (error) {
    if (error instanceof PlatformRunning) return true;
    throw error;
  }
}

/** One platform a folder: an SQLite lock goes with the process, however it ends. */
function lockFolder(stateDir: string): () => void {
  const lock = new Database(join(stateDir, "platform.lock"), { timeout: 0 });
  try {
    lock.exec("BEGIN EXCLUSIVE");
  } catch (cause) {
    lock.close();
    if (codeOf(cause) !== "SQLITE_BUSY") throw cause;
    throw new PlatformRunning(`another process runs a platform from ${stateDir}`, { cause });
  }
  return () => lock.close();
}

async function explained<T>(listening: Promise<T>, what: string, port: number): Promise<T> {
  try {
    return await listening;
  } catch (cause) {
    const code = codeOf(cause);
    if (code === "EADDRINUSE") throw new PortUnavailable(`port ${port} for ${what} is in use`, { cause });
    if (code === "EACCES")
      throw new PortUnavailable(`port ${port} for ${what} needs more rights (below 1024?)`, { cause });
    throw cause;
  }
}
