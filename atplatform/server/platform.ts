import { join } from "node:path";
import type { SecureContext } from "node:tls";
import { domainToASCII } from "node:url";
import { systemClock, type Clock } from "../../core/clock.js";
import { codeOf, EdgeError } from "../../core/errors.js";
import type { DiskSync } from "../../core/group-commit.js";
import { silentLog, type Log } from "../../core/log.js";
import { makeFolder } from "../../core/make-folder.js";
import { Scope, type Disposable } from "../../core/scope.js";
import { DirectoryServer } from "../directory/directory-server.js";
import { bareAtSign, parseAtSign, type AtSign } from "../protocol/at-sign.js";
import type { DirectoryAddress } from "../transport/directory.js";
import { formatHostPort, type HostPort } from "../transport/host-port.js";
import { listenTls, type ListenOptions, type ServerIdentity, type TlsListener } from "../transport/listen.js";
import { AtServer } from "./at-server.js";
import { lockFolder } from "./folder-lock.js";
import { Identities, isLoopback, type CertificateFiles } from "./identity.js";
import { makeCramSecret, PlatformStore, type HostedAtSign, type Transfer } from "./platform-store.js";
import { candidates, explained, NoPortLeft, type PortRange } from "./ports.js";
import { localResolver, remoteResolver, type Resolver } from "./resolver.js";
import { defaultSettings, type AtServerSettings } from "./settings.js";
import { exportFile } from "./transfer.js";

const POLL_MS = 300;
/** What is in flight when an atSign moves out gets this long to finish. */
const MOVE_GRACE_MS = 3_000;
/** How often certificate files are looked at, our own leaf for its end, and atServers for being well. */
const HEALTH_POLL_MS = 10_000;

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
  /**
   * One port for all atServers, told apart by the server name that clients ask for; each atSign has a host name of its
   * own, `<atSign>.<host>` unless one was given. An unknown or absent name is refused.
   */
  readonly sharedPort?: number;
  /** Certificate files, read again when they change; left out: a development CA in the state folder. */
  readonly certificate?: CertificateFiles;
  /** PEM text of further authorities, for the certificates of peers and of a directory elsewhere. */
  readonly extraCaPem?: string;
  /** A directory elsewhere, whose keeper enters our atSigns; ours then answers for our own only. */
  readonly directory?: DirectoryAddress;
  readonly settings?: Partial<AtServerSettings>;
  /** Another disk, in tests. */
  readonly disk?: DiskSync;
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
  /** `undefined`: it is reached by the shared port. */
  readonly listener: TlsListener | undefined;
  /** What clients are told. */
  readonly host: string;
  readonly port: number;
  identity: ServerIdentity;
  /** For peers, and for clients on the shared port. */
  context: SecureContext;
}

/** An atPlatform in one process: an atDirectory and any number of atServers. */
export class Platform implements Disposable {
  /** What clients need to trust; empty with certificates of a public authority. */
  readonly caPem: string;
  readonly caFile: string | undefined;
  readonly host: string;
  readonly store: PlatformStore;
  readonly #options: PlatformOptions;
  readonly #bind: string;
  readonly #signal: AbortSignal;
  readonly #scope: Scope;
  readonly #log: Log;
  readonly #clock: Clock;
  readonly #running = new Map<AtSign, Running>();
  readonly #identities: Identities;
  readonly #resolver: Resolver;
  #identity: ServerIdentity;
  #shared: TlsListener | undefined;
  #directory: DirectoryServer | undefined;
  #syncing: Promise<void> = Promise.resolve();
  #seenVersion = -1;

  private constructor(
    options: PlatformOptions,
    parts: {
      readonly store: PlatformStore;
      readonly identities: Identities;
      readonly identity: ServerIdentity;
      readonly scope: Scope;
    },
    signal: AbortSignal,
  ) {
    const { identities, identity, store, scope } = parts;
    this.#options = options;
    this.host = hostOf(options);
    this.#bind = options.bind ?? (isLoopback(this.host) ? "127.0.0.1" : "::");
    this.#log = options.log ?? silentLog;
    this.#clock = options.clock ?? systemClock;
    this.store = store;
    this.#scope = scope;
    this.#signal = signal;
    this.caPem = identities.devCa?.caPem ?? options.extraCaPem ?? "";
    this.caFile = identities.devCa?.caFile;
    this.#identities = identities;
    const { directory, extraCaPem: ca } = options;
    this.#resolver = directory
      ? remoteResolver(directory, { ca, clock: this.#clock }, signal)
      : localResolver(store.directory);
    this.#identity = identity;
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
      const { certificate: files, extraCaPem } = options;
      const identities = await Identities.open({ stateDir, files, extraCaPem, clock });
      const identity = await identities.forHost(hostOf(options));
      const platform = new Platform(options, { store, identities, identity, scope }, signal);
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
    return [...this.#running.values()].map(({ server, host, port }) => ({ atSign: server.atSign, host, port }));
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
      // It may be another one that could not be started.
      if (!this.#running.has(atSign)) {
        this.store.markRemoved(atSign);
        await this.store.forget(atSign);
        throw error;
      }
    }
    const running = this.#running.get(atSign);
    if (!running) throw new Error(`${atSign} was added but does not run`);
    return { atSign, host: running.host, port: running.port, cramSecret };
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
      listener?.stopAccepting();
      await server.close(signal);
    });
    this.#shared?.stopAccepting();
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
    if (this.#options.sharedPort !== undefined) await this.#openSharedPort(this.#options.sharedPort);
    await this.#sync();
    const polls = [
      setInterval(() => this.#pollStore(), POLL_MS),
      setInterval(() => this.#pollHealth(), HEALTH_POLL_MS).unref(),
    ];
    this.#scope.defer(() => polls.forEach((poll) => clearInterval(poll)));
  }

  async #openSharedPort(port: number): Promise<void> {
    const contextFor = (name: string): SecureContext | undefined => this.#byHost(name)?.context;
    const opening = listenTls(
      { ...this.#listenOptions(this.#log, this.#identity), port, contextFor },
      async (channel, stop) => {
        const name = channel.serverName;
        if (name !== undefined) await this.#byHost(name)?.server.serve(channel, stop);
      },
      this.#signal,
    );
    this.#shared = this.#scope.use(await explained(opening, "all atServers", port));
  }

  #byHost(name: string): Running | undefined {
    const host = name.toLowerCase();
    return [...this.#running.values()].find((running) => running.host === host);
  }

  /** Reads certificates anew. Open connections stay as they are; new ones see the new certificate. */
  async refreshIdentities(): Promise<void> {
    const identity = await this.#identities.forHost(this.host);
    if (identity.cert !== this.#identity.cert) {
      this.#identity = identity;
      this.#directory?.setIdentity(identity);
      this.#log.info({ host: this.host }, "certificate renewed");
    }
    for (const running of this.#running.values()) {
      const own = await this.#identities.forHost(running.host);
      if (own.cert === running.identity.cert) continue;
      running.identity = own;
      running.context = this.#identities.context(own);
      running.listener?.setIdentity(own);
    }
  }

  /** Every ten seconds, and by tests. */
  checkHealth(): Promise<void> {
    return this.#sync();
  }

  #pollHealth(): void {
    const isWell = ({ atSign, state }: HostedAtSign): boolean =>
      state !== "hosted" || this.#running.get(atSign)?.server.services.commits.health.state === "ok";
    if (!this.store.list().every(isWell)) this.#startOrStop();
    this.refreshIdentities().catch((error: unknown) => {
      this.#log.error({ err: error }, "the certificate could not be renewed; the old one stays in use");
    });
  }

  #pollStore(): void {
    if (this.store.version !== this.#seenVersion) this.#startOrStop();
  }

  #startOrStop(): void {
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
    for (const transfer of this.store.transfers()) await this.#transfer(transfer);
    await this.#stopFailed();
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

  /** After a sync that the disk did not confirm, nobody knows what it holds: the file is to be opened anew. */
  async #stopFailed(): Promise<void> {
    for (const [atSign, running] of this.#running) {
      const { state, errorCode } = running.server.services.commits.health;
      if (state !== "failed") continue;
      this.#log.error({ atSign, code: errorCode }, "the disk failed; the atServer is restarted");
      this.#running.delete(atSign);
      await stop(running).catch((error: unknown) => this.#log.warn({ atSign, err: error }, "stopped with an error"));
    }
  }

  /** Copies a file for somebody; who moves has it stopped first, so that nothing is answered that the copy lacks. */
  async #transfer({ atSign, path, move }: Transfer): Promise<void> {
    const running = this.#running.get(atSign);
    try {
      if (!running) throw new EdgeError(`${atSign} does not run here`);
      if (move) await this.#moveOut(atSign, running, path);
      else await running.server.export(path);
      this.store.endTransfer(atSign, "");
      this.#log.info({ atSign, moved: move }, "atSign exported");
    } catch (error) {
      this.#log.error({ atSign, err: error }, "an atSign could not be exported");
      this.store.endTransfer(atSign, error instanceof Error ? error.message : String(error));
    }
  }

  async #moveOut(atSign: AtSign, running: Running, path: string): Promise<void> {
    this.#running.delete(atSign);
    running.listener?.stopAccepting();
    await running.server.close(AbortSignal.timeout(MOVE_GRACE_MS));
    await stop(running);
    await exportFile(this.store.fileOf(atSign), atSign, path);
    await this.store.forget(atSign);
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
    const ownHost = this.#shared ? domainToASCII(`${bareAtSign(atSign)}.${this.host}`) : this.host;
    const host = hosted.host ?? ownHost;
    const identity = await this.#identities.forHost(host);
    const context = this.#identities.context(identity);
    const server = await AtServer.open(
      {
        atSign,
        path: this.store.fileOf(atSign),
        settings: { ...defaultSettings, ...this.#options.settings },
        ...(this.#options.disk && { disk: this.#options.disk }),
        resolver: this.#resolver,
        secureContext: () => this.#running.get(atSign)?.context ?? context,
        clock: this.#clock,
        log: this.#log,
      },
      this.#signal,
    );
    try {
      const listener = this.#shared ? undefined : await this.#listenSomewhere(server, hosted, identity);
      const port = listener?.port ?? this.#shared?.port ?? 0;
      this.#running.set(atSign, { server, listener, host, port, identity, context });
      this.store.setAddress(atSign, host, port);
      this.#log.info({ atSign, host, port }, "atServer listens");
    } catch (error) {
      await server[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** On the port of last time; if nobody chose that one, on another when it is in use. */
  async #listenSomewhere(
    server: AtServer,
    { atSign, port, pinned }: HostedAtSign,
    identity: ServerIdentity,
  ): Promise<TlsListener> {
    const { portRange } = this.#options;
    const what = `the atServer of ${atSign}`;
    if (pinned && port !== null) return await explained(this.#listen(server, port, identity), what, port);
    const taken = new Set(this.store.list().map((other) => (other.atSign === atSign ? null : other.port)));
    for (const candidate of candidates(port, portRange)) {
      if (taken.has(candidate)) continue;
      try {
        return await this.#listen(server, candidate, identity);
      } catch (error) {
        if (codeOf(error) !== "EADDRINUSE") throw error;
      }
    }
    throw new NoPortLeft(
      `no port is left for ${what}${portRange ? ` from ${portRange.first} to ${portRange.last}` : ""}`,
    );
  }

  #listen(server: AtServer, port: number, identity: ServerIdentity): Promise<TlsListener> {
    const log = this.#log.child({ atSign: server.atSign });
    return listenTls(
      { ...this.#listenOptions(log, identity), port },
      (channel, stop) => server.serve(channel, stop),
      this.#signal,
    );
  }

  #listenOptions(log: Log, identity: ServerIdentity): Omit<ListenOptions, "port"> {
    return {
      host: this.#bind,
      identity,
      clientCa: this.#identities.authoritiesPem,
      onHandshakeError: (error) => log.debug({ reason: error.message }, "TLS handshake failed"),
      onFailure: (error) => log.error({ err: error }, "a connection failed"),
    };
  }

  async #stopAll(): Promise<void> {
    await this.#syncing;
    const all = [...this.#running.values()];
    this.#running.clear();
    await Promise.all(all.map(stop));
  }
}

async function stop({ server, listener }: Running): Promise<void> {
  listener?.stopAccepting();
  await server[Symbol.asyncDispose]();
  await listener?.[Symbol.asyncDispose]();
}

const hostOf = ({ host = "localhost" }: PlatformOptions): string => host;
