import { randomUUID, timingSafeEqual } from "node:crypto";
import { type Clock, systemClock } from "../../core/clock.js";
import { LimitExceeded, SyntaxInvalid } from "../../core/errors.js";
import { type Log, silentLog } from "../../core/log.js";
import { ChildSignal, type Disposable } from "../../core/scope.js";
import { decryptText, encryptText, ivOfMessage, newIv, parseIv } from "../crypto/aes-ctr.js";
import { knownAlgorithm } from "../crypto/algorithms.js";
import type { AtKeys } from "../crypto/at-keys.js";
import { DecryptionFailed, KeyInvalid } from "../crypto/errors.js";
import type { AtSign } from "../protocol/at-sign.js";
import type { MetadataOptions } from "../protocol/metadata-options.js";
import type { Update } from "../protocol/verbs/update.js";
import { notify, type Notify, type Priority } from "../protocol/verbs/notify.js";
import { notifyStatus } from "../protocol/verbs/notify-by-id.js";
import { ConnectionLost } from "../transport/errors.js";
import { CommandLink, type LinkHealth } from "./command-link.js";
import type { Dialer } from "./dialer.js";
import { Enrollments } from "./enrollments.js";
import { logInWithKey } from "./login.js";
import type { Notification } from "./notification.js";
import type { Reconnect } from "./pacer.js";
import { PublicKeys } from "./public-keys.js";
import { dialerFor, type ReachOptions } from "./reach.js";
import type { RecordJson, RecordMetadata } from "./record-json.js";
import { type AtRecord, decryptWithAny, MAX_VALUE_BYTES, type PutOptions, Records } from "./records.js";
import type { RecordName } from "./record-name.js";
import { type SharedKey, SharedKeys } from "./shared-keys.js";
import { checkClearText, type OutgoingText } from "./text-message.js";
import { type SubscribeOptions, Subscription, type SubscriptionHealth } from "./subscription.js";

export interface AtClientOptions extends ReachOptions {
  readonly keys: AtKeys;
  readonly log?: Log;
  /** From 1 s to 60 s unless given. */
  readonly reconnect?: Reconnect;
}

export interface OutgoingNotification {
  /** A UUID of one's own, to send the same one again; a new one when left out. */
  readonly id?: string;
  readonly to: AtSign;
  /** Entity with its namespace, e.g. `telemetry.north.atedge`. */
  readonly key: string;
  readonly operation?: "update" | "delete";
  readonly value?: string;
  /** How long the notification is of use, at our atServer and then at the receiver's. */
  readonly ttlnMs: number;
  /** Another AES key than the shared one; it goes along, encrypted for the receiver. */
  readonly encryptWith?: Uint8Array;
  /** False sends the value in clear text. */
  readonly encrypt?: boolean;
  readonly priority?: Priority;
  /** `latest`: of those with the same `notifier` that wait for the receiver, only the newest `latestN` stay. */
  readonly strategy?: "all" | "latest";
  readonly latestN?: number;
  readonly notifier?: string;
  /** Metadata of the record that the receiver's atServer keeps when `ttrSeconds` is given. */
  readonly record?: Pick<MetadataOptions, "ttlMs" | "ttbMs" | "ttrSeconds" | "ccd">;
}

export type NotificationStatus = "queued" | "delivered" | "errored" | "expired" | "unknown";

export interface ReceivedNotification extends Notification {
  /**
   * The value in clear text, and the key that it was encrypted with, so that a seal can be checked. Not before the
   * sender has passed the policy: this can cost RSA operations and look-ups.
   *
   * @throws {DecryptionFailed} also when it was not encrypted at all, or has no value.
   */
  decrypt(signal: AbortSignal): Promise<{ readonly text: string; readonly aesKey: Uint8Array }>;
}

export interface AtClientHealth {
  readonly command: LinkHealth;
  readonly subscriptions: readonly SubscriptionHealth[];
}

const DELIVERY_TIMEOUT_MS = 60_000;
const DELIVERY_FIRST_MS = 500;
const DELIVERY_EVERY_MS = 2_000;
const STATUSES: readonly NotificationStatus[] = ["queued", "delivered", "errored", "expired"];

interface TextToEncrypt {
  readonly id: string | undefined;
  readonly to: AtSign;
  readonly key: string;
  readonly text: string;
  readonly encryptWith?: Uint8Array | undefined;
}

/** A client for one atSign. It connects when it is first needed; keys that are refused show then. */
export function openAtClient(options: AtClientOptions, signal: AbortSignal): Promise<AtClient> {
  signal.throwIfAborted();
  return Promise.resolve(new AtClient(options));
}

/**
 * One atSign on the atPlatform: records, notifications, subscriptions, keys. Uses one command connection, made anew
 * after a loss, and one more for each subscription.
 */
export class AtClient implements Disposable {
  readonly atSign: AtSign;
  /** Other devices of this atSign. */
  readonly enrollments: Enrollments;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #dialer: Dialer;
  readonly #reconnect: Reconnect | undefined;
  readonly #link: CommandLink;
  readonly #publicKeys: PublicKeys;
  readonly #sharedKeys: SharedKeys;
  readonly #keys: AtKeys;
  readonly #reach: ReachOptions;
  #login: Pick<AtKeys, "pkam" | "enrollmentId">;
  readonly #hasEnrollment: boolean;
  readonly #records: Records;
  readonly #subscriptions = new Set<Subscription>();
  readonly #life = new ChildSignal(new AbortController().signal);

  /** Use {@link openAtClient}. */
  constructor(options: AtClientOptions) {
    const { atSign, keys, clock = systemClock, log = silentLog } = options;
    this.atSign = atSign;
    this.#keys = keys;
    this.#reach = options;
    this.#login = keys;
    this.#hasEnrollment = keys.enrollmentId !== undefined;
    this.#reconnect = options.reconnect;
    this.#clock = clock;
    this.#log = log.child({ atSign });
    this.#dialer = dialerFor(options, (connection, signal) => logInWithKey(connection, atSign, this.#login, signal));
    this.#link = new CommandLink({ dialer: this.#dialer, clock, log: this.#log, reconnect: options.reconnect });
    this.#publicKeys = new PublicKeys({ atSign, link: this.#link, clock });
    this.#sharedKeys = new SharedKeys({
      atSign,
      encryption: keys.encryption,
      link: this.#link,
      publicKeys: this.#publicKeys,
      clock,
      life: this.#life.signal,
    });
    this.#records = new Records({
      atSign,
      keys,
      link: this.#link,
      publicKeys: this.#publicKeys,
      sharedKeys: this.#sharedKeys,
    });
    this.enrollments = new Enrollments({
      atSign,
      keys,
      link: this.#link,
      dial: (signal) => dialerFor(options).dial({}, signal),
      subscribe: (options, signal) => this.subscribe(options, signal),
    });
  }

  get health(): AtClientHealth {
    return {
      command: this.#link.health,
      subscriptions: [...this.#subscriptions].map((subscription) => subscription.health),
    };
  }

  /**
   * Goes on with another enrolment of the same atSign, without a gap: commands under way end on the present connection,
   * and subscriptions go on where they are. When this resolves the old enrolment is of no use any more. Does nothing when
   * the atServer does not take the new keys.
   *
   * @throws {KeyInvalid} on keys of another atSign, or of this one before it was set up anew; what logging in throws.
   */
  async useEnrollment(keys: AtKeys, signal: AbortSignal): Promise<void> {
    const isSame =
      keys.encryption.publicText === this.#keys.encryption.publicText &&
      timingSafeEqual(keys.selfKey.reveal(), this.#keys.selfKey.reveal());
    if (!isSame) throw new KeyInvalid(`the keys are not those of the ${this.atSign} that this client is`);
    const dialer = dialerFor(this.#reach, (connection, signal) => logInWithKey(connection, this.atSign, keys, signal));
    await (await dialer.dial({}, signal))[Symbol.asyncDispose]();
    this.#login = keys;
    for (const subscription of this.#subscriptions) subscription.renew();
    await this.#link.renew();
  }

  /** A command as it stands on the wire, without its newline; the rest is for those who know the protocol. */
  async send(line: string, options: { readonly repeatable?: boolean }, signal: AbortSignal): Promise<string> {
    return await this.#link.send(line, options, signal);
  }

  /**
   * Sends a notification. Resolves with the id when our own atServer has it, which is not yet delivery. With an id of
   * one's own it can be sent again without harm: the same message looks the same, so the receiver gets it once.
   */
  async notify(notification: OutgoingNotification, signal: AbortSignal): Promise<string> {
    const { id, to, key, value, operation = "update", encrypt = true, encryptWith } = notification;
    const { ttlnMs, priority, strategy, latestN, notifier, record = {} } = notification;
    const isSecret = encrypt && value !== undefined;
    const sealed = isSecret ? await this.#encrypt({ id, to, key, text: value, encryptWith }, signal) : undefined;
    const line = notify.format({
      ...outgoing({ id, ttlnMs, priority, strategy, latestN, notifier }),
      operation,
      messageType: "key",
      options: { ...record, isEncrypted: isSecret, ...sealed?.options },
      to,
      key,
      owner: this.atSign,
      ...(value !== undefined && { value: sealed?.text ?? value }),
    });
    return await this.#sendNotification(line, signal);
  }

  /**
   * Sends a text message, a notification without a key (`messageType:text`). The receiver's `key` is the text, or what
   * `decrypt` gives the text for. Deprecated in the protocol: enrolled keys need the namespace `*` on both sides, and the
   * reference atServer does not pass on what an encrypted one is decrypted with, ours does.
   *
   * @throws {SyntaxInvalid} on a text in clear that the protocol cannot carry whole.
   */
  async notifyText({ id, to, text, ttlnMs, encrypt = true }: OutgoingText, signal: AbortSignal): Promise<string> {
    if (text === "") throw new SyntaxInvalid("a text message needs a text");
    if (!encrypt) checkClearText(text);
    const sealed = encrypt ? await this.#encrypt({ id, to, key: "", text }, signal) : undefined;
    const line = notify.format({
      ...outgoing({ id, ttlnMs }),
      operation: "update",
      messageType: "text",
      options: { isEncrypted: encrypt, ...sealed?.options },
      to,
      key: sealed?.text ?? text,
    });
    return await this.#sendNotification(line, signal);
  }

  /** The same message under the same id looks the same; otherwise the IV is a fresh one. */
  async #encrypt(
    { id, to, key, text, encryptWith }: TextToEncrypt,
    signal: AbortSignal,
  ): Promise<{ readonly text: string; readonly options: MetadataOptions }> {
    const shared = to === this.atSign ? undefined : await this.#sharedKeys.forSending(to, signal, encryptWith);
    const aesKey = shared?.aesKey ?? encryptWith ?? this.#keys.selfKey.reveal();
    const iv = id === undefined ? newIv() : ivOfMessage(aesKey, [id, key, text]);
    return {
      text: encryptText(text, aesKey, iv),
      options: {
        ...(shared && { sharedKeyEnc: shared.sharedKeyEnc, pubKeyCS: shared.pubKeyCS }),
        ivNonce: iv.toString("base64"),
      },
    };
  }

  async #sendNotification(line: string, signal: AbortSignal): Promise<string> {
    if (line.length > MAX_VALUE_BYTES) throw new LimitExceeded(`a notification has at most ${MAX_VALUE_BYTES} bytes`);
    return await this.#link.send(line, { repeatable: true }, signal);
  }

  /** What our own atServer knows of it. `delivered`: to the receiver's atServer. Past `ttlnMs` it forgets. */
  async notificationStatus(id: string, signal: AbortSignal): Promise<NotificationStatus> {
    const answer = await this.#link.send(notifyStatus.format({ id }), { repeatable: true }, signal);
    return STATUSES.find((status) => status === answer) ?? "unknown";
  }

  /**
   * Waits until the receiver's atServer has the notification, or it is clear that it will not get it. What is known
   * when `timeoutMs` (60 s) is over is the answer then: `errored` is also said between the attempts of our atServer.
   */
  async waitForDelivery(
    id: string,
    { timeoutMs = DELIVERY_TIMEOUT_MS }: { readonly timeoutMs?: number },
    signal: AbortSignal,
  ): Promise<NotificationStatus> {
    const endMs = this.#clock.monotonicMs() + timeoutMs;
    for (let waitMs = DELIVERY_FIRST_MS; ; waitMs = DELIVERY_EVERY_MS) {
      const status = await this.notificationStatus(id, signal);
      const leftMs = endMs - this.#clock.monotonicMs();
      const isOpen = status === "queued" || status === "errored";
      if (!isOpen || leftMs <= 0) return status;
      await this.#clock.sleep(Math.min(waitMs, leftMs), signal);
    }
  }

  /** Writes a record of ours; resolves with its commit id. */
  async put(
    name: Omit<RecordName, "by">,
    value: string | Uint8Array,
    options: PutOptions,
    signal: AbortSignal,
  ): Promise<number> {
    return await this.#records.put(name, value, options, signal);
  }

  /** Reads a record of ours or of another; `undefined` when there is none. `fresh` passes caches by. */
  async get(
    name: RecordName,
    options: { readonly fresh?: boolean },
    signal: AbortSignal,
  ): Promise<AtRecord | undefined> {
    return await this.#records.get(name, options, signal);
  }

  /** What {@link put} would send: a copy that is kept aside sends it later, see `Sync`. */
  async prepare(
    name: Omit<RecordName, "by">,
    value: string | Uint8Array,
    options: PutOptions,
    signal: AbortSignal,
  ): Promise<Update> {
    return await this.#records.prepare(name, value, options, signal);
  }

  /** What {@link get} makes of a record that has come another way. */
  async open(name: RecordName, record: RecordJson, signal: AbortSignal): Promise<AtRecord> {
    return await this.#records.open(name, record, signal);
  }

  /** Metadata without the value; `undefined` when there is no such record. */
  async metadataOf(name: RecordName, signal: AbortSignal): Promise<RecordMetadata | undefined> {
    return await this.#records.metadataOf(name, signal);
  }

  /** Changes when a record of ours expires, is born or refreshed, and not its value; `undefined`: there is none. */
  async setMetadata(
    name: Omit<RecordName, "by">,
    options: Pick<PutOptions, "ttlMs" | "ttbMs" | "ttrSeconds" | "ccd">,
    signal: AbortSignal,
  ): Promise<number | undefined> {
    return await this.#records.setMetadata(name, options, signal);
  }

  async delete(name: Omit<RecordName, "by">, signal: AbortSignal): Promise<void> {
    await this.#records.delete(name, signal);
  }

  /** Full names on our atServer, or (`of`) of what another atSign shares with us. */
  async scan(
    options: { readonly regex?: string; readonly showHidden?: boolean; readonly of?: AtSign },
    signal: AbortSignal,
  ): Promise<readonly string[]> {
    return await this.#records.scan(options, signal);
  }

  /** The records whose names {@link scan} gives, one after the other, decrypted; shared keys and their like left out. */
  readAll(options: { readonly regex?: string }, signal: AbortSignal): AsyncGenerator<AtRecord, void> {
    return this.#records.readAll(options, signal);
  }

  /** Base64 SPKI text of an atSign's encryption public key. @throws {NotActivated} */
  async publicKeyOf(atSign: AtSign, options: { readonly fresh?: boolean }, signal: AbortSignal): Promise<string> {
    return (await this.#publicKeys.get(atSign, options, signal)).text;
  }

  /** The AES key that we encrypt with for `peer`; made when there is none. */
  async sharedKeyFor(peer: AtSign, signal: AbortSignal): Promise<SharedKey> {
    return await this.#sharedKeys.forSending(peer, signal);
  }

  /**
   * Notifications as they come, for ever; survives losses of the connection, drops repeats, and goes on where it was.
   * One counts as handled when the next is asked for. Ends when `signal` aborts or the client is disposed.
   */
  async *subscribe(options: SubscribeOptions, signal: AbortSignal): AsyncGenerator<ReceivedNotification, void> {
    await using child = new ChildSignal(signal);
    const end = (): void => child.abort(this.#life.signal.reason);
    this.#life.signal.addEventListener("abort", end, { once: true });
    if (this.#life.signal.aborted) end();
    const subscription = new Subscription(
      {
        atSign: this.atSign,
        dialer: this.#dialer,
        clock: this.#clock,
        log: this.#log,
        onSharedKey: (from) => this.#sharedKeys.forget(from),
        reconnect: this.#reconnect,
        hasEnrollment: this.#hasEnrollment,
        notifySelf: (key, ttlnMs, signal) => this.notify({ to: this.atSign, key, ttlnMs }, signal),
      },
      options,
    );
    this.#subscriptions.add(subscription);
    try {
      for await (const notification of subscription.run(child.signal)) {
        yield { ...notification, decrypt: (signal) => this.#decrypt(notification, signal) };
      }
    } finally {
      this.#subscriptions.delete(subscription);
      this.#life.signal.removeEventListener("abort", end);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#life.abort(new ConnectionLost("the client was closed"));
    await this.#link[Symbol.asyncDispose]();
    await this.#life[Symbol.asyncDispose]();
  }

  async #decrypt(
    { from, isEncrypted, value, key, messageType, ivNonce, sharedKeyEnc, encAlgo }: Notification,
    signal: AbortSignal,
  ): Promise<{ readonly text: string; readonly aesKey: Uint8Array }> {
    const encrypted = messageType === "text" ? key : value;
    if (!isEncrypted || encrypted === null) throw new DecryptionFailed("the notification has no encrypted value");
    if (encAlgo !== undefined) knownAlgorithm("encAlgo", encAlgo);
    const iv = parseIv(ivNonce);
    if (from === this.atSign) {
      const aesKey = this.#keys.selfKey.reveal();
      return { text: decryptText(encrypted, aesKey, iv), aesKey };
    }
    return await decryptWithAny(this.#sharedKeys.forReading(from, sharedKeyEnc, signal), encrypted, iv);
  }
}

type Sending = {
  readonly [Name in "id" | "ttlnMs" | "priority" | "strategy" | "latestN" | "notifier"]?: Notify[Name] | undefined;
};

/** In the form of the Dart SDK, which says all. */
const outgoing = ({
  id,
  ttlnMs = 0,
  priority,
  strategy,
  latestN,
  notifier,
}: Sending): Partial<Notify> & { id: string } => ({
  id: id ?? randomUUID(),
  ttlnMs,
  priority: priority ?? "low",
  strategy: strategy ?? "all",
  latestN: latestN ?? 1,
  notifier: notifier ?? "SYSTEM",
});
