import { normaliseKeyName } from "../protocol/at-key.js";
import type { AtSign } from "../protocol/at-sign.js";
import type { EnrollParams } from "../protocol/verbs/enroll.js";
import type { Services } from "./services.js";
import { mergeMetadata } from "./store/metadata.js";
import type { Enrollment } from "./store/enrollment-store.js";

type StoreAbilities = Pick<Services, "self" | "clock" | "keys">;

/** As the reference stores and shows it (spec 3.28.6). */
export const enrollmentRecord = (enrollment: Enrollment): Readonly<Record<string, unknown>> => ({
  sessionId: enrollment.sessionId,
  appName: enrollment.appName,
  deviceName: enrollment.deviceName,
  namespaces: enrollment.namespaces,
  apkamPublicKey: enrollment.apkamPublicKey,
  requestType: "newEnrollment",
  approval: { state: enrollment.state },
  encryptedAPKAMSymmetricKey: enrollment.encryptedApkamSymmetricKey ?? null,
  apkamKeysExpiryInMillis: enrollment.apkamKeysExpiryMs,
});

/** The name under which the reference keeps an enrolment, and which notifications and lists show. */
export const enrollmentKey = (id: string, self: AtSign): string => `${id}.new.enrollments.__manage${self}`;

/** What the approver encrypted for the enrolled device: private encryption key and self key. */
export const defaultKeyNames = (id: string, self: AtSign): readonly [privateKey: string, selfKey: string] => [
  `${id}.default_enc_private_key.__manage${self}`,
  `${id}.default_self_enc_key.__manage${self}`,
];

export const pkamPublicKeyName = ({ appName, deviceName }: Enrollment, self: AtSign): string =>
  normaliseKeyName(`public:${appName}.${deviceName}.pkam.__pkams.__public_keys${self}`);

/** To be called inside a write. Never logged, so never synced. */
export function storeDefaultKeys(id: string, params: EnrollParams, { self, clock, keys }: StoreAbilities): void {
  const [privateKey, selfKey] = defaultKeyNames(id, self);
  const records = [
    [privateKey, params.encryptedDefaultEncryptionPrivateKey, params.encPrivateKeyIV],
    [selfKey, params.encryptedDefaultSelfEncryptionKey, params.selfEncKeyIV],
  ] as const;
  for (const [name, value = null, iv] of records) {
    const text = JSON.stringify({ value, ...(iv !== undefined && { iv }) });
    keys.putUnlogged({ name, value: text, metadata: mergeMetadata(undefined, {}, self, clock.now()) });
  }
}
