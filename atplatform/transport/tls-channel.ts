import type { PeerCertificate, TLSSocket } from "node:tls";
import type { Disposable } from "../../core/scope.js";
import { untilAborted } from "../../core/scope.js";
import { ConnectionLost } from "./errors.js";

/** What a peer showed about itself in the handshake. */
export interface PeerIdentity {
  /** A certificate was shown and chains up to a trusted root. */
  readonly trusted: boolean;
  /** Its subject alternative names as Node prints them (`DNS:a.example, IP Address:127.0.0.1`), and its subject. */
  readonly certificate: PeerCertificate | undefined;
}

/** A TLS connection after its handshake, of either side. Every write is a TLS record of its own where it fits one. */
export class TlsChannel implements Disposable {
  readonly #socket: TLSSocket;
  #error: Error | undefined;

  constructor(socket: TLSSocket) {
    this.#socket = socket;
    socket.setNoDelay(true);
    // Also after `read` has ended: an error without a listener would end the process.
    socket.on("error", (error: Error) => (this.#error ??= error));
  }

  get remoteAddress(): string {
    return this.#socket.remoteAddress ?? "";
  }

  /** The name that the client asked for (SNI), or `undefined`. */
  get serverName(): string | undefined {
    const name: unknown = this.#socket.servername;
    return typeof name === "string" && name !== "" ? name : undefined;
  }

  get peer(): PeerIdentity {
    const certificate = this.#socket.getPeerCertificate();
    const shown = Object.keys(certificate).length > 0;
    return { trusted: shown && this.#socket.authorized, certificate: shown ? certificate : undefined };
  }

  /** Whether this handshake took up an earlier session. */
  get resumed(): boolean {
    return this.#socket.isSessionReused();
  }

  /** Bytes that the peer has not taken yet: where the bound of a slow reader is checked. */
  get bufferedBytes(): number {
    return this.#socket.writableLength;
  }

  get closed(): boolean {
    return this.#socket.destroyed;
  }

  /**
   * Hands over chunks as they come, once per channel; while a returned promise is pending nothing is read. Resolves when
   * the peer has ended or we have closed, also when the connection broke: `lost` tells.
   *
   * An error thrown by `handle` closes the channel and is rethrown.
   */
  read(handle: (chunk: Buffer) => void | Promise<void>): Promise<void> {
    const socket = this.#socket;
    return new Promise((resolve, reject) => {
      let failed = false;
      const fail = (error: unknown): void => {
        failed = true;
        socket.destroy();
        reject(error);
      };
      socket.on("data", (chunk: Buffer) => {
        if (failed) return;
        try {
          const pending = handle(chunk);
          if (!pending) return;
          socket.pause();
          pending.then(() => socket.resume(), fail);
        } catch (error) {
          fail(error);
        }
      });
      // Half-open connections are of no use in this protocol: the peer's end is the end.
      socket.once("end", () => socket.end());
      if (socket.destroyed) resolve();
      else socket.once("close", () => resolve());
    });
  }

  /** What a waiting caller is told when the channel has closed. */
  get lost(): ConnectionLost {
    return new ConnectionLost("the connection was closed", this.#error && { cause: this.#error });
  }

  /**
   * Sends in one piece. Resolves when the bytes have left this process; need not be awaited for the order.
   *
   * @throws {ConnectionLost} when the channel is or gets closed.
   */
  write(bytes: Uint8Array | string, signal?: AbortSignal): Promise<void> {
    const written = new Promise<void>((resolve, reject) => {
      if (this.#socket.destroyed || this.#socket.writableEnded) return reject(this.lost);
      this.#socket.write(bytes, (error) => {
        if (!error) return resolve();
        this.#error ??= error;
        reject(this.lost);
      });
    });
    return signal ? untilAborted(written, signal) : written;
  }

  /** Sends what is pending and these last bytes, then closes; the peer's side is not waited for. */
  end(bytes?: Uint8Array | string): void {
    const socket = this.#socket;
    if (socket.destroyed) return;
    if (bytes === undefined) socket.end(() => socket.destroy());
    else socket.end(bytes, () => socket.destroy());
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#socket.destroy();
    return Promise.resolve();
  }
}
