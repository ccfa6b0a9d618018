import { Duplex } from "node:stream";
import type { Socket } from "node:net";
import { InOrder } from "../in-order.js";
import { Haste } from "./haste.js";
import { PacketFramer, type MqttFrame } from "./packet-framer.js";
import { isPublish, parsePublish, pubacks, type InboundMessage, type ProtocolVersion } from "./publish-packet.js";

export interface ReceivePathOptions {
  readonly socket: Socket;
  readonly version: ProtocolVersion;
  /** Takes the messages of one chunk; resolves when they are safe. They may be views of the chunk. */
  readonly receive: (messages: readonly InboundMessage[]) => Promise<void>;
  /** Called when the broker waits for our acknowledgements ({@link Haste}). */
  readonly hurry?: (() => void) | undefined;
  readonly maxPacketBytes: number;
  /** Messages under way at most, plus those of one chunk; then the socket is not read. */
  readonly maxPending: number;
  readonly maxPendingBytes: number;
}

const DISCONNECT = 14;
/** Reason code of a DISCONNECT (MQTT 5, section 3.14.2.1). */
const SESSION_TAKEN_OVER = 0x8e;

/**
 * Stands between the socket and mqtt.js: takes every PUBLISH out of what comes in, and acknowledges it when `receive`
 * has resolved, strictly in order (MQTT 3.1.1 and 5, section 4.6), any number side by side. mqtt.js alone handles one
 * message at a time (docs/decisions/, "MQTT receive path"). One lives as long as one connection, so an acknowledgement
 * never goes to another connection than its message came from. A `receive` that fails ends the connection, and the
 * broker delivers again what was not acknowledged.
 */
export class ReceivePath extends Duplex {
  readonly #socket: Socket;
  readonly #options: ReceivePathOptions;
  readonly #framer: PacketFramer;
  readonly #messages = new InOrder((error) => this.#fail(error));
  readonly #haste = new Haste();
  #pendingBytes = 0;
  #readerFull = false;
  #farewell: Error | undefined;

  constructor(options: ReceivePathOptions) {
    super({ autoDestroy: true });
    this.#socket = options.socket;
    this.#options = options;
    this.#framer = new PacketFramer({ maxBytes: options.maxPacketBytes });
    this.#socket.on("data", (chunk: Buffer) => this.#take(chunk));
    this.#socket.on("error", (error) => this.destroy(error));
    this.#socket.on("end", () => this.destroy());
    this.#socket.on("close", () => this.destroy());
  }

  /** What the broker gave as its reason to end the connection, in version 5. */
  get farewell(): Error | undefined {
    return this.#farewell;
  }

  /** Messages that are received and not safe yet. */
  get pending(): number {
    return this.#messages.pending;
  }

  override _read(): void {
    this.#readerFull = false;
    this.#flow();
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    this.#socket.write(chunk, done);
  }

  /** A packet of mqtt.js is several writes in one turn; together they save packets on the network. */
  override _writev(chunks: readonly { readonly chunk: Buffer }[], done: (error?: Error | null) => void): void {
    this.#socket.write(Buffer.concat(chunks.map(({ chunk }) => chunk)), done);
  }

  override _final(done: (error?: Error | null) => void): void {
    this.#socket.end(() => done());
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    this.#socket.destroy();
    done(error);
  }

  #take(chunk: Buffer): void {
    if (this.destroyed) return;
    try {
      const messages: InboundMessage[] = [];
      for (const frame of this.#framer.push(chunk)) {
        if (isPublish(frame)) messages.push(parsePublish(frame, this.#options.version));
        else this.#pass(frame);
      }
      if (messages.length > 0) this.#receive(messages);
      this.#flow();
    } catch (error) {
      this.#fail(error);
    }
  }

  #pass({ header, fixed, body }: MqttFrame): void {
    // The end of the connection may overtake what mqtt.js has not read yet.
    if (header >> 4 === DISCONNECT) this.#farewell = disconnected(body[0] ?? 0);
    const packet = body.length === 0 ? fixed : Buffer.concat([fixed, body]);
    if (!this.push(packet)) this.#readerFull = true;
  }

  #receive(messages: readonly InboundMessage[]): void {
    const bytes = messages.reduce((sum, { topic, payload }) => sum + topic.length + payload.length, 0);
    const packetIds = messages.flatMap(({ packetId }) => (packetId === undefined ? [] : [packetId]));
    this.#pendingBytes += bytes;
    this.#messages.add(this.#options.receive(messages), messages.length, () => {
      this.#pendingBytes -= bytes;
      // Through our own writable side, where it cannot fall between the pieces of a packet of mqtt.js.
      if (packetIds.length > 0 && this.writable) this.write(pubacks(packetIds));
      setImmediate(() => {
        if (this.#messages.pending === 0) this.#haste.acknowledged(performance.now());
        this.#flow();
      });
    });
    if (this.#haste.arrived(messages.length, performance.now())) this.#options.hurry?.();
  }

  #flow(): void {
    const { maxPending, maxPendingBytes } = this.#options;
    const full = this.#messages.pending >= maxPending || this.#pendingBytes >= maxPendingBytes || this.#readerFull;
    if (full === this.#socket.isPaused()) return;
    if (full) this.#socket.pause();
    else this.#socket.resume();
  }

  #fail(error: unknown): void {
    this.destroy(error instanceof Error ? error : new Error(String(error)));
  }
}

function disconnected(reasonCode: number): Error {
  return new Error(
    reasonCode === SESSION_TAKEN_OVER
      ? "another client has taken our session: does a second agent use the same clientId?"
      : `the broker ends the connection with reason code ${reasonCode}`,
  );
}
