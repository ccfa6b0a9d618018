import { type Clock, systemClock } from "../../core/clock.js";
import { withDeadline } from "../../core/deadline.js";
import { EdgeError } from "../../core/errors.js";
import { ChildSignal, type Disposable, untilAborted } from "../../core/scope.js";
import type { AtSign } from "../protocol/at-sign.js";
import type { AtClient, ReceivedNotification } from "./at-client.js";
import {
  formatRpc,
  type JsonObject,
  parseRpcAnswer,
  parseRpcKey,
  type RpcAddress,
  rpcKey,
  rpcRegex,
} from "./rpc-messages.js";

/** The other side answered `error` or `nack`. */
export class RpcFailed extends EdgeError {
  override readonly code = "RPC_FAILED";
  /** `nack`: it would not or could not begin; `error`: what it did failed. */
  readonly answer: "nack" | "error";
  readonly payload: JsonObject;

  constructor(answer: "nack" | "error", message: string | null, payload: JsonObject) {
    super(message ?? `the request was answered with ${answer}`);
    this.answer = answer;
    this.payload = payload;
  }
}

export interface RpcClientOptions extends RpcAddress {
  readonly client: AtClient;
  readonly server: AtSign;
  readonly clock?: Clock;
  /** Within this time the other device says that it has the request, or counts as away. */
  readonly ackTimeoutMs?: number;
  readonly timeoutMs?: number;
}

interface Call {
  readonly acked: () => void;
  readonly resolve: (payload: JsonObject) => void;
  readonly reject: (error: unknown) => void;
}

const ACK_TIMEOUT_MS = 5_000;
const TIMEOUT_MS = 30_000;
const MAX_CALLS = 1_000;

/** Calls of one service of one atSign, in the wire form of Dart's `AtRpc`. Listens for answers before it is given out. */
export async function openRpcClient(options: RpcClientOptions, signal: AbortSignal): Promise<RpcClient> {
  const rpc = new RpcClient(options);
  try {
    await untilAborted(rpc.listening, signal);
    return rpc;
  } catch (error) {
    await rpc[Symbol.asyncDispose]();
    throw error;
  }
}

export class RpcClient implements Disposable {
  readonly #options: RpcClientOptions;
  readonly #clock: Clock;
  readonly #calls = new Map<number, Call>();
  readonly #life = new ChildSignal(new AbortController().signal);
  readonly #ended: Promise<void>;
  /** Resolves when answers would be heard. */
  readonly listening: Promise<void>;
  #lastId = 0;

  constructor(options: RpcClientOptions) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    let onLive = (): void => undefined;
    const live = new Promise<void>((resolve) => (onLive = resolve));
    const running = this.#listen(() => onLive());
    this.listening = Promise.race([live, running]);
    this.#ended = running.catch((error: unknown) => this.#failAll(error));
  }

  /**
   * Asks and waits for the result.
   *
   * @throws {RpcFailed}; `TimedOut` when nobody acknowledges the request, or no result comes in time.
   */
  async call(
    payload: JsonObject,
    { timeoutMs }: { readonly timeoutMs?: number },
    signal: AbortSignal,
  ): Promise<JsonObject> {
    const { client, server, ackTimeoutMs = ACK_TIMEOUT_MS } = this.#options;
    const limitMs = timeoutMs ?? this.#options.timeoutMs ?? TIMEOUT_MS;
    if (this.#calls.size >= MAX_CALLS) throw new Error(`more than ${MAX_CALLS} calls at once`);
    const reqId = this.#nextId();
    let acked = (): void => undefined;
    const ack = new Promise<void>((resolve) => (acked = resolve));
    const result = new Promise<JsonObject>((resolve, reject) => this.#calls.set(reqId, { acked, resolve, reject }));
    result.catch(() => undefined);
    const clock = this.#clock;
    const ask = async (signal: AbortSignal): Promise<JsonObject> => {
      const key = rpcKey("request", reqId, this.#options);
      await client.notify({ to: server, key, value: formatRpc({ reqId, payload }), ttlnMs: limitMs }, signal);
      const what = `an acknowledgement of ${server}`;
      const first = Promise.race([ack, result]);
      await withDeadline((signal) => untilAborted(first, signal), { clock, timeoutMs: ackTimeoutMs, what }, signal);
      return await untilAborted(result, signal);
    };
    try {
      return await withDeadline(ask, { clock, timeoutMs: limitMs, what: `the answer of ${server}` }, signal);
    } finally {
      this.#calls.delete(reqId);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#life.abort(new Error("the RPC client was closed"));
    await this.#ended;
    await this.#life[Symbol.asyncDispose]();
  }

  async #listen(onLive: () => void): Promise<void> {
    const { client, server, baseNamespace: probeNamespace } = this.#options;
    const regex = rpcRegex("(?:success|error|ack|nack)", this.#options);
    const options = { regex, since: "live", onLive, probeNamespace } as const;
    for await (const notification of client.subscribe(options, this.#life.signal)) {
      if (notification.from !== server) continue;
      const key = parseRpcKey(notification.key, this.#options);
      const call = key && this.#calls.get(key.reqId);
      if (call) await this.#answer(notification, key.reqId, call);
    }
    this.#failAll(this.#life.signal.reason);
  }

  async #answer(notification: ReceivedNotification, reqId: number, call: Call): Promise<void> {
    try {
      const { text } = await notification.decrypt(this.#life.signal);
      const answer = parseRpcAnswer(text);
      // Whoever swaps keys of answers swaps their meaning.
      if (answer.reqId !== reqId || !notification.key.startsWith(`${answer.respType}.`)) return;
      if (answer.respType === "ack") call.acked();
      else if (answer.respType === "success") call.resolve(answer.payload);
      else call.reject(new RpcFailed(answer.respType, answer.message, answer.payload));
    } catch (error) {
      if (!(error instanceof EdgeError)) throw error;
      call.reject(error);
    }
  }

  #failAll(reason: unknown): void {
    for (const call of this.#calls.values()) call.reject(reason);
  }

  /** Microseconds since 1970, as Dart has it, and never the same twice. */
  #nextId(): number {
    this.#lastId = Math.max(this.#lastId + 1, this.#clock.now() * 1_000);
    return this.#lastId;
  }
}
