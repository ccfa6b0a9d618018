import { join } from "node:path";
import { systemClock, type Clock } from "../../core/clock.js";
import { EdgeError } from "../../core/errors.js";
import type { DiskSync } from "../../core/disk-sync.js";
import { silentLog, type Log } from "../../core/log.js";
import { makeFolder } from "../../core/make-folder.js";
import { Scope, type Disposable } from "../../core/scope.js";
import { DirectoryServer } from "../directory/directory-server.js";
import { parseAtSign, type AtSign } from "../protocol/at-sign.js";
import type { DirectoryAddress } from "../transport/directory.js";
import { formatHostPort, type HostPort } from "../transport/host-port.js";
import type { ServerIdentity } from "../transport/listen.js";
import type { AtServer } from "./at-server.js";
import { lockFolder } from "./folder-lock.js";
import { Identities, isThisMachine, type CertificateFiles } from "./identity.js";
import { makeCramSecret, PlatformStore, type HostedAtSign, type Transfer } from "./platform-store.js";
import { explained, type PortRange } from "./ports.js";
import { localResolver, remoteResolver } from "./resolver.js";
import { RunningServers, type RunningServersOptions } from "./running-servers.js";
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

/** An atPlatform in one process: an atDirectory and any number of atServers. */
export class Platform implements Disposable {
  /** What clients need to trust; empty with certificates of a public authority. */
  readonly caPem: string;
  readonly caFile: string | undefined;
  readonly host: string;
  readonly store: PlatformStore;
  readonly #options: PlatformOptions;
  readonly #signal: AbortSignal;
  readonly #scope: Scope;
  readonly #log: Log;
  readonly #clock: Clock;
  readonly #running: RunningServers;
  readonly #identities: Identities;
  #identity: ServerIdentity;
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
    this.#log = options.log ?? silentLog;
    this.#clock = options.clock ?? systemClock;
    this.store = store;
    this.#scope = scope;
    this.#signal = signal;
    this.caPem = identities.devCa?.caPem ?? options.extraCaPem ?? "";
    this.caFile = identities.devCa?.caFile;
    this.#identities = identities;
    this.#running = scope.use(new RunningServers(serversOptions(options, parts, signal), signal));
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
    return this.#running.all.map(({ server }) => server);
  }

  list(): readonly (HostPort & { readonly atSign: AtSign })[] {
    return this.#running.all.map(({ server, host, port }) => ({ atSign: server.atSign, host, port }));
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
      if (!this.#running.get(atSign)) {
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
    await this.#syncing;
    await this.#running.close(signal);
    await this[Symbol.asyncDispose]();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#scope[Symbol.asyncDispose]();
  }

  async #start(): Promise<void> {
    const { directoryPort = 0 } = this.#options;
    this.#scope.defer(() => this.#syncing);
    const find = (name: string): string | undefined => {
      const entry = this.store.directory.find(name);
      return entry && formatHostPort(entry);
    };
    const open = { host: bindOf(this.#options), port: directoryPort, identity: this.#identity, find };
    const directory = DirectoryServer.open({ ...open, clock: this.#clock, log: this.#log }, this.#signal);
    this.#directory = this.#scope.use(await explained(directory, "the atDirectory", directoryPort));
    const { sharedPort } = this.#options;
    if (sharedPort !== undefined) await this.#running.openSharedPort(sharedPort, this.#identity);
    await this.#sync();
    const polls = [
      setInterval(() => this.#pollStore(), POLL_MS),
      setInterval(() => this.#pollHealth(), HEALTH_POLL_MS).unref(),
    ];
    this.#scope.defer(() => polls.forEach((poll) => clearInterval(poll)));
  }

  /** Reads certificates anew. Open connections stay as they are; new ones see the new certificate. */
  async refreshIdentities(): Promise<void> {
    const identity = await this.#identities.forHost(this.host);
    if (identity.cert !== this.#identity.cert) {
      this.#identity = identity;
      this.#directory?.setIdentity(identity);
      this.#log.info({ host: this.host }, "certificate renewed");
    }
    await this.#running.refreshIdentities();
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
        else if (!this.#running.get(hosted.atSign)) await this.#running.start(hosted);
      } catch (error) {
        failures.push(error); // the others are not to suffer
      }
    }
    if (failures.length > 0) throw failures[0];
  }

  /** After a sync that the disk did not confirm, nobody knows what it holds: the file is to be opened anew. */
  async #stopFailed(): Promise<void> {
    for (const { server } of this.#running.all) {
      const { atSign, services } = server;
      const { state, errorCode } = services.commits.health;
      if (state !== "failed") continue;
      this.#log.error({ atSign, code: errorCode }, "the disk failed; the atServer is restarted");
      await this.#running.stop(atSign).catch((error: unknown) => {
        this.#log.warn({ atSign, err: error }, "stopped with an error");
      });
    }
  }

  /** Copies a file for somebody; who moves has it stopped first, so that nothing is answered that the copy lacks. */
  async #transfer({ atSign, path, move }: Transfer): Promise<void> {
    const running = this.#running.get(atSign);
    try {
      if (!running) throw new EdgeError(`${atSign} does not run here`);
      if (move) await this.#moveOut(atSign, path);
      else await running.server.export(path);
      this.store.endTransfer(atSign, "");
      this.#log.info({ atSign, moved: move }, "atSign exported");
    } catch (error) {
      this.#log.error({ atSign, err: error }, "an atSign could not be exported");
      this.store.endTransfer(atSign, error instanceof Error ? error.message : String(error));
    }
  }

  async #moveOut(atSign: AtSign, path: string): Promise<void> {
    await this.#running.stop(atSign, AbortSignal.timeout(MOVE_GRACE_MS));
    await exportFile(this.store.fileOf(atSign), atSign, path);
    await this.store.forget(atSign);
  }

  async #remove(atSign: AtSign): Promise<void> {
    await this.#running.stop(atSign);
    await this.store.forget(atSign);
    this.#log.info({ atSign }, "atServer removed");
  }
}

const hostOf = ({ host = "localhost" }: PlatformOptions): string => host;

const bindOf = (options: PlatformOptions): string =>
  options.bind ?? (isThisMachine(hostOf(options)) ? "127.0.0.1" : "::");

function serversOptions(
  options: PlatformOptions,
  { store, identities }: { readonly store: PlatformStore; readonly identities: Identities },
  signal: AbortSignal,
): RunningServersOptions {
  const { directory, extraCaPem: ca, clock = systemClock, log = silentLog, portRange, disk } = options;
  return {
    ...{ store, identities, portRange, disk, clock, log },
    resolver: directory ? remoteResolver(directory, { ca, clock }, signal) : localResolver(store.directory),
    host: hostOf(options),
    bind: bindOf(options),
    settings: { ...defaultSettings, ...options.settings },
  };
}
