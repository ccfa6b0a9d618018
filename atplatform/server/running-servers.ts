import type { SecureContext } from "node:tls";
import { domainToASCII } from "node:url";
import type { Clock } from "../../core/clock.js";
import { codeOf } from "../../core/errors.js";
import type { DiskSync } from "../../core/disk-sync.js";
import type { Log } from "../../core/log.js";
import type { Disposable } from "../../core/scope.js";
import { bareAtSign, type AtSign } from "../protocol/at-sign.js";
import { listenTls, type ListenOptions, type ServerIdentity, type TlsListener } from "../transport/listen.js";
import { AtServer } from "./at-server.js";
import type { Identities } from "./identity.js";
import type { HostedAtSign, PlatformStore } from "./platform-store.js";
import { candidates, explained, NoPortLeft, type PortRange } from "./ports.js";
import type { Resolver } from "./resolver.js";
import type { AtServerSettings } from "./settings.js";

export interface RunningServersOptions {
  readonly store: PlatformStore;
  readonly identities: Identities;
  readonly resolver: Resolver;
  /** What clients are told unless an atSign has a host name of its own. */
  readonly host: string;
  /** What is listened on. */
  readonly bind: string;
  readonly portRange: PortRange | undefined;
  readonly settings: AtServerSettings;
  readonly disk: DiskSync | undefined;
  readonly clock: Clock;
  readonly log: Log;
}

export interface Running {
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

/** The atServers of a platform that run, each with its port or all with one. */
export class RunningServers implements Disposable {
  readonly #options: RunningServersOptions;
  readonly #signal: AbortSignal;
  readonly #running = new Map<AtSign, Running>();
  #shared: TlsListener | undefined;

  constructor(options: RunningServersOptions, signal: AbortSignal) {
    this.#options = options;
    this.#signal = signal;
  }

  get(atSign: AtSign): Running | undefined {
    return this.#running.get(atSign);
  }

  get all(): readonly Running[] {
    return [...this.#running.values()];
  }

  /** From now on atServers are told apart by the server name that clients ask for. @throws {PortUnavailable} */
  async openSharedPort(port: number, identity: ServerIdentity): Promise<void> {
    const contextFor = (name: string): SecureContext | undefined => this.#byHost(name)?.context;
    const opening = listenTls(
      { ...this.#listenOptions(this.#options.log, identity), port, contextFor },
      async (channel, stop) => {
        const name = channel.serverName;
        if (name !== undefined) await this.#byHost(name)?.server.serve(channel, stop);
      },
      this.#signal,
    );
    this.#shared = await explained(opening, "all atServers", port);
  }

  #byHost(name: string): Running | undefined {
    const host = name.toLowerCase();
    return this.all.find((running) => running.host === host);
  }

  /** @throws {PortUnavailable}, {@link NoPortLeft}, or what opening the file throws. */
  async start(hosted: HostedAtSign): Promise<void> {
    const { atSign } = hosted;
    const { store, identities, resolver, settings, disk, clock, log } = this.#options;
    const ownHost = this.#shared ? domainToASCII(`${bareAtSign(atSign)}.${this.#options.host}`) : this.#options.host;
    const host = hosted.host ?? ownHost;
    const identity = await identities.forHost(host);
    const context = identities.context(identity);
    const server = await AtServer.open(
      {
        atSign,
        path: store.fileOf(atSign),
        ...{ settings, resolver, clock, log },
        ...(disk && { disk }),
        secureContext: () => this.#running.get(atSign)?.context ?? context,
      },
      this.#signal,
    );
    try {
      const listener = this.#shared ? undefined : await this.#listenSomewhere(server, hosted, identity);
      const port = listener?.port ?? this.#shared?.port ?? 0;
      this.#running.set(atSign, { server, listener, host, port, identity, context });
      store.setAddress(atSign, host, port);
      log.info({ atSign, host, port }, "atServer listens");
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
    const { portRange, store } = this.#options;
    const what = `the atServer of ${atSign}`;
    if (pinned && port !== null) return await explained(this.#listen(server, port, identity), what, port);
    const taken = new Set(store.list().map((other) => (other.atSign === atSign ? null : other.port)));
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
    const log = this.#options.log.child({ atSign: server.atSign });
    return listenTls(
      { ...this.#listenOptions(log, identity), port },
      (channel, stop) => server.serve(channel, stop),
      this.#signal,
    );
  }

  #listenOptions(log: Log, identity: ServerIdentity): Omit<ListenOptions, "port"> {
    return {
      host: this.#options.bind,
      identity,
      clientCa: this.#options.identities.authoritiesPem,
      onHandshakeError: (error) => log.debug({ reason: error.message }, "TLS handshake failed"),
      onFailure: (error) => log.error({ err: error }, "a connection failed"),
    };
  }

  /** Reads certificates anew. Open connections stay as they are; new ones see the new certificate. */
  async refreshIdentities(): Promise<void> {
    const { identities } = this.#options;
    for (const running of this.all) {
      const own = await identities.forHost(running.host);
      if (own.cert === running.identity.cert) continue;
      running.identity = own;
      running.context = identities.context(own);
      running.listener?.setIdentity(own);
    }
  }

  /** With a grace, what is in flight may finish; otherwise it is abandoned. */
  async stop(atSign: AtSign, grace?: AbortSignal): Promise<void> {
    const running = this.#running.get(atSign);
    this.#running.delete(atSign);
    if (!running) return;
    running.listener?.stopAccepting();
    if (grace) await running.server.close(grace);
    await running.server[Symbol.asyncDispose]();
    await running.listener?.[Symbol.asyncDispose]();
  }

  /** Lets what is in flight finish; aborting `signal` abandons it. */
  async close(signal: AbortSignal): Promise<void> {
    this.#shared?.stopAccepting();
    await Promise.all([...this.#running.keys()].map((atSign) => this.stop(atSign, signal)));
    await this[Symbol.asyncDispose]();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([...this.#running.keys()].map((atSign) => this.stop(atSign)));
    await this.#shared?.[Symbol.asyncDispose]();
  }
}
