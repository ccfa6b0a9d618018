import type { SecureContext } from "node:tls";
import type { Log } from "../../../core/log.js";
import { bareAtSign, type AtSign } from "../../protocol/at-sign.js";
import { parseRecord, type AtRecord } from "../../protocol/record.js";
import type { HostPort } from "../../transport/host-port.js";
import type { Cookies } from "../cookies.js";
import { Refusal } from "../refusal.js";
import type { Resolver } from "../resolver.js";
import { PeerConnection, PeerRefused } from "./peer-connection.js";

/** `plain`: what anybody may ask. `pol`: as our atSign. `notify`: the same, for the delivery of notifications alone. */
export type PeerChannel = "plain" | "pol" | "notify";

export const LOOKUP_TIMEOUT_MS = 5_000;
export const NOTIFY_TIMEOUT_MS = 10_000;
const DEFAULT_TIMEOUT_MS = 3_000;
/** The peer connects back to us before it answers `pol`, so this must outlast its own attempts. */
const POL_TIMEOUT_MS = 10_000;
const SWEEP_MS = 30_000;

export interface PeersOptions {
  readonly self: AtSign;
  readonly resolver: Resolver;
  /** With our certificate, which is shown to peers, and the authorities that theirs are checked against. */
  readonly secureContext: () => SecureContext;
  readonly cookies: Cookies;
  /** Base64 of the signature over a text with the signing key of the atSign. */
  readonly sign: (text: string) => string;
  /** The peer's public key was read, as it is on every new connection (spec 5.6). */
  readonly onPublicKey: (peer: AtSign, record: AtRecord) => Promise<void>;
  readonly maxConnections: number;
  readonly idleMs: number;
  readonly log: Log;
}

const UUID = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}";
const PROOF = new RegExp(`^proof:(?<name>_${UUID}(?<claimed>@[^:@]+)):(?<uuid>${UUID})$`, "u");

/** Connections to other atServers, kept for further use (spec 5.1, 5.2, 5.5). */
export class Peers {
  readonly #options: PeersOptions;
  readonly #pool = new Map<string, Promise<PeerConnection>>();
  readonly #open = new Map<string, PeerConnection>();
  readonly #sweeper: NodeJS.Timeout;
  #closed = false;

  constructor(options: PeersOptions) {
    this.#options = options;
    this.#sweeper = setInterval(() => this.#sweep(), SWEEP_MS).unref();
  }

  get size(): number {
    return this.#pool.size;
  }

  /** Where an atSign's atServer listens; `undefined`: the directory does not know it. @throws a Refusal (AT0004). */
  async resolve(atSign: AtSign): Promise<HostPort | undefined> {
    try {
      return await this.#options.resolver.find(atSign);
    } catch (cause) {
      throw new Refusal("AT0004", "Unable to ask the atDirectory", { cause });
    }
  }

  /**
   * Sends a command over a pooled connection and gives the payload of the reply.
   *
   * @throws {PeerRefused} when the peer answers with an error; a Refusal of another class when the peer cannot be reached
   * or does not answer: AT0004, AT0006, AT0007, AT0008, AT0011, AT0023.
   */
  async request(peer: AtSign, channel: PeerChannel, line: string, timeoutMs = DEFAULT_TIMEOUT_MS): Promise<string> {
    const wasOpen = this.#open.has(`${channel} ${peer}`);
    const connection = await this.#connection(peer, channel);
    try {
      return await connection.request(line, timeoutMs);
    } catch (error) {
      // The peer ended a connection that was idle, or restarted, as we were about to use it. A request may be repeated:
      // look-ups change nothing, and a notification is known by its id.
      const ended = error instanceof Refusal && !(error instanceof PeerRefused) && error.code === "AT0004";
      if (ended && wasOpen && !this.#closed) {
        return await (await this.#connection(peer, channel)).request(line, timeoutMs);
      }
      // A peer that has restarted took our login with it.
      if (error instanceof PeerRefused && error.code === "AT0401" && channel !== "plain") connection.close();
      throw error;
    }
  }

  /** Opens a connection of its own, which the caller closes: for the check of a proof. */
  openPlain(peer: AtSign): Promise<PeerConnection> {
    return this.#connect(peer);
  }

  /** Ends every pooled connection; the next request opens a new one. */
  disconnect(): void {
    for (const connection of this.#open.values()) connection.close();
    this.#open.clear();
    this.#pool.clear();
  }

  close(): void {
    this.#closed = true;
    clearInterval(this.#sweeper);
    this.disconnect();
  }

  async #connection(peer: AtSign, channel: PeerChannel): Promise<PeerConnection> {
    const id = `${channel} ${peer}`;
    const pooled = this.#pool.get(id);
    if (pooled) {
      const connection = await pooled;
      if (!connection.closed) return connection;
      if (this.#pool.get(id) === pooled) this.#forget(id);
      return await this.#connection(peer, channel);
    }
    this.#makeRoom();
    const opening = channel === "plain" ? this.#connect(peer) : this.#connectAndProve(peer);
    this.#pool.set(id, opening);
    try {
      const connection = await opening;
      if (this.#closed) connection.close();
      this.#open.set(id, connection);
      return connection;
    } catch (error) {
      this.#forget(id);
      throw error;
    }
  }

  async #connect(peer: AtSign): Promise<PeerConnection> {
    const { secureContext, onPublicKey, log } = this.#options;
    const address = await this.resolve(peer);
    if (!address) throw new Refusal("AT0007", `Unable to find secondary address for atSign:${bareAtSign(peer)}`);
    const connection = await PeerConnection.open(peer, address, secureContext()).catch((error: unknown) => {
      this.#options.resolver.forget(peer);
      throw error;
    });
    try {
      const reply = await connection.request(`lookup:all:publickey${peer}`, LOOKUP_TIMEOUT_MS);
      if (reply !== "null") await onPublicKey(peer, parseRecord(reply));
    } catch (error) {
      // Whatever it was: if the connection still stands, it can be used.
      if (!(error instanceof PeerRefused && error.code === "AT0015"))
        log.debug({ peer, err: error }, "no public key read");
    }
    return connection;
  }

  async #connectAndProve(peer: AtSign): Promise<PeerConnection> {
    const connection = await this.#connect(peer);
    try {
      await this.#prove(connection);
      return connection;
    } catch (error) {
      connection.close();
      if (!(error instanceof Refusal)) throw error;
      throw new Refusal("AT0008", error.message, { cause: error });
    }
  }

  /** The handshake of spec 5.2. The shape of the challenge is checked: a lying peer must not choose what we store. */
  async #prove(connection: PeerConnection): Promise<void> {
    const { self, cookies, sign } = this.#options;
    const { name, claimed, uuid } =
      PROOF.exec(await connection.request(`from:${self}`, DEFAULT_TIMEOUT_MS))?.groups ?? {};
    if (name === undefined || uuid === undefined || claimed !== self) {
      throw new Refusal("AT0008", `${connection.peer} sent a malformed challenge`);
    }
    cookies.set(`public:${name}`, sign(uuid));
    try {
      const atSign = await connection.request("pol", POL_TIMEOUT_MS);
      if (atSign !== self) throw new Refusal("AT0008", `${connection.peer} did not accept the proof`);
    } finally {
      cookies.delete(`public:${name}`);
    }
  }

  #makeRoom(): void {
    if (this.#pool.size < this.#options.maxConnections) return;
    const idle = [...this.#open].filter(([, connection]) => !connection.busy);
    const [oldest] = idle.sort(([, a], [, b]) => a.lastUsedMs - b.lastUsedMs);
    if (!oldest) throw new Refusal("AT0006", "Maximum limit reached for outbound connections");
    this.#forget(oldest[0]);
  }

  #forget(id: string): void {
    this.#open.get(id)?.close();
    this.#open.delete(id);
    this.#pool.delete(id);
  }

  #sweep(): void {
    const limit = performance.now() - this.#options.idleMs;
    for (const [id, connection] of this.#open) {
      if (connection.closed || (!connection.busy && connection.lastUsedMs < limit)) this.#forget(id);
    }
  }
}
