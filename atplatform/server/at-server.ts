import { statSync } from "node:fs";
import type { SecureContext } from "node:tls";
import type { Clock } from "../../core/clock.js";
import type { DiskSync } from "../../core/disk-sync.js";
import type { Log } from "../../core/log.js";
import { ChildSignal, Scope, TaskGroup, type Disposable } from "../../core/scope.js";
import { signText } from "../crypto/signatures.js";
import type { AtSign } from "../protocol/at-sign.js";
import type { TlsChannel } from "../transport/tls-channel.js";
import { Compactions } from "./compactions.js";
import { ConnectionSet } from "./connection-set.js";
import { Connection } from "./connection.js";
import { Cookies } from "./cookies.js";
import { Delivery } from "./delivery.js";
import { dispatch } from "./dispatch.js";
import { FailureThrottle } from "./failure-throttle.js";
import { runJobs } from "./jobs.js";
import { MonitorHub } from "./monitors.js";
import { PasscodeGuard } from "./passcode-guard.js";
import { Cache } from "./outbound/cache.js";
import { Peers } from "./outbound/peers.js";
import { Refusal } from "./refusal.js";
import { RateLimit } from "./rate-limit.js";
import type { Reply } from "./reply.js";
import type { Resolver } from "./resolver.js";
import type { Services } from "./services.js";
import type { AtServerSettings } from "./settings.js";
import { signingKey } from "./signing-key.js";
import { openAtDatabase, type AtDatabase } from "./store/database.js";
import { EnrollmentStore } from "./store/enrollment-store.js";
import { KeyStore } from "./store/key-store.js";
import { NotificationStore } from "./store/notification-store.js";
import { PasscodeStore } from "./store/passcode-store.js";
import { SettingStore } from "./store/setting-store.js";
import { exportDatabase } from "./transfer.js";
import type { Call } from "./verb.js";
import { Visits } from "./visits.js";

export interface AtServerOptions {
  readonly atSign: AtSign;
  /** The atSign's SQLite file. */
  readonly path: string;
  readonly settings: AtServerSettings;
  readonly resolver: Resolver;
  /** For connections to peers. */
  readonly secureContext: () => SecureContext;
  readonly clock: Clock;
  readonly log: Log;
  readonly disk?: DiskSync;
}

const PAUSED = "Server is temporarily paused and should be available again shortly";
const SWEEP_MS = 30_000;

/** The atServer of one atSign; whoever listens hands it connections. */
export class AtServer implements Disposable {
  readonly atSign: AtSign;
  readonly services: Services;
  readonly #database: AtDatabase;
  readonly #connections: ConnectionSet<Connection>;
  readonly #stop: ChildSignal;
  readonly #scope = new Scope();
  #paused = false;
  /** Counted since the start. */
  readonly counters = { commands: 0, errors: 0, connections: 0, refused: 0 };

  private constructor(
    database: AtDatabase,
    services: Services,
    connections: ConnectionSet<Connection>,
    stop: ChildSignal,
  ) {
    this.#connections = connections;
    this.atSign = services.self;
    this.services = services;
    this.#database = database;
    this.#stop = stop;
  }

  /** @throws a SqliteError (`SQLITE_BUSY` when another process has the file) or SchemaTooNew. */
  static async open(options: AtServerOptions, signal: AbortSignal): Promise<AtServer> {
    const database = await openAtDatabase(options.path, options.disk);
    try {
      return await AtServer.#start(options, database, new ChildSignal(signal));
    } catch (error) {
      await database[Symbol.asyncDispose]();
      throw error;
    }
  }

  static async #start(options: AtServerOptions, database: AtDatabase, stop: ChildSignal): Promise<AtServer> {
    const { atSign: self, clock, resolver, secureContext } = options;
    const settings = { ...options.settings };
    const { db, commits } = database;
    const log = options.log.child({ atSign: self });
    const keys = new KeyStore(db);
    const notifications = new NotificationStore(db);
    const settingStore = new SettingStore(db);
    const privateKey = await signingKey(self, { settings: settingStore, keys, commits, clock });
    const monitors = new MonitorHub({
      self,
      notifications,
      lastCommitId: () => keys.lastCommitId,
      now: () => clock.now(),
      statsIntervalMs: settings.statsNotificationMs,
    });
    const cache = new Cache({ self, clock, commits, keys, monitors });
    const cookies = new Cookies(() => clock.monotonicMs());
    const peers = new Peers({
      ...{ self, resolver, secureContext, cookies, log },
      sign: (text) => signText(text, privateKey),
      onPublicKey: (peer, record) => cache.keepPublicKey(peer, record),
      maxConnections: settings.outboundMax,
      idleMs: settings.outboundIdleMs,
    });
    const delivery = new Delivery(
      {
        ...{ self, notifications, commits, peers, clock, log },
        attemptsMax: settings.deliveryAttemptsMax,
        backoffFirstMs: settings.deliveryBackoffFirstMs,
        backoffMaxMs: settings.deliveryBackoffMaxMs,
      },
      stop.signal,
    );
    const connections = new ConnectionSet<Connection>();
    const services: Services = {
      ...{ self, clock, log, settings, commits, keys, notifications, settingStore, monitors },
      ...{ cookies, peers, cache, delivery },
      changeSettings: (changes) => void Object.assign(settings, changes),
      storageBytes: () => statSync(options.path).size,
      startedMs: clock.monotonicMs(),
      enrollments: new EnrollmentStore(db),
      visits: new Visits(db, clock),
      compactions: new Compactions(clock),
      throttle: new FailureThrottle(clock),
      passcodes: new PasscodeStore(db),
      enrollLimit: new RateLimit(clock, {
        max: settings.enrollRequestsPerAddressMax,
        frameMs: settings.enrollTimeFrameMs,
      }),
      passcodeGuard: new PasscodeGuard(clock, settings.invalidOtpDelayMaxMs),
      connections,
    };
    const server = new AtServer(database, services, connections, stop);
    server.#run();
    return server;
  }

  #run(): void {
    const { delivery, monitors, peers } = this.services;
    const jobs = this.#scope.use(new TaskGroup(this.#stop.signal));
    jobs.start((signal) => runJobs(this.services, signal));
    const sweeper = setInterval(() => this.#sweep(), SWEEP_MS).unref();
    this.#scope.defer(() => clearInterval(sweeper));
    this.#scope.defer(() => monitors.close());
    this.#scope.defer(() => peers.close());
    this.#scope.defer(() => delivery.close());
    delivery.start();
  }

  get connections(): number {
    return this.#connections.size;
  }

  /** Serves one connection to its end. */
  async serve(channel: TlsChannel, stop: AbortSignal): Promise<void> {
    const { settings, clock, log, monitors } = this.services;
    this.#sweep();
    if (this.#connections.size >= settings.inboundMax) {
      this.counters.refused += 1;
      await channel.write("error:AT0012-Inbound connection limit exceeded\n").catch(() => undefined);
      return;
    }
    this.counters.connections += 1;
    const execute = (line: string, call: Call): Promise<Reply> => this.#execute(line, call);
    const connection = new Connection(channel, { self: this.atSign, clock, execute });
    this.#connections.add(connection);
    try {
      await connection.serve(stop);
    } catch (error) {
      log.debug({ remote: channel.remoteAddress, reason: String(error) }, "a connection was lost");
    } finally {
      monitors.unsubscribe(connection);
      this.#connections.delete(connection);
    }
  }

  /** Copies everything into a file, while connections go on. @throws TransferRefused or a system error. */
  export(path: string): Promise<void> {
    return exportDatabase(this.#database, this.atSign, path);
  }

  /** Lets what is in flight finish: every further command is answered AT0024. Aborting `signal` abandons it. */
  async close(signal: AbortSignal): Promise<void> {
    this.#paused = true;
    for (const connection of this.#connections) connection.close();
    await this.#connections.empty(signal);
    await this[Symbol.asyncDispose]();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const connection of this.#connections) connection.destroy();
    await this.#stop[Symbol.asyncDispose]();
    await this.#scope[Symbol.asyncDispose]();
    await this.#database[Symbol.asyncDispose]();
  }

  async #execute(line: string, call: Call): Promise<Reply> {
    this.counters.commands += 1;
    try {
      if (this.#paused) throw new Refusal("AT0024", PAUSED);
      return await dispatch(line, call, this.services);
    } catch (error) {
      this.counters.errors += 1;
      throw error;
    }
  }

  /** Ends idle connections; the fuller the server, the sooner (spec 2.9). */
  #sweep(): void {
    const { settings, clock } = this.services;
    const { inboundMax, unauthenticatedIdleMs, authenticatedIdleMs } = settings;
    const load = Math.max(0, (this.#connections.size - inboundMax / 2) / (inboundMax / 2));
    const allowed = (minMs: number, maxMs: number): number => {
      const lowest = Math.min(minMs, maxMs);
      return lowest + (maxMs - lowest) * (1 - load);
    };
    const now = clock.monotonicMs();
    for (const connection of this.#connections) {
      const { authentication, peer } = connection.session;
      const known = authentication !== undefined || peer !== undefined;
      const limitMs = known ? allowed(60_000, authenticatedIdleMs) : allowed(5_000, unauthenticatedIdleMs);
      if (now - connection.lastWriteMs > limitMs) connection.close();
    }
  }
}
