import type { AtClient, ReceivedNotification } from "../atplatform/client/at-client.js";
import type { ResumeStore } from "../atplatform/client/subscription.js";
import type { AtKeys } from "../atplatform/crypto/at-keys.js";
import { AtServerError } from "../atplatform/protocol/at-error.js";
import { parseAtSign } from "../atplatform/protocol/at-sign.js";
import { codeOf, SyntaxInvalid } from "../core/errors.js";
import { parseJson, type JsonField } from "../messages/json-field.js";
import { type DeviceAddress, namespaceOf } from "../messages/names.js";
import { PlatformUnavailable, type Incoming, type Platform, type ResumeState } from "./platform.js";

/** Codes by which the client says that link or server were away, with nothing wrong in what was asked. */
const TRANSIENT: ReadonlySet<string> = new Set([
  "NOT_SENT",
  "ANSWER_LOST",
  "CONNECTION_LOST",
  "CONNECT_FAILED",
  "TIMED_OUT",
]);

/** The atPlatform by our own client, for what concerns one device. The client stays its owner's. */
export function platformOf(client: AtClient, keys: AtKeys, address: DeviceAddress): Platform {
  return {
    atSign: client.atSign,
    privateKey: keys.encryption.privateKey,

    publicKeyOf: (peer, { fresh }, signal) =>
      available(client.publicKeyOf(parseAtSign(peer), { fresh }, signal), "the public key"),

    async sharedRecord(peer, name, { fresh }, signal) {
      const from = { key: name, for: client.atSign, by: parseAtSign(peer) };
      const record = await available(client.get(from, { fresh }, signal), `the record ${name}`);
      // Not encrypted, it cannot be sealed with the key that encrypted it.
      if (!record?.aesKey || record.value === null) return undefined;
      return { text: record.value, aesKey: record.aesKey };
    },

    sharedKeyFor: (peer, signal) => available(client.sharedKeyFor(parseAtSign(peer), signal), "the shared key"),

    async putShared(peer, name, text, signal) {
      await available(client.put({ key: name, for: parseAtSign(peer) }, text, {}, signal), `writing ${name}`);
    },

    async notify({ id, to, name, text, aesKey, ttlnMs }, signal) {
      const notification = { id, to: parseAtSign(to), key: name, value: text, encryptWith: aesKey, ttlnMs };
      await available(client.notify(notification, signal), `sending ${name}`);
    },

    async *notifications({ regex, resume, since }, signal) {
      const options = {
        regex,
        probeNamespace: namespaceOf(address),
        ...(resume && { resume: resumeStoreOf(resume) }),
        ...(since !== undefined && { since }),
      };
      for await (const notification of client.subscribe(options, signal)) yield incomingOf(notification);
    },
  };
}

function incomingOf(notification: ReceivedNotification): Incoming {
  const { id, from, key, atKey, epochMillis, isEncrypted } = notification;
  const decrypt: Incoming["decrypt"] = (signal) => available(notification.decrypt(signal), "the key of a message");
  return { id, from, key, atKey, epochMillis, isEncrypted, decrypt };
}

function resumeStoreOf(resume: ResumeState): ResumeStore {
  return {
    load: () => Promise.resolve(parseResume(resume.load())),
    save: (point) => resume.save(JSON.stringify(point)),
  };
}

/** Our own writing; what cannot be read is as good as none, since the sender repeats what it has no receipt for. */
function parseResume(text: string | undefined): Awaited<ReturnType<ResumeStore["load"]>> {
  if (text === undefined) return undefined;
  try {
    const fields = parseJson(text, "resume").object();
    return { epochMillis: fields.at("epochMillis").timeMs(), seen: fields.at("seen").array({ max: 10_000 }).map(seen) };
  } catch (error) {
    if (error instanceof SyntaxInvalid) return undefined;
    throw error;
  }
}

function seen(field: JsonField): readonly [string, number] {
  const [digest, epochMillis] = field.array({ min: 2, max: 2 });
  if (!digest || !epochMillis) return field.refuse("[digest, time]");
  return [digest.text({ max: 64 }), epochMillis.timeMs()];
}

async function available<T>(work: Promise<T>, what: string): Promise<T> {
  try {
    return await work;
  } catch (cause) {
    const waits = cause instanceof AtServerError ? cause.remedy === "wait" : TRANSIENT.has(codeOf(cause) ?? "");
    if (!waits || !(cause instanceof Error)) throw cause;
    throw new PlatformUnavailable(`${what}: ${cause.message}`, { cause });
  }
}
