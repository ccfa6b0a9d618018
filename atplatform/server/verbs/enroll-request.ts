import { randomUUID } from "node:crypto";
import type { EnrollParams, Namespaces } from "../../protocol/verbs/enroll.js";
import { enrollmentKey, storeDefaultKeys } from "../enrollment-record.js";
import { refused } from "../refusal.js";
import { json, type Reply } from "../reply.js";
import type { Services } from "../services.js";
import type { Session } from "../session.js";
import type { Enrollment } from "../store/enrollment-store.js";
import { mergeMetadata } from "../store/metadata.js";
import type { Call } from "../verb.js";
import { PKAM_PUBLIC_KEY } from "./login.js";

const NOTIFICATION_LIFE_MS = 24 * 60 * 60_000;
/** Both become a part of a record's name on approval, which must not fail then (spec 3.28.5). */
const NAME = /^[\w.-]{1,80}$/u;

/** A new device or app asks; on a CRAM connection it is the first one and gets everything at once. */
export async function requestEnrollment(params: EnrollParams, call: Call, services: Services): Promise<Reply> {
  const { session } = call;
  const wanted = validated(params, session);
  limitRate(session, services);
  const { enrollments, clock } = services;
  const { appName, deviceName, otp } = wanted;
  const isFirst = session.authentication?.type === "cram";
  const other = enrollments.activeOf(appName, deviceName, clock.now());
  if (other && isRepeat(other, wanted)) return json({ enrollmentId: other.id, status: "pending" });
  if (!session.authentication) await checkPasscode(otp, call, services);
  // Asked again: the wait above may have let another request in.
  const existing = enrollments.activeOf(appName, deviceName, clock.now());
  if (existing) {
    const { id, state } = existing;
    const which = `with id ${id} exists with the app name: ${appName} and device name: ${deviceName} in ${state} state`;
    throw refused(`Another enrollment ${which}`);
  }
  return isFirst ? await enrollFirst(wanted, params, session, services) : await fileRequest(wanted, session, services);
}

interface Wanted {
  readonly appName: string;
  readonly deviceName: string;
  readonly apkamPublicKey: string;
  readonly namespaces: Namespaces;
  readonly otp: string | undefined;
  readonly encryptedApkamSymmetricKey: string | undefined;
  readonly apkamKeysExpiryMs: number;
}

function validated(params: EnrollParams, session: Session): Wanted {
  const { appName, deviceName, apkamPublicKey, namespaces = {}, otp, encryptedAPKAMSymmetricKey } = params;
  if (!appName) throw refused("appName is mandatory for enroll:request");
  if (!deviceName) throw refused("deviceName is mandatory for enroll:request");
  if (!apkamPublicKey) throw refused("apkam public key is mandatory for enroll:request");
  if (!NAME.test(appName) || !NAME.test(deviceName)) {
    throw refused("appName and deviceName consist of up to 80 letters, digits, '_', '-' and '.'");
  }
  if (otp !== undefined && session.authentication?.type !== "cram") {
    if (!encryptedAPKAMSymmetricKey)
      throw refused("encrypted apkam symmetric key is mandatory for new client enroll:request");
    if (Object.keys(namespaces).length === 0) {
      throw refused("At least one namespace must be specified for new client enroll:request");
    }
  }
  return {
    ...{ appName, deviceName, apkamPublicKey, namespaces, otp },
    encryptedApkamSymmetricKey: encryptedAPKAMSymmetricKey,
    apkamKeysExpiryMs: params.apkamKeysExpiryInMillis ?? 0,
  };
}

/** The answer to the first request was lost: the same passcode and key get the same enrolment. */
const isRepeat = (other: Enrollment, { otp, apkamPublicKey }: Wanted): boolean =>
  other.state === "pending" &&
  otp !== undefined &&
  other.otp?.toLowerCase() === otp.toLowerCase() &&
  other.apkamPublicKey === apkamPublicKey;

function limitRate(session: Session, { settings, clock, enrollLimit }: Services): void {
  const { enrollRequestsMs, remoteAddress } = session;
  const now = clock.monotonicMs();
  while (enrollRequestsMs[0] !== undefined && now - enrollRequestsMs[0] > settings.enrollTimeFrameMs) {
    enrollRequestsMs.shift();
  }
  const isFromOwner = session.authentication !== undefined;
  const isWithin = enrollRequestsMs.length < settings.enrollRequestsMax;
  if (!isWithin || (!isFromOwner && !enrollLimit.allows(remoteAddress))) {
    throw refused("Enrollment requests have exceeded the limit within the specified time frame");
  }
  enrollRequestsMs.push(now);
}

async function checkPasscode(otp: string | undefined, { signal }: Call, services: Services): Promise<void> {
  const { commits, passcodes, passcodeGuard, clock } = services;
  const isGood = otp !== undefined && (await commits.write(() => passcodes.use(otp, clock.now())));
  if (isGood) return passcodeGuard.right();
  await passcodeGuard.wrong(signal);
  throw refused("invalid otp. Cannot process enroll request");
}

async function enrollFirst(wanted: Wanted, params: EnrollParams, session: Session, services: Services): Promise<Reply> {
  const { self, clock, commits, enrollments, keys } = services;
  const enrollment: Enrollment = {
    ...newEnrollment(wanted, session, services),
    namespaces: { ...wanted.namespaces, __manage: "rw", "*": "rw" },
    state: "approved",
    expiresAtMs: wanted.apkamKeysExpiryMs > 0 ? clock.now() + wanted.apkamKeysExpiryMs : undefined,
  };
  await commits.write(() => {
    enrollments.put(enrollment);
    storeDefaultKeys(enrollment.id, params, services);
    const metadata = mergeMetadata(keys.get(PKAM_PUBLIC_KEY)?.metadata, {}, self, clock.now());
    keys.putUnlogged({ name: PKAM_PUBLIC_KEY, value: wanted.apkamPublicKey, metadata });
  });
  session.authentication = { type: "cram", enrollmentId: enrollment.id };
  return json({ enrollmentId: enrollment.id, status: "approved" });
}

async function fileRequest(wanted: Wanted, session: Session, services: Services): Promise<Reply> {
  const { self, clock, commits, enrollments, notifications, monitors, settings } = services;
  const enrollment = newEnrollment(wanted, session, services);
  const symmetricKey = wanted.encryptedApkamSymmetricKey ?? null;
  const value = JSON.stringify({
    // Clients read either spelling.
    encryptedApkamSymmetricKey: symmetricKey,
    encryptedAPKAMSymmetricKey: symmetricKey,
    appName: wanted.appName,
    deviceName: wanted.deviceName,
    namespace: wanted.namespaces,
  });
  await commits.write(() => {
    enrollments.put({ ...enrollment, expiresAtMs: clock.now() + settings.enrollExpiryMs });
    notifications.add(
      {
        id: randomUUID(),
        type: "self",
        ...{ from: self, to: self, key: enrollmentKey(enrollment.id, self), value },
        ...{
          operation: "update",
          messageType: "key",
          priority: "low",
          strategy: "all",
          latestN: 1,
          notifier: "SYSTEM",
        },
        metadata: { isEncrypted: false },
        ttlnMs: NOTIFICATION_LIFE_MS,
        status: "delivered",
      },
      clock.now(),
    );
  });
  monitors.notify();
  return json({ enrollmentId: enrollment.id, status: "pending" });
}

function newEnrollment(wanted: Wanted, session: Session, { clock }: Services): Enrollment {
  return {
    ...wanted,
    id: randomUUID(),
    sessionId: session.id,
    state: "pending",
    requestedAtMs: clock.now(),
    expiresAtMs: undefined,
  };
}
