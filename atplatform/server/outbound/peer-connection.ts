import { isIP } from "node:net";
import { connect, type ConnectionOptions, type SecureContext } from "node:tls";
import { codeOf } from "../../../core/errors.js";
import { parseAtError, type AtServerError } from "../../protocol/at-error.js";
import type { AtSign } from "../../protocol/at-sign.js";
import { MAX_RESPONSE_BYTES, ResponseFramer, type Frame } from "../../protocol/response-framer.js";
import { formatHostPort, type HostPort } from "../../transport/host-port.js";
import { lookupHost } from "../../transport/lookup.js";
import { TlsChannel } from "../../transport/tls-channel.js";
import { Refusal } from "../refusal.js";

const CONNECT_TIMEOUT_MS = 5_000;
/** A reply that no prompt follows counts as whole after this. */
const SETTLE_MS = 250;

/** Codes that our client gets as the peer gave them; all others become AT0011 (spec 5.5). */
const PASSED_ON = new Set(
  "AT0003 AT0005 AT0006 AT0007 AT0008 AT0009 AT0010 AT0011 AT0012 AT0013 AT0015 AT0022 AT0023 AT0024 AT0401".split(" "),
);

/** The peer answered with an error: the connection is as good as before. It never closes our client's connection. */
export class PeerRefused extends Refusal {
  constructor(error: AtServerError) {
    super(PASSED_ON.has(error.code) ? error.code : "AT0011", error.description, { cause: error, closes: false });
  }
}

interface Waiting {
  readonly resolve: (frame: Frame) => void;
  readonly reject: (error: Error) => void;
}

/** A connection to another atServer: one request at a time, in order. */
export class PeerConnection {
  readonly peer: AtSign;
  readonly address: HostPort;
  lastUsedMs = performance.now();
  readonly #channel: TlsChannel;
  readonly #framer = new ResponseFramer({ maxBytes: MAX_RESPONSE_BYTES });
  #waiting: Waiting | undefined;
  #queue: Promise<unknown> = Promise.resolve();
  #settle: NodeJS.Timeout | undefined;

  private constructor(channel: TlsChannel, peer: AtSign, address: HostPort) {
    this.#channel = channel;
    this.peer = peer;
    this.address = address;
    const gone = (): void => this.#fail(new Refusal("AT0004", `${this.#where} closed the connection`));
    void channel.read((chunk) => this.#take(chunk)).then(gone, gone);
  }

  /** @throws a Refusal (AT0004, AT0023). */
  static open(peer: AtSign, address: HostPort, secureContext: SecureContext): Promise<PeerConnection> {
    const { host, port } = address;
    return new Promise((resolve, reject) => {
      const servername = isIP(host) === 0 ? { servername: host } : {};
      const options: ConnectionOptions = { host, port, secureContext, lookup: lookupHost, ...servername };
      const socket = connect(options);
      const fail = (error: Refusal): void => {
        clearTimeout(timer);
        socket.destroy();
        reject(error);
      };
      const where = `${peer} at ${formatHostPort(address)}`;
      const timer = setTimeout(
        () =>
          fail(new Refusal("AT0023", `No response after ${CONNECT_TIMEOUT_MS} millis from remote secondary ${where}`)),
        CONNECT_TIMEOUT_MS,
      );
      const onError = (cause: Error): void =>
        fail(new Refusal("AT0004", `Unable to connect to ${where}: ${codeOf(cause) ?? cause.message}`, { cause }));
      socket.on("error", onError);
      socket.once("secureConnect", () => {
        clearTimeout(timer);
        const connection = new PeerConnection(new TlsChannel(socket), peer, address);
        socket.off("error", onError);
        resolve(connection);
      });
    });
  }

  get closed(): boolean {
    return this.#channel.closed;
  }

  get busy(): boolean {
    return this.#waiting !== undefined;
  }

  /**
   * Sends a command and gives the payload of its `data:` reply, or for `pol` the atSign of the prompt.
   *
   * @throws {PeerRefused} on an error reply, or a Refusal (AT0004, AT0011, AT0023) after which the connection is closed.
   */
  request(line: string, timeoutMs: number): Promise<string> {
    const turn = this.#queue.then(() => this.#exchange(line, timeoutMs));
    this.#queue = turn.catch(() => undefined);
    return turn;
  }

  close(): void {
    clearTimeout(this.#settle);
    void this.#channel[Symbol.asyncDispose]();
    this.#fail(new Refusal("AT0004", `the connection to ${this.#where} was closed`));
  }

  get #where(): string {
    return `${this.peer} at ${formatHostPort(this.address)}`;
  }

  async #exchange(line: string, timeoutMs: number): Promise<string> {
    this.lastUsedMs = performance.now();
    if (line === "pol") this.#framer.expectHandshake();
    const frame = await new Promise<Frame>((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#fail(new Refusal("AT0023", `No response after ${timeoutMs} millis from remote secondary ${this.#where}`));
        this.close();
      }, timeoutMs);
      const settled =
        <T>(then: (value: T) => void) =>
        (value: T): void => {
          clearTimeout(timer);
          this.#waiting = undefined;
          then(value);
        };
      this.#waiting = { resolve: settled(resolve), reject: settled(reject) };
      this.#channel.write(`${line}\n`).catch((cause: unknown) => {
        this.#fail(new Refusal("AT0004", `${this.#where} closed the connection`, { cause }));
      });
    });
    if (frame.type === "handshake") return frame.atSign;
    if (frame.type === "error") throw new PeerRefused(parseAtError(frame.body));
    if (frame.type === "data") return frame.body;
    this.close();
    throw new Refusal("AT0011", `Unexpected response from ${this.#where}`);
  }

  #take(chunk: Buffer): void {
    clearTimeout(this.#settle);
    let frames: Frame[];
    try {
      frames = this.#framer.push(chunk);
    } catch (cause) {
      this.#fail(new Refusal("AT0011", `Unexpected response from ${this.#where}`, { cause }));
      return this.close();
    }
    for (const frame of frames) this.#waiting?.resolve(frame);
    if (this.#framer.unsettled) {
      this.#settle = setTimeout(() => {
        for (const frame of this.#framer.settle()) this.#waiting?.resolve(frame);
      }, SETTLE_MS);
    }
  }

  #fail(error: Refusal): void {
    this.#waiting?.reject(error);
  }
}
