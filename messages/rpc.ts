import { JsonField, type JsonObject } from "./json-field.js";
import type { AnswerType } from "./names.js";

/** AtRpc (client.md, 8): a request and its answers, as they stand inside a seal or, unsealed, from other clients. */
export interface RpcRequest {
  /** At most 2^53 - 1, equal in the key. Microseconds since 1970 by custom. */
  readonly reqId: number;
  /** An {@link Envelope} with a signed command, or a plain command where that is allowed. */
  readonly payload: JsonObject;
}

export interface RpcAnswer {
  readonly reqId: number;
  readonly respType: AnswerType;
  /**
   * `ack`: `{}`. `success`: `{"id", "result"}`. `error`: `{"id", "reason"}`, the command was begun.
   * `nack`: `{"reason"}` and `"id"` where it could be read, the command was not begun.
   */
  readonly payload: JsonObject;
  /** For people; `null` on success. */
  readonly message: string | null;
}

/** Why a command that was begun has no result. */
export const ERROR_REASONS = ["failed", "unknown-outcome", "deadline", "cancelled"] as const;

export const MAX_ANSWER_TEXT = 1024;
const ANSWER_TYPES = ["ack", "nack", "success", "error"] as const;

/** Body of a request, to be sealed. */
export function formatRequest({ reqId, payload }: RpcRequest): JsonObject {
  return { reqId, payload };
}

/**
 * @param value what `openSealed` gave, or the parsed text of an unsealed request.
 * @param keyReqId the number in the key; the one inside must be the same.
 * @throws {SyntaxInvalid} The refusal then goes to the number in the key.
 */
export function parseRequest(value: unknown, keyReqId: number): RpcRequest {
  const fields = new JsonField(value, "request").object();
  fields.at("reqId").exactly(keyReqId);
  return { reqId: keyReqId, payload: fields.at("payload").object().object };
}

/** Body of an answer, to be sealed. A message that is too long is cut. */
export function formatAnswer({ reqId, respType, payload, message }: RpcAnswer): JsonObject {
  return { reqId, respType, payload, message: message?.slice(0, MAX_ANSWER_TEXT) ?? null };
}

/** @param key what the key says; type and number inside must be the same. @throws {SyntaxInvalid} */
export function parseAnswer(value: unknown, key: { readonly type: AnswerType; readonly reqId: number }): RpcAnswer {
  const fields = new JsonField(value, "answer").object();
  fields.at("reqId").exactly(key.reqId);
  const respType = fields.at("respType").oneOf(ANSWER_TYPES);
  if (respType !== key.type) fields.at("respType").refuse(`"${key.type}", as in the key`);
  const message = fields.optional("message")?.orNull((text) => text.text({ max: MAX_ANSWER_TEXT })) ?? null;
  return { reqId: key.reqId, respType, payload: fields.at("payload").object().object, message };
}

/** What the payload of an answer says; members of other form are left out, so a foreign server's answer reads too. */
export function answerDetails({ payload }: RpcAnswer): {
  readonly id: string | undefined;
  readonly reason: string | undefined;
  readonly result: unknown;
} {
  const text = (value: unknown): string | undefined => (typeof value === "string" ? value.slice(0, 64) : undefined);
  return { id: text(payload["id"]), reason: text(payload["reason"]), result: payload["result"] };
}
