import { SyntaxInvalid } from "../../core/errors.js";

/** Where a service is: `request.<reqId>.<domain>.__rpcs.<base>`. */
export interface RpcAddress {
  /** The namespace of the application, which is also that of the enrolment. */
  readonly baseNamespace: string;
  /** The service, e.g. `math`. */
  readonly domain: string;
}

export type JsonObject = Readonly<Record<string, unknown>>;
export type RpcAnswerType = "ack" | "nack" | "success" | "error";

export interface RpcRequest {
  readonly reqId: number;
  readonly payload: JsonObject;
}

export interface RpcAnswer {
  readonly reqId: number;
  readonly respType: RpcAnswerType;
  readonly payload: JsonObject;
  readonly message: string | null;
}

const ANSWERS: readonly RpcAnswerType[] = ["ack", "nack", "success", "error"];

export const rpcKey = (type: "request" | RpcAnswerType, reqId: number, address: RpcAddress): string =>
  `${type}.${reqId}.${address.domain}.__rpcs.${address.baseNamespace}`;

/** Type and id of a key at this address, or `undefined` for any other key. */
export function parseRpcKey(
  key: string,
  { domain, baseNamespace }: RpcAddress,
): { readonly type: string; readonly reqId: number } | undefined {
  const tail = `.${domain}.__rpcs.${baseNamespace}`;
  if (!key.endsWith(tail)) return undefined;
  const match = /^(?<type>[a-z]+)\.(?<reqId>\d{1,16})$/u.exec(key.slice(0, -tail.length));
  const reqId = Number(match?.groups?.reqId);
  return match?.groups?.type === undefined || !Number.isSafeInteger(reqId)
    ? undefined
    : { type: match.groups.type, reqId };
}

/** For `monitor`, with its dots escaped. */
export const rpcRegex = (types: string, { domain, baseNamespace }: RpcAddress): string =>
  `:${types}\\.\\d+\\.${escape(domain)}\\.__rpcs\\.${escape(baseNamespace)}@`;

const escape = (text: string): string => text.replaceAll(/[.*+?^${}()|[\]\\]/gu, "\\$&");

export const formatRpc = (message: RpcRequest | RpcAnswer): string => JSON.stringify(message);

/** @throws {SyntaxInvalid} */
export function parseRpcRequest(text: string): RpcRequest {
  const { reqId, payload } = object(text);
  return { reqId: integer(reqId), payload: plainObject(payload, "payload") };
}

/** @throws {SyntaxInvalid} */
export function parseRpcAnswer(text: string): RpcAnswer {
  const { reqId, respType, payload, message } = object(text);
  const type = ANSWERS.find((each) => each === respType);
  if (!type) throw new SyntaxInvalid("respType: expected ack, nack, success or error");
  return {
    reqId: integer(reqId),
    respType: type,
    payload: plainObject(payload, "payload"),
    message: typeof message === "string" ? message : null,
  };
}

function object(text: string): JsonObject {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new SyntaxInvalid("expected JSON", { cause });
  }
  return plainObject(value, "message");
}

function plainObject(value: unknown, name: string): JsonObject {
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as JsonObject;
  throw new SyntaxInvalid(`${name}: expected a JSON object`);
}

function integer(value: unknown): number {
  if (typeof value === "number" && Number.isSafeInteger(value) && value >= 0) return value;
  throw new SyntaxInvalid("reqId: expected an integer");
}
