import { AnswerInvalid } from "./errors.js";
import type { AtSign } from "../protocol/at-sign.js";
import { parseAtSign } from "../protocol/at-sign.js";
import { jsonObject } from "./record-json.js";

/** One line of a monitor connection, parsed and checked; nothing is decrypted yet. */
export interface Notification {
  readonly id: string;
  readonly from: AtSign;
  readonly to: AtSign;
  /** Without `@to:` and `@from`; case as sent. In a text message the text. */
  readonly key: string;
  /** `@to:key@from`. */
  readonly atKey: string;
  readonly operation: "update" | "delete";
  readonly messageType: "key" | "text";
  /** When the receiving atServer got it, by its clock. */
  readonly epochMillis: number;
  readonly isEncrypted: boolean;
  /** As sent: base64 when encrypted. */
  readonly value: string | null;
  readonly ivNonce?: string;
  readonly sharedKeyEnc?: string;
  readonly encAlgo?: string;
}

export type MonitorMessage =
  | { readonly type: "notification"; readonly notification: Notification }
  /** The server's last commit id, every now and then, and so its time. */
  | { readonly type: "stats"; readonly epochMillis: number; readonly commitId: number }
  /** The sender has another shared key from now on. */
  | { readonly type: "sharedKey"; readonly from: AtSign; readonly epochMillis: number };

const STATS_ID = "-1";

/**
 * Reads what follows `notification:` (client.md, 7.4 and 7.5).
 *
 * @throws {AnswerInvalid} or {@link AtSignInvalid} on what is no notification for `own`, e.g. one whose key names another
 *   owner than its sender, which atServers do not compare.
 */
export function parseMonitorMessage(body: string, own: AtSign): MonitorMessage {
  const message = jsonObject(body);
  const text = (name: string): string => {
    const value = message[name];
    if (typeof value !== "string") throw new AnswerInvalid(`notification: ${name} is no text`);
    return value;
  };
  const epochMillis = parseEpoch(message.epochMillis);
  const id = text("id");
  if (id === STATS_ID) {
    const commitId = Number(message.value);
    return { type: "stats", epochMillis, commitId: Number.isSafeInteger(commitId) ? commitId : -1 };
  }
  const [from, to] = [parseAtSign(text("from")), parseAtSign(text("to"))];
  if (to !== own) throw new AnswerInvalid(`a notification for ${to} came to ${own}`);
  const messageType = typeof message.messageType === "string" && message.messageType.endsWith("text") ? "text" : "key";
  const key = bareKey(text("key"), from, to, messageType);
  if (messageType === "key" && key === "shared_key") return { type: "sharedKey", from, epochMillis };
  const value = message.value ?? null;
  if (value !== null && typeof value !== "string") throw new AnswerInvalid("notification: value is no text");
  return {
    type: "notification",
    notification: {
      id,
      from,
      to,
      key,
      atKey: `${to}:${key}${from}`,
      operation: message.operation === "delete" ? "delete" : "update",
      messageType,
      epochMillis,
      isEncrypted: message.isEncrypted !== false,
      value,
      ...encryption(message.metadata),
    },
  };
}

function parseEpoch(value: unknown): number {
  if (typeof value === "number" && Number.isSafeInteger(value) && value >= 0) return value;
  throw new AnswerInvalid("notification: epochMillis is no time");
}

/** Takes `@to:` and `@from` off, where they are. @throws {AnswerInvalid} when others stand there. */
function bareKey(name: string, from: AtSign, to: AtSign, messageType: "key" | "text"): string {
  const colon = name.indexOf(":");
  const scope = name.startsWith("@") && colon !== -1 ? name.slice(0, colon) : undefined;
  if (scope !== undefined && parseAtSign(scope) !== to) throw new AnswerInvalid("notification: the key is for another");
  const named = scope === undefined ? name : name.slice(colon + 1);
  if (messageType === "text") return named;
  const at = named.lastIndexOf("@");
  if (at === -1) return named;
  if (parseAtSign(named.slice(at)) !== from) throw new AnswerInvalid("notification: the key is of another");
  return named.slice(0, at);
}

function encryption(metadata: unknown): Pick<Notification, "ivNonce" | "sharedKeyEnc" | "encAlgo"> {
  if (typeof metadata !== "object" || metadata === null) return {};
  const members = new Map<string, unknown>(Object.entries(metadata));
  const names = ["ivNonce", "sharedKeyEnc", "encAlgo"] as const;
  const texts = names.map((name) => [name, members.get(name)] as const);
  return Object.fromEntries(texts.filter(([, value]) => typeof value === "string" && value !== "null"));
}
