import type { Enrollment } from "./store/enrollment-store.js";

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
