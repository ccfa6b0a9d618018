import type { KeyObject } from "node:crypto";
import { EdgeError } from "../core/errors.js";
import { signText, SignatureInvalid, verifiedText, type Envelope } from "./envelope.js";
import { JsonField, parseJson, type JsonFields, type JsonObject } from "./json-field.js";
import type { DeviceAddress } from "./names.js";

/** What a caller signs. AtSigns canonical, with `@`; times in milliseconds since 1970 by the caller's clock. */
export interface CommandStatement {
  readonly from: string;
  readonly to: string;
  readonly device: string;
  readonly target: string;
  readonly command: string;
  readonly args: JsonObject;
  /** Everything is checked and nothing is done; left out: false. */
  readonly dryRun?: boolean;
  /** Names this command for ever: the same id from the same caller never acts twice. */
  readonly id: string;
  readonly issuedAt: number;
  /** The device refuses to begin at this time or later. */
  readonly expiresAt: number;
}

/** Why a device did not carry a command out; goes to callers that an `[[allow]]` names, as `payload.reason` of `nack`. */
export const REFUSAL_REASONS = [
  "malformed", // not what docs/reference/messages.md describes
  "bad-seal", // the mac does not fit
  "key-not-proven", // no valid proof record for the AES key
  "key-changed", // the caller's public key is not the pinned one
  "unsigned", // no envelope, and `unsigned` is not configured
  "bad-signature", // not signed by the pinned key
  "wrong-type", // signed, but not as a command
  "wrong-caller", // signed in the name of another atSign
  "wrong-recipient", // signed for another atSign
  "wrong-device", // signed for another device
  "expired", // expiresAt has passed
  "not-yet-valid", // issued in the future by more than clocks may differ
  "too-long-lived", // expiresAt is too far after issuedAt
  "before-ledger", // issued before the device's ledger began, so a repeat could not be told
  "id-reused", // the id was used before, for another command
  "not-allowed", // the policy does not allow this target and command, or these arguments
  "not-now", // the policy allows it at other hours
  "too-often", // the policy allows no more of it for now
  "unknown-target", // no driver of this name
  "unknown-command", // the driver has no such command
  "bad-args", // the arguments do not fit the command
  "busy", // too much is waiting already
  "no-ledger", // the ledger cannot be written, and the command is not idempotent
  "no-time", // the device does not know the time yet
  "cancelled", // its caller gave it up before it was begun
  "driver-down", // the driver is not open; nothing was done
  "refused", // the driver refused; nothing was done
] as const;

export type RefusalReason = (typeof REFUSAL_REASONS)[number];

/** A command that is not carried out, with the reason that its caller is told. */
export class CommandRejected extends EdgeError {
  override readonly code = "COMMAND_REJECTED";
  readonly reason: RefusalReason;

  constructor(reason: RefusalReason, message: string, options?: ErrorOptions) {
    super(message, options);
    this.reason = reason;
  }
}

export const MAX_COMMAND_LIFETIME_MS = 24 * 3600 * 1000;
/** How far a caller's clock may be ahead of the device's. */
export const MAX_CLOCK_SKEW_MS = 30_000;

const TYP = "atedge-cmd/1";
const MEMBERS = ["typ", "from", "to", "device", "target", "command", "args", "id", "issuedAt", "expiresAt", "dryRun"];
const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/u;

/** Payload of an AtRpc request. @throws {SyntaxInvalid} when the statement is not one that a device would read. */
export function signCommand(statement: CommandStatement, privateKey: KeyObject): Envelope {
  const { from, to, device, target, command, args, id, issuedAt, expiresAt, dryRun } = statement;
  const times = { issuedAt, expiresAt, ...(dryRun && { dryRun }) };
  const body = { typ: TYP, from, to, device, target, command, args, id, ...times };
  parseStatement(new JsonField(body, "command").object());
  return signText(JSON.stringify(body), privateKey);
}

export interface CommandCheck extends DeviceAddress {
  /** The atSign that the notification came from, and our own. */
  readonly from: string;
  readonly to: string;
  /** The caller's pinned encryption public key. */
  readonly publicKey: KeyObject;
  /** Milliseconds since 1970; `undefined` while the time is not known: then nothing signed can be accepted. */
  readonly nowMs: number | undefined;
}

/**
 * The command in the payload of a request, once its signature over the exact text, its type, its parties and its times
 * are checked, in this order. Policy and ledger come after.
 *
 * @throws {CommandRejected}
 */
export function verifyCommand(payload: unknown, check: CommandCheck): CommandStatement {
  const text = signedText(payload, check.publicKey);
  const fields = asRejection("malformed", () => parseJson(text, "command").object());
  if (fields.optional("typ")?.value !== TYP) throw new CommandRejected("wrong-type", `typ: expected "${TYP}"`);
  const statement = asRejection("malformed", () => parseStatement(fields));
  if (statement.from !== check.from)
    throw new CommandRejected("wrong-caller", `signed in the name of ${statement.from}`);
  if (statement.to !== check.to) throw new CommandRejected("wrong-recipient", `signed for ${statement.to}`);
  if (statement.device !== check.device) throw new CommandRejected("wrong-device", `signed for ${statement.device}`);
  checkTimes(statement, check.nowMs);
  return statement;
}

/** A command of a caller whose `[[allow]]` says `unsigned`: the payload of plain AtRpc. */
export interface PlainCommand {
  readonly target: string;
  readonly command: string;
  readonly args: JsonObject;
  readonly dryRun?: boolean;
}

/** @throws {CommandRejected} "malformed" */
export function parsePlainCommand(payload: unknown): PlainCommand {
  return asRejection("malformed", () => parseAction(new JsonField(payload, "payload").object()));
}

function signedText(payload: unknown, publicKey: KeyObject): string {
  const fields = asRejection("malformed", () => new JsonField(payload, "payload").object());
  if (!fields.optional("signed")) throw new CommandRejected("unsigned", "the command is not signed");
  try {
    return verifiedText(payload, publicKey, "payload");
  } catch (error) {
    if (!(error instanceof EdgeError)) throw error;
    const reason = error instanceof SignatureInvalid ? "bad-signature" : "malformed";
    throw new CommandRejected(reason, error.message, { cause: error });
  }
}

function parseStatement(fields: JsonFields): CommandStatement {
  fields.only(MEMBERS);
  fields.at("typ").exactly(TYP);
  const issuedAt = fields.at("issuedAt").timeMs();
  const expiresAt = fields.at("expiresAt").timeMs();
  if (expiresAt <= issuedAt) fields.at("expiresAt").refuse("a time after issuedAt");
  return {
    from: fields.at("from").text(atSignLimits),
    to: fields.at("to").text(atSignLimits),
    device: fields.at("device").text(nameLimits),
    ...parseAction(fields),
    id: fields.at("id").text(nameLimits),
    issuedAt,
    expiresAt,
  };
}

function parseAction(fields: JsonFields): PlainCommand {
  return {
    target: fields.at("target").text(nameLimits),
    command: fields.at("command").text(nameLimits),
    args: fields.optional("args")?.object().object ?? {},
    ...(fields.optional("dryRun")?.boolean() && { dryRun: true }),
  };
}

function checkTimes({ issuedAt, expiresAt }: CommandStatement, nowMs: number | undefined): void {
  if (nowMs === undefined) throw new CommandRejected("no-time", "the device does not know the time yet");
  if (expiresAt - issuedAt > MAX_COMMAND_LIFETIME_MS)
    throw new CommandRejected("too-long-lived", `a command may live ${MAX_COMMAND_LIFETIME_MS / 1000} s at most`);
  if (issuedAt > nowMs + MAX_CLOCK_SKEW_MS)
    throw new CommandRejected("not-yet-valid", `issued ${issuedAt - nowMs} ms ahead of the device's clock`);
  if (expiresAt <= nowMs) throw new CommandRejected("expired", `expired ${nowMs - expiresAt} ms ago`);
}

function asRejection<T>(reason: RefusalReason, read: () => T): T {
  try {
    return read();
  } catch (error) {
    if (!(error instanceof EdgeError)) throw error;
    throw new CommandRejected(reason, error.message, { cause: error });
  }
}

const nameLimits = { max: 64, pattern: NAME, expected: "a name (letters, digits . _ -)" };
const atSignLimits = { max: 128, pattern: /^@[^\s:@]+$/u, expected: "an atSign" };
