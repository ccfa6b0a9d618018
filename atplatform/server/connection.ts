import { checkServerIdentity } from "node:tls";
import { fromUtf8 } from "../../core/bytes.js";
import type { Clock } from "../../core/clock.js";
import { LimitExceeded } from "../../core/errors.js";
import { ChildSignal } from "../../core/scope.js";
import type { AtSign } from "../protocol/at-sign.js";
import { EXIT } from "../protocol/command-line.js";
import { pull } from "../transport/pull.js";
import type { TlsChannel } from "../transport/tls-channel.js";
import { AUTHENTICATED_MAX_BYTES, CommandFramer, UNAUTHENTICATED_MAX_BYTES } from "./command-framer.js";
import { invalidSyntax, Refusal } from "./refusal.js";
import { closesAfter, renderRefusal, renderReply, type Reply } from "./reply.js";
import { newSession, type Session } from "./session.js";
import type { Call, ConnectionHandle } from "./verb.js";

/** Plaintext of a TLS record (RFC 8446, 5.1). */
const RECORD_BYTES = 16_384;
/** How long what a client still sends is read and thrown away after it has sent too much, so that it gets our answer. */
const LINGER_MS = 2_000;

export interface ConnectionOptions {
  readonly self: AtSign;
  readonly clock: Clock;
  readonly execute: (line: string, call: Call) => Promise<Reply>;
}

/** One client or peer of an atServer: commands in, one at a time and in order; one reply each (spec section 2). */
export class Connection implements ConnectionHandle {
  readonly session: Session;
  /** When the server last wrote, by the monotonic clock: idle time counts from there (spec 2.9). */
  lastWriteMs: number;
  readonly #channel: TlsChannel;
  readonly #options: ConnectionOptions;
  #busy = false;
  #leaving = false;

  constructor(channel: TlsChannel, options: ConnectionOptions) {
    this.#channel = channel;
    this.#options = options;
    this.lastWriteMs = options.clock.monotonicMs();
    this.session = newSession(channel.remoteAddress, peerMatcher(channel));
  }

  /** Serves the connection to its end; an abort abandons what is in flight. */
  async serve(stop: AbortSignal): Promise<void> {
    await using gone = new ChildSignal(stop);
    const framer = new CommandFramer();
    const cut = (chunk: Buffer, lines: Buffer[]): void => {
      framer.maxBytes = this.#maxBytes;
      framer.push(chunk, lines);
    };
    await this.#write("@");
    try {
      for await (const line of pull(this.#channel, cut, gone.signal)) {
        this.#busy = true;
        const goesOn = await this.#answer(line, gone.signal);
        this.#busy = false;
        if (!goesOn || this.#leaving) return;
      }
    } catch (error) {
      if (!(error instanceof LimitExceeded)) throw error;
      await this.#refuseTooLong(stop);
    }
  }

  async send(line: string): Promise<void> {
    await this.#write(line);
  }

  close(): void {
    this.#leaving = true;
    if (!this.#busy) this.#channel.end();
  }

  /** At once: an enrolment was revoked. */
  destroy(): void {
    void this.#channel[Symbol.asyncDispose]();
  }

  /** False when the connection is to end. */
  async #answer(bytes: Buffer, signal: AbortSignal): Promise<boolean> {
    const { self, execute } = this.#options;
    try {
      const line = decode(bytes);
      if (line === EXIT) return false;
      const reply = await execute(line, { session: this.session, connection: this, signal });
      if (reply.type === "leave") return false;
      const text = renderReply(reply, this.session, self);
      if (text !== "") await this.#write(text);
      return true;
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      await this.#write(renderRefusal(error, this.session, self));
      return !closesAfter(error);
    }
  }

  get #maxBytes(): number {
    const { authentication, peer } = this.session;
    return authentication || peer !== undefined ? AUTHENTICATED_MAX_BYTES : UNAUTHENTICATED_MAX_BYTES;
  }

  /** The answer must not be lost in a reset, so what is still under way is read before the connection ends. */
  async #refuseTooLong(signal: AbortSignal): Promise<void> {
    const message =
      "InboundBuffer overflow: server received request which exceeded the buffer size limit. Terminating the connection.";
    await this.#write(renderRefusal(new Refusal("AT0005", message), this.session, this.#options.self));
    await this.#options.clock.sleep(LINGER_MS, signal).catch(() => undefined);
  }

  /** In one piece, and so that the prompt shares a TLS record with what stands before it (spec 2.3). */
  async #write(text: string): Promise<void> {
    this.lastWriteMs = this.#options.clock.monotonicMs();
    const bytes = Buffer.from(text, "utf8"); // Node's TLS takes twice as long for strings
    const lastRecord = bytes.length % RECORD_BYTES;
    if (bytes.length < RECORD_BYTES || lastRecord > 256) return await this.#channel.write(bytes);
    const tail = bytes.length - 1024;
    await this.#channel.write(bytes.subarray(0, tail));
    await this.#channel.write(bytes.subarray(tail));
  }
}

/** A silent server would cost the client its whole time-out, so bad UTF-8 is answered, too. */
function decode(bytes: Buffer): string {
  try {
    return fromUtf8(bytes).trim();
  } catch {
    throw invalidSyntax("invalid command");
  }
}

/** Whole names are compared, as a browser would: `a.example.attacker.example` is not `a.example` (spec 5.4). */
function peerMatcher(channel: TlsChannel): Session["peerMatches"] {
  const { trusted, certificate } = channel.peer;
  if (!trusted || !certificate) return undefined;
  return (host) => checkServerIdentity(host, certificate) === undefined;
}
