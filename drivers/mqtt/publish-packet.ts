import { fromUtf8 } from "../../core/bytes.js";
import { SyntaxInvalid } from "../../core/errors.js";
import type { MqttFrame } from "./packet-framer.js";

export type ProtocolVersion = 4 | 5;

export interface InboundMessage {
  readonly topic: string;
  readonly payload: Buffer;
  readonly retained: boolean;
  /** Only at QoS 1, where it is acknowledged with this number. */
  readonly packetId?: number;
  /** Of version 5, without their length. */
  readonly properties?: Buffer;
  /** Bytes of the payload that were over the limit and are missing. */
  readonly omittedBytes: number;
}

export const isPublish = ({ header }: MqttFrame): boolean => header >> 4 === 3;

/**
 * A PUBLISH at QoS 0 or 1 (MQTT 3.1.1 and 5, section 3.3). Properties of version 5 are handed on unread; we announce no
 * topic aliases, so there is always a topic.
 *
 * @throws {SyntaxInvalid} on a malformed one, and on QoS 2, which we never subscribe at.
 */
export function parsePublish({ header, body, omittedBytes }: MqttFrame, version: ProtocolVersion): InboundMessage {
  const qos = (header >> 1) & 3;
  if (qos > 1) throw new SyntaxInvalid(`MQTT: a message at QoS ${qos}, subscribed is at most 1`);
  const topicEnd = 2 + uint16(body, 0);
  const topic = fromUtf8(slice(body, 2, topicEnd));
  if (topic === "" || /[+#\0]/u.test(topic)) throw new SyntaxInvalid("MQTT: a message without a proper topic");
  let at = topicEnd;
  const retained = (header & 1) === 1;
  let packetId: number | undefined;
  if (qos === 1) {
    packetId = uint16(body, at);
    if (packetId === 0) throw new SyntaxInvalid("MQTT: a message at QoS 1 without a number");
    at += 2;
  }
  let properties: Buffer | undefined;
  if (version === 5) {
    const { from, end } = propertiesAt(body, at);
    if (end > from) properties = body.subarray(from, end);
    at = end;
  }
  const payload = slice(body, at, body.length);
  return {
    topic,
    payload,
    retained,
    omittedBytes,
    ...(packetId === undefined ? {} : { packetId }),
    ...(properties === undefined ? {} : { properties }),
  };
}

const CORRELATION_DATA = 0x09;
const SUBSCRIPTION_ID = 0x0b;
/** Properties of a fixed length, in bytes (MQTT 5, section 2.2.2.2). */
const FIXED_BYTES: Readonly<Record<number, number>> = { 0x01: 1, 0x02: 4, 0x23: 2 };
/** How many strings the others have: content type, response topic, correlation data, name and value of a user property. */
const STRINGS: Readonly<Record<number, number>> = { 0x03: 1, 0x08: 1, [CORRELATION_DATA]: 1, 0x26: 2 };

/** The correlation data among the properties of a message; `undefined` without any, or when they are malformed. */
export function correlationOf(properties: Buffer): Buffer | undefined {
  for (let at = 0; at < properties.length;) {
    const id = properties[at] ?? 0;
    at += 1;
    if (id === SUBSCRIPTION_ID) at += properties.subarray(at).findIndex((byte) => byte < 0x80) + 1;
    else if (FIXED_BYTES[id] !== undefined) at += FIXED_BYTES[id];
    else if (STRINGS[id] === undefined) return undefined;
    else {
      for (let left = STRINGS[id]; left > 0; left -= 1) {
        const text = stringAt(properties, at);
        if (!text || id === CORRELATION_DATA) return text;
        at += 2 + text.length;
      }
    }
  }
  return undefined;
}

function stringAt(bytes: Buffer, at: number): Buffer | undefined {
  if (at + 2 > bytes.length) return undefined;
  const end = at + 2 + bytes.readUInt16BE(at);
  return end > bytes.length ? undefined : bytes.subarray(at + 2, end);
}

/** PUBACK for each number, success (MQTT 3.1.1 and 5, section 3.4; in 5 a missing reason code is success). */
export function pubacks(packetIds: readonly number[]): Buffer {
  const bytes = Buffer.allocUnsafe(packetIds.length * 4);
  packetIds.forEach((packetId, index) => {
    bytes.writeUInt16BE(0x4002, index * 4);
    bytes.writeUInt16BE(packetId, index * 4 + 2);
  });
  return bytes;
}

function propertiesAt(body: Buffer, at: number): { readonly from: number; readonly end: number } {
  let length = 0;
  for (let place = 0; place < 4; place += 1) {
    const byte = body[at + place];
    if (byte === undefined) break;
    length += (byte & 0x7f) * 128 ** place;
    const from = at + place + 1;
    if (byte < 0x80 && from + length <= body.length) return { from, end: from + length };
  }
  throw new SyntaxInvalid("MQTT: false length of the properties");
}

function uint16(body: Buffer, at: number): number {
  if (at + 2 > body.length) throw new SyntaxInvalid("MQTT: a message ends too early");
  return body.readUInt16BE(at);
}

function slice(body: Buffer, from: number, to: number): Buffer {
  if (to > body.length) throw new SyntaxInvalid("MQTT: a message ends too early");
  return body.subarray(from, to);
}
