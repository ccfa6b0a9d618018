import { createHash } from "node:crypto";
import type { JsonObject } from "../../messages/json-field.js";
import type { Asked } from "./request-reader.js";

/** How a command ended; what its caller is told, and told again. */
export interface Outcome {
  readonly type: "success" | "error" | "nack";
  readonly payload: JsonObject;
  /** For people; `null` on success. */
  readonly message: string | null;
}

/** A command in the ledger. It is there before anything moves. */
export interface LedgerEntry {
  readonly caller: string;
  /** Of the caller's own choice; names this command for ever. */
  readonly id: string;
  /** Number of the request that brought it, for the answer. */
  readonly reqId: number;
  readonly target: string;
  readonly command: string;
  /** Of target, command and arguments: tells a repeat from another command under the same id. */
  readonly digest: string;
  readonly expiresAtMs: number;
  /** False for a caller of other make, whose answers are not sealed. */
  readonly sealed: boolean;
  /** `undefined` from acceptance until the end; after a restart that means: nobody knows. */
  readonly outcome: Outcome | undefined;
}

/** An answer on its way to a caller. */
export interface Answer {
  readonly to: string;
  readonly reqId: number;
  readonly type: "ack" | Outcome["type"];
  readonly payload: JsonObject;
  readonly message: string | null;
  readonly sealed: boolean;
}

/** Where commands and their answers are kept. Writes resolve when they are durable, and reject when they cannot be. */
export interface CommandStore {
  /**
   * Commands issued before this time could be repeats of what an earlier ledger knew. `undefined` until the time was
   * known for the first time: then nothing can be told.
   */
  readonly ledgerBornAtMs: number | undefined;
  find(caller: string, id: string): LedgerEntry | undefined;
  /** Accepted, without an outcome. */
  unfinished(): readonly LedgerEntry[];
  accept(entry: LedgerEntry): Promise<void>;
  /** Keeps the outcome and queues the answer, if somebody is to get one; both or neither. */
  finish(entry: LedgerEntry, outcome: Outcome, answer: Answer | undefined): Promise<void>;
  queueAnswer(answer: Answer): Promise<void>;
}

export function entryOf({ caller, id, reqId, target, command, args, expiresAtMs, sealed }: Asked): LedgerEntry {
  const digest = digestOf({ target, command, args });
  return { caller, id, reqId, target, command, digest, expiresAtMs, sealed, outcome: undefined };
}

export function digestOf({ target, command, args }: Pick<Asked, "target" | "command" | "args">): string {
  return createHash("sha256")
    .update(JSON.stringify([target, command, args]))
    .digest("hex");
}

/** @param reqId of the request that is answered, which may be a repeat. */
export function answerTo(
  reqId: number,
  { caller, sealed }: Pick<LedgerEntry, "caller" | "sealed">,
  outcome: Outcome,
): Answer {
  return { to: caller, reqId, sealed, ...outcome };
}
