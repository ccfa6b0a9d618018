import { type Clock, systemClock } from "../../core/clock.js";
import { EdgeError } from "../../core/errors.js";
import { type Log, silentLog } from "../../core/log.js";
import { TaskGroup, untilAborted } from "../../core/scope.js";
import type { AtSign } from "../protocol/at-sign.js";
import type { AtClient, ReceivedNotification } from "./at-client.js";
import { BoundedMap } from "./bounded-map.js";
import {
  formatRpc,
  type JsonObject,
  parseRpcKey,
  parseRpcRequest,
  type RpcAddress,
  type RpcAnswer,
  rpcKey,
  type RpcRequest,
  rpcRegex,
} from "./rpc-messages.js";

export interface RpcCall extends RpcRequest {
  readonly from: AtSign;
}

export type RpcResult = { readonly success: JsonObject } | { readonly error: JsonObject; readonly message?: string };

export interface RpcServerOptions extends RpcAddress {
  readonly client: AtClient;
  /** Who may call; all others hear nothing. */
  readonly allow: (from: AtSign) => boolean;
  /** Does the work. What it throws is answered with `nack` and told to the log; the caller gets the code alone. */
  readonly handle: (call: RpcCall, signal: AbortSignal) => Promise<RpcResult>;
  /** Requests that our atServer got earlier than so long ago are passed over. */
  readonly maxAgeMs?: number;
  readonly clock?: Clock;
  readonly log?: Log;
  readonly onLive?: () => void;
}

const MAX_AGE_MS = 30_000;
const ANSWER_TTLN_MS = 30_000;
const MAX_REMEMBERED = 10_000;
const MAX_AT_ONCE = 64;

/**
 * Serves requests in the wire form of Dart's `AtRpc` until `signal` aborts. The same request again, by whatever way it
 * comes twice, is not carried out twice: it gets the answer of the first time.
 */
export async function serveRpc(options: RpcServerOptions, signal: AbortSignal): Promise<void> {
  const { client, allow, maxAgeMs = MAX_AGE_MS, clock = systemClock, log = silentLog, onLive } = options;
  /** The answer, once there is one. */
  const answers = new BoundedMap<string, { answer?: RpcAnswer }>(MAX_REMEMBERED);
  await using tasks = new TaskGroup(signal);
  let running = 0;
  const regex = rpcRegex("request", options);
  for await (const notification of client.subscribe(
    { regex, since: "live", probeNamespace: options.baseNamespace, ...(onLive && { onLive }) },
    tasks.signal,
  )) {
    const { from, epochMillis } = notification;
    const key = parseRpcKey(notification.key, options);
    if (key?.type !== "request" || !allow(from)) continue;
    if (clock.now() - epochMillis > maxAgeMs) {
      log.info({ from, reqId: key.reqId }, "a request was too old");
      continue;
    }
    const name = `${from} ${key.reqId}`;
    const known = answers.get(name);
    if (known?.answer) tasks.start((signal) => send(options, from, known.answer, signal));
    if (known) continue;
    const entry: { answer?: RpcAnswer } = {};
    answers.set(name, entry);
    if (running >= MAX_AT_ONCE) {
      entry.answer = nack(key.reqId, "too many requests");
      tasks.start((signal) => send(options, from, entry.answer, signal));
      continue;
    }
    running += 1;
    tasks.start(async (signal) => {
      try {
        entry.answer = await answerOf(options, notification, key.reqId, signal);
        await send(options, from, entry.answer, signal);
      } finally {
        running -= 1;
      }
    });
  }
  await tasks.join();
}

async function answerOf(
  options: RpcServerOptions,
  notification: ReceivedNotification,
  reqId: number,
  signal: AbortSignal,
): Promise<RpcAnswer> {
  const { from } = notification;
  const { handle, log = silentLog } = options;
  let request: RpcRequest;
  try {
    request = parseRpcRequest((await notification.decrypt(signal)).text);
  } catch (error) {
    if (!(error instanceof EdgeError)) throw error;
    return nack(reqId, "the request cannot be read");
  }
  if (request.reqId !== reqId) return nack(reqId, "reqId differs from that of the key");
  await send(options, from, { reqId, respType: "ack", payload: {}, message: null }, signal);
  try {
    const result = await untilAborted(handle({ ...request, from }, signal), signal);
    if ("success" in result) return { reqId, respType: "success", payload: result.success, message: null };
    return { reqId, respType: "error", payload: result.error, message: result.message ?? null };
  } catch (error) {
    signal.throwIfAborted();
    log.warn({ err: error, from, reqId }, "a request failed");
    return nack(reqId, error instanceof EdgeError ? error.code : "the request failed");
  }
}

const nack = (reqId: number, message: string): RpcAnswer => ({ reqId, respType: "nack", payload: {}, message });

/** An answer that does not get through is lost: the caller asks again, and gets it then. */
async function send(
  { client, log = silentLog, ...address }: RpcServerOptions,
  to: AtSign,
  answer: RpcAnswer | undefined,
  signal: AbortSignal,
): Promise<void> {
  if (!answer) return;
  const key = rpcKey(answer.respType, answer.reqId, address);
  try {
    await client.notify({ to, key, value: formatRpc(answer), ttlnMs: ANSWER_TTLN_MS }, signal);
  } catch (error) {
    if (!(error instanceof EdgeError)) throw error;
    log.info({ code: error.code, to, reqId: answer.reqId }, "an answer did not get through");
  }
}
