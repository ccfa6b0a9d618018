import type { KeyObject } from "node:crypto";
import type { AtSign } from "../../atplatform/protocol/at-sign.js";
import { EdgeError } from "../../core/errors.js";
import {
  CommandRejected,
  MAX_CLOCK_SKEW_MS,
  parsePlainCommand,
  verifyCommand,
  type CommandStatement,
} from "../../messages/command.js";
import { KeyProofInvalid } from "../../messages/key-proof.js";
import { parseJson, type JsonObject } from "../../messages/json-field.js";
import type { DeviceAddress } from "../../messages/names.js";
import { parseRequest, type RpcRequest } from "../../messages/rpc.js";
import { openSealed, SealInvalid } from "../../messages/seal.js";
import { PeerKeyChanged } from "../../messages/peer-trust.js";
import type { Caller } from "./policy.js";

/** The parts of a received notification that a request is read from. */
export interface RequestNotification {
  readonly from: AtSign;
  /** Without `@to:` and `@from`. */
  readonly key: string;
  /** `@to:key@from`. */
  readonly atKey: string;
  readonly operation: "update" | "delete";
  /** By the clock of our own atServer. */
  readonly epochMillis: number;
  readonly isEncrypted: boolean;
  decrypt(signal: AbortSignal): Promise<{ readonly text: string; readonly aesKey: Uint8Array }>;
}

/** A command as its caller asked for it: whoever it says it is from is who it is from. */
export interface Asked {
  readonly caller: AtSign;
  readonly reqId: number;
  readonly id: string;
  readonly target: string;
  readonly command: string;
  readonly args: JsonObject;
  readonly issuedAtMs: number;
  readonly expiresAtMs: number;
  /** False for plain AtRpc, whose caller knows no seal. */
  readonly sealed: boolean;
  /** Everything is checked and nothing is done. */
  readonly dryRun: boolean;
}

export interface RequestTrust {
  /** @throws {KeyProofInvalid} @throws {PeerKeyChanged} */
  vouchedKeyOf(peer: AtSign, aesKey: Uint8Array, signal: AbortSignal): Promise<KeyObject>;
  /** @throws {PeerKeyChanged} */
  refresh(peer: AtSign, signal: AbortSignal): Promise<void>;
}

export interface RequestReaderOptions {
  readonly us: AtSign;
  readonly address: DeviceAddress;
  readonly trust: RequestTrust;
  /** Agent time; `undefined` while it is not known. */
  readonly now: () => number | undefined;
}

/** Plain AtRpc says no expiry; a request older than this is refused (client.md, 8.6). */
const MAX_PLAIN_AGE_MS = 30_000;

/** From a notification to a command whose sender, recipient and wording are certain. */
export class RequestReader {
  readonly #options: RequestReaderOptions;

  constructor(options: RequestReaderOptions) {
    this.#options = options;
  }

  /**
   * An expired command is read too: it may be a repeat that has its answer already. Whoever runs commands looks at
   * `expiresAtMs`.
   *
   * @throws {CommandRejected} @throws `signal.reason`
   */
  async read(n: RequestNotification, caller: Caller, reqId: number, signal: AbortSignal): Promise<Asked> {
    const { text, aesKey } = await decrypted(n, signal);
    const plain = caller.unsigned ? plainRequest(text, reqId) : undefined;
    if (plain) return this.#plainCommand(plain, n);
    const body = opened(text, n.atKey, aesKey);
    const publicKey = await this.#vouchedKey(n.from, aesKey, signal);
    const request = parsed(() => parseRequest(body, reqId));
    const statement = await this.#verified(request, n.from, publicKey, signal);
    const { target, command, args, id, issuedAt, expiresAt, dryRun = false } = statement;
    return {
      caller: n.from,
      reqId,
      id,
      target,
      command,
      args,
      issuedAtMs: issuedAt,
      expiresAtMs: expiresAt,
      sealed: true,
      dryRun,
    };
  }

  #plainCommand({ reqId, payload }: RpcRequest, n: RequestNotification): Asked {
    const nowMs = this.#options.now();
    if (nowMs === undefined) throw new CommandRejected("no-time", "the device does not know the time yet");
    // By custom of AtRpc the number of a request is the caller's clock in microseconds.
    const issuedAtMs = Math.floor(reqId / 1000);
    if (issuedAtMs > nowMs + MAX_CLOCK_SKEW_MS)
      throw new CommandRejected("not-yet-valid", "reqId is a time ahead of the device's clock");
    const expiresAtMs = Math.min(issuedAtMs, n.epochMillis) + MAX_PLAIN_AGE_MS;
    return {
      caller: n.from,
      reqId,
      id: String(reqId),
      dryRun: false,
      ...parsePlainCommand(payload),
      issuedAtMs,
      expiresAtMs,
      sealed: false,
    };
  }

  async #vouchedKey(peer: AtSign, aesKey: Uint8Array, signal: AbortSignal): Promise<KeyObject> {
    try {
      return await this.#options.trust.vouchedKeyOf(peer, aesKey, signal);
    } catch (error) {
      throw refusedKey(error, signal);
    }
  }

  async #verified(
    { payload }: RpcRequest,
    from: AtSign,
    publicKey: KeyObject,
    signal: AbortSignal,
  ): Promise<CommandStatement> {
    const { us, address, now } = this.#options;
    const check = { ...address, from, to: us, publicKey };
    try {
      return verifyCommand(payload, { ...check, nowMs: now() });
    } catch (error) {
      if (!(error instanceof CommandRejected)) throw error;
      // The signature fits, and only the time has run out: read it as of when it was issued.
      if (error.reason === "expired") return verifyCommand(payload, { ...check, nowMs: issuedAtOf(payload) });
      // Perhaps the caller has new keys: then that is the reason, and a human must look at it.
      if (error.reason === "bad-signature") await this.#refresh(from, signal);
      throw error;
    }
  }

  async #refresh(peer: AtSign, signal: AbortSignal): Promise<void> {
    try {
      await this.#options.trust.refresh(peer, signal);
    } catch (error) {
      signal.throwIfAborted();
      if (error instanceof PeerKeyChanged) throw refusedKey(error, signal);
      if (!(error instanceof EdgeError)) throw error;
    }
  }
}

async function decrypted(n: RequestNotification, signal: AbortSignal): ReturnType<RequestNotification["decrypt"]> {
  if (!n.isEncrypted) throw new CommandRejected("bad-seal", "the request is not encrypted");
  try {
    return await n.decrypt(signal);
  } catch (cause) {
    signal.throwIfAborted();
    if (!(cause instanceof EdgeError)) throw cause;
    throw new CommandRejected("bad-seal", "the request cannot be decrypted", { cause });
  }
}

/** A request without a signed envelope, or `undefined`: then it is read as any other. */
function plainRequest(text: string, reqId: number): RpcRequest | undefined {
  const request = parsed(() => parseRequest(parseJson(text, "request").value, reqId));
  return Object.hasOwn(request.payload, "signed") ? undefined : request;
}

function opened(text: string, atKey: string, aesKey: Uint8Array): JsonObject {
  try {
    return openSealed(text, atKey, aesKey);
  } catch (cause) {
    if (!(cause instanceof SealInvalid)) throw cause;
    if (isWithoutMac(text))
      throw new CommandRejected("unsigned", "neither sealed nor signed: a client of other make needs unsigned = true");
    throw new CommandRejected("bad-seal", "the seal does not fit", { cause });
  }
}

function isWithoutMac(text: string): boolean {
  try {
    const fields = parseJson(text, "request").object();
    return fields.optional("mac") === undefined;
  } catch (error) {
    if (error instanceof EdgeError) return false;
    throw error;
  }
}

/** The reason that a caller whose key is in doubt is told. */
function refusedKey(error: unknown, signal: AbortSignal): unknown {
  if (signal.aborted) return signal.reason;
  if (!(error instanceof EdgeError)) return error;
  if (error instanceof PeerKeyChanged)
    return new CommandRejected("key-changed", "your public key is not the one that this device has pinned", {
      cause: error,
    });
  const why = error instanceof KeyProofInvalid ? error.message : "the proof of the AES key could not be fetched";
  return new CommandRejected("key-not-proven", why, { cause: error });
}

function issuedAtOf(payload: JsonObject): number | undefined {
  const { signed } = payload;
  if (typeof signed !== "string") return undefined;
  return parseJson(signed, "command").object().at("issuedAt").timeMs();
}

function parsed<T>(parse: () => T): T {
  try {
    return parse();
  } catch (cause) {
    if (!(cause instanceof EdgeError)) throw cause;
    throw new CommandRejected("malformed", cause.message, { cause });
  }
}
