import { SyntaxInvalid } from "../core/errors.js";

/** A device of an atSign within an application namespace; all key names of the two end in `<device>.<ns>`. */
export interface DeviceAddress {
  readonly device: string;
  readonly ns: string;
}

export type AnswerType = "ack" | "nack" | "success" | "error";

const NAMESPACE = /^[a-z][a-z0-9_]{0,54}$/u;
const DEVICE = /^[a-z][a-z0-9-]{0,29}$/u;
// Texts that atServers and other SDKs take for something else wherever they stand in a key (client.md, 6.1).
const TREACHEROUS = ["enrollments", "shared_key"];

/** @throws {SyntaxInvalid} */
export function parseNamespace(text: string): string {
  if (!NAMESPACE.test(text) || text === "null" || TREACHEROUS.some((word) => text.includes(word)))
    throw new SyntaxInvalid(
      `namespace: expected a letter and then letters, digits or _ (lower case, at most 55, not "null"), got ${quoted(text)}`,
    );
  return text;
}

/** @throws {SyntaxInvalid} */
export function parseDevice(text: string): string {
  if (!DEVICE.test(text) || TREACHEROUS.some((word) => text.includes(word)))
    throw new SyntaxInvalid(
      `device: expected a letter and then letters, digits or - (lower case, at most 30), got ${quoted(text)}`,
    );
  return text;
}

/** @throws {SyntaxInvalid} */
export function parseAddress(device: string, ns: string): DeviceAddress {
  return { device: parseDevice(device), ns: parseNamespace(ns) };
}

export const telemetryKey = (address: DeviceAddress): string => `telemetry.${tail(address)}`;
export const receiptKey = (address: DeviceAddress): string => `receipt.${tail(address)}`;
export const proofKey = (address: DeviceAddress): string => `proof.${tail(address)}`;
export const stateKey = (address: DeviceAddress): string => `state.${tail(address)}`;
export const infoKey = (address: DeviceAddress): string => `info.${tail(address)}`;
export const requestKey = (address: DeviceAddress, reqId: number): string => rpcKey(address, "request", reqId);
export const answerKey = (address: DeviceAddress, type: AnswerType, reqId: number): string =>
  rpcKey(address, type, reqId);

/** The request number of `key`, or `undefined` when it is not a request to exactly this device. */
export function requestIdOf(key: string, address: DeviceAddress): number | undefined {
  return rpcParts(key, address, ["request"])?.reqId;
}

/** Type and request number of `key`, or `undefined` when it is not an answer of exactly this device. */
export function answerPartsOf(
  key: string,
  address: DeviceAddress,
): { readonly type: AnswerType; readonly reqId: number } | undefined {
  return rpcParts(key, address, ["ack", "nack", "success", "error"]);
}

/** The atKey `@to:name@from` that a seal covers: atSigns in lower case. Both come with their `@`. */
export function atKeyOf(to: string, name: string, from: string): string {
  return canonicalAtKey(`${to}:${name}${from}`);
}

const SHARED_AT_KEY = /^(?:cached:)?(?<to>@[^\s:@]+):(?<name>[^\s:@]+)(?<from>@[^\s:@]+)$/u;

/** `@to:name@from` with its atSigns in lower case and without `cached:`. @throws {SyntaxInvalid} */
export function canonicalAtKey(atKey: string): string {
  const { to, name, from } = SHARED_AT_KEY.exec(atKey)?.groups ?? {};
  if (to === undefined || name === undefined || from === undefined)
    throw new SyntaxInvalid(`atKey: expected @to:name@from, got ${quoted(atKey)}`);
  return `${to.toLowerCase()}:${name}${from.toLowerCase()}`;
}

/*
 * Expressions for `monitor`. An atServer finds them anywhere in the key, so they are a sieve only: whoever receives
 * compares the key exactly, with the functions above. They have no `:` and no upper case, which `monitor` may spoil
 * (client.md, 7.3).
 */

/** What an agent listens to: receipts and requests. */
export const agentRegex = (address: DeviceAddress): string =>
  `(receipt|request\\.[0-9]+\\.cmd\\.__rpcs)\\.${escapedTail(address)}@`;

/** What a reader listens to. */
export const readerRegex = (address: DeviceAddress): string => `telemetry\\.${escapedTail(address)}@`;

/** What a caller listens to. */
export const callerRegex = (address: DeviceAddress): string =>
  `(ack|nack|success|error)\\.[0-9]+\\.cmd\\.__rpcs\\.${escapedTail(address)}@`;

/** `<device>.<ns>`: the end of all keys of a device, and what its enrolment asks for. */
export const namespaceOf = ({ device, ns }: DeviceAddress): string => `${device}.${ns}`;

const tail = namespaceOf;
const escapedTail = (address: DeviceAddress): string => tail(address).replaceAll(".", "\\.");
const rpcKey = (address: DeviceAddress, type: string, reqId: number): string =>
  `${type}.${reqId}.cmd.__rpcs.${tail(address)}`;
const quoted = (text: string): string => JSON.stringify(text.slice(0, 80));

function rpcParts<const T extends string>(key: string, address: DeviceAddress, types: readonly T[]) {
  for (const type of types) {
    const start = `${type}.`;
    const end = `.cmd.__rpcs.${tail(address)}`;
    if (!key.startsWith(start) || !key.endsWith(end)) continue;
    const reqId = parseReqId(key.slice(start.length, -end.length));
    if (reqId !== undefined) return { type, reqId };
  }
  return undefined;
}

/** A request number is written one way only: digits without a leading zero, at most 2^53 - 1. */
function parseReqId(digits: string): number | undefined {
  const reqId = Number(digits);
  return Number.isSafeInteger(reqId) && reqId >= 0 && String(reqId) === digits ? reqId : undefined;
}
