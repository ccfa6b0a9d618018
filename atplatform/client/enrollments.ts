import type { AtKeys } from "../crypto/at-keys.js";
import { decryptAesKey } from "../crypto/rsa.js";
import {
  enroll,
  ENROLLMENT_STATES,
  type EnrollmentState,
  type EnrollOperation,
  type EnrollParams,
  type Namespaces,
} from "../protocol/verbs/enroll.js";
import { otp } from "../protocol/verbs/otp.js";
import { Secret } from "../../core/secret.js";
import { type ApprovalIvs, approvalIvs, type ApprovalIvsOptions } from "./approval-ivs.js";
import { type DefaultKeys, encryptDefaultKeys, requestFingerprint } from "./default-keys.js";
import { AnswerInvalid, EnrollmentMismatch, IvsDropped } from "./errors.js";
import type { Notification } from "./notification.js";
import { jsonObject } from "./record-json.js";
import type { SubscribeOptions } from "./subscription.js";

export interface Enrollment {
  readonly id: string;
  readonly appName: string;
  readonly deviceName: string;
  readonly namespaces: Namespaces;
  readonly status: EnrollmentState;
  /** Of the request: to be compared with what the device shows. Absent for the first enrolment of an atSign. */
  readonly fingerprint?: string;
  readonly encryptedSymmetricKey?: string;
}

export interface ApproveOptions {
  /** What the device showed over another channel. Without it, whoever knows a passcode or runs the server gets in. */
  readonly fingerprint?: string;
  /**
   * Lets a zero IV be used where the atServer keeps none, as the October 2024 one does; its operator can then read the
   * self key, which is why nothing but a human's word allows it. Where IVs are kept it changes nothing.
   */
  readonly zeroIv?: boolean;
}

export interface EnrollmentsOptions extends ApprovalIvsOptions {
  readonly keys: Pick<AtKeys, keyof DefaultKeys | "enrollmentId">;
  readonly subscribe: (options: SubscribeOptions, signal: AbortSignal) => AsyncIterable<Pick<Notification, "key">>;
}

const REQUEST_KEY = /^(?<id>[\w-]+)\.new\.enrollments\.__manage$/u;

/** The approver's side of enrolments (client.md, 4.5). Needs keys that hold `__manage`, as the first enrolment's do. */
export class Enrollments {
  readonly #options: EnrollmentsOptions;
  #ivs: ApprovalIvs = "unknown";

  constructor(options: EnrollmentsOptions) {
    this.#options = options;
  }

  /** A passcode for one request, by default good for five minutes. */
  async newPasscode({ ttlMs }: { readonly ttlMs?: number }, signal: AbortSignal): Promise<Secret> {
    const line = otp.format({ action: "get", ...(ttlMs !== undefined && { ttlMs }) });
    return new Secret(await this.#options.link.send(line, {}, signal));
  }

  /** Sets the passcode that is good until it expires or is replaced; at least six word characters. */
  async setPasscode(passcode: Secret, { ttlMs }: { readonly ttlMs?: number }, signal: AbortSignal): Promise<void> {
    const line = otp.format({
      action: "put",
      passcode: passcode.reveal(),
      ...(ttlMs !== undefined && { ttlMs }),
    });
    await this.#options.link.send(line, { repeatable: true }, signal);
  }

  async list(
    { states }: { readonly states?: readonly EnrollmentState[] },
    signal: AbortSignal,
  ): Promise<readonly Enrollment[]> {
    const params = states ? { enrollmentStatusFilter: states } : {};
    const all = jsonObject(await this.#send("list", params, signal, true));
    return Object.entries(all).map(([key, value]) => parseEnrollment(key.split(".", 1)[0] ?? "", value));
  }

  async fetch(id: string, signal: AbortSignal): Promise<Enrollment> {
    return parseEnrollment(id, jsonObject(await this.#send("fetch", { enrollmentId: id }, signal, true)));
  }

  /** Requests as they come, and those that are pending already first. */
  async *requests(signal: AbortSignal): AsyncGenerator<Enrollment, void> {
    const options = { regex: "\\.new\\.enrollments\\.__manage@", selfNotifications: true, since: "stored" } as const;
    const seen = new Set<string>();
    for (const pending of await this.list({ states: ["pending"] }, signal)) {
      seen.add(pending.id);
      yield pending;
    }
    for await (const { key } of this.#options.subscribe(options, signal)) {
      const id = REQUEST_KEY.exec(key)?.groups?.id;
      if (id === undefined || seen.has(id)) continue;
      seen.add(id);
      // What the server has now counts, not what a stored notification said.
      const [request] = (await this.list({ states: ["pending"] }, signal)).filter((each) => each.id === id);
      if (request) yield request;
    }
  }

  /**
   * Gives the device the atSign's keys, under the symmetric key that came with its request. Finds out first, once,
   * whether the atServer keeps IVs; see {@link ApproveOptions.zeroIv}.
   *
   * @throws {EnrollmentMismatch} when the request is not the one with that fingerprint.
   * @throws {IvsDropped} when the device could not read its keys; nothing was approved.
   */
  async approve(
    { id }: Pick<Enrollment, "id">,
    { fingerprint, zeroIv = false }: ApproveOptions,
    signal: AbortSignal,
  ): Promise<void> {
    const { keys } = this.#options;
    const request = await this.fetch(id, signal);
    if (request.encryptedSymmetricKey === undefined) throw new AnswerInvalid(`the enrolment ${id} has no key in it`);
    if (fingerprint !== undefined && fingerprint !== request.fingerprint) {
      throw new EnrollmentMismatch(`the enrolment ${id} is not the one that the device has requested`);
    }
    const symmetricKey = decryptAesKey(request.encryptedSymmetricKey, keys.encryption.privateKey);
    if (this.#ivs === "unknown") this.#ivs = await approvalIvs(this.#options, request.namespaces, signal);
    if (this.#ivs === "dropped" && !zeroIv) {
      throw new IvsDropped(
        "not approved: this atServer keeps no initialisation vectors, so the device could read its keys only if they " +
          "were encrypted with a zero one, and the operator of the atServer could then read the atSign's self key",
      );
    }
    const isZero = zeroIv && this.#ivs !== "kept";
    const params = { enrollmentId: id, ...encryptDefaultKeys(keys, symmetricKey, { zeroIv: isZero }) };
    await this.#send("approve", params, signal);
  }

  async deny(id: string, signal: AbortSignal): Promise<void> {
    await this.#send("deny", { enrollmentId: id }, signal);
  }

  /** Its connections are closed at once. `force` is needed for one's own. */
  async revoke(id: string, { force = false }: { readonly force?: boolean }, signal: AbortSignal): Promise<void> {
    const params = { enrollmentId: id };
    await this.#options.link.send(enroll.format({ operation: "revoke", force, params }), {}, signal);
  }

  async unrevoke(id: string, signal: AbortSignal): Promise<void> {
    await this.#send("unrevoke", { enrollmentId: id }, signal);
  }

  /** Forgets an enrolment that was denied or revoked. */
  async delete(id: string, signal: AbortSignal): Promise<void> {
    await this.#send("delete", { enrollmentId: id }, signal);
  }

  async #send(
    operation: EnrollOperation,
    params: EnrollParams,
    signal: AbortSignal,
    repeatable = false,
  ): Promise<string> {
    return await this.#options.link.send(enroll.format({ operation, force: false, params }), { repeatable }, signal);
  }
}

/** @throws {AnswerInvalid} */
function parseEnrollment(id: string, value: unknown): Enrollment {
  const members = new Map<string, unknown>(typeof value === "object" && value !== null ? Object.entries(value) : []);
  const text = (name: string): string | undefined => {
    const member = members.get(name);
    return typeof member === "string" ? member : undefined;
  };
  const status = ENROLLMENT_STATES.find((state) => state === text("status"));
  const [appName, deviceName] = [text("appName"), text("deviceName")];
  if (id === "" || appName === undefined || deviceName === undefined || status === undefined) {
    throw new AnswerInvalid("expected an enrolment with appName, deviceName and status");
  }
  const encryptedSymmetricKey = text("encryptedAPKAMSymmetricKey");
  return {
    id,
    appName,
    deviceName,
    namespaces: parseNamespaces(members.get("namespace") ?? members.get("namespaces")),
    status,
    ...(encryptedSymmetricKey && { encryptedSymmetricKey, fingerprint: requestFingerprint(encryptedSymmetricKey) }),
  };
}

/** A later kind of access, such as `rwx`, is left as it is: it is for people to read. */
function parseNamespaces(value: unknown): Namespaces {
  const entries = typeof value === "object" && value !== null ? Object.entries(value) : [];
  return Object.fromEntries(entries.filter(([, access]) => typeof access === "string"));
}
