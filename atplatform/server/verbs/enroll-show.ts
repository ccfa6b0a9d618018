import type { EnrollParams } from "../../protocol/verbs/enroll.js";
import { enrollmentOf, isManager } from "../authorise.js";
import { enrollmentKey } from "../enrollment-record.js";
import { keyNotFound, refused } from "../refusal.js";
import { json, type Reply } from "../reply.js";
import type { Services } from "../services.js";
import type { Session } from "../session.js";
import type { Enrollment } from "../store/enrollment-store.js";

/** Managers see all; others themselves, and then no filter counts. */
export function listEnrollments({ enrollmentStatusFilter }: EnrollParams, session: Session, services: Services): Reply {
  const { self, clock, enrollments } = services;
  const own = enrollmentOf(session, enrollments, clock.now());
  const all = enrollments.list(clock.now());
  const seesAll = own === "none" || (own !== undefined && isManager(own));
  const shown = seesAll
    ? all.filter(({ state }) => enrollmentStatusFilter?.includes(state) ?? true)
    : all.filter(({ id }) => id === own?.id);
  return json(Object.fromEntries(shown.map((enrollment) => [enrollmentKey(enrollment.id, self), summary(enrollment)])));
}

export function fetchEnrollment({ enrollmentId }: EnrollParams, session: Session, services: Services): Reply {
  const { self, clock, enrollments } = services;
  if (!enrollmentId) throw refused("enrollmentId is mandatory for enroll:fetch");
  const own = enrollmentOf(session, enrollments, clock.now());
  const mayFetch = own === "none" || own?.id === enrollmentId || (own !== undefined && isManager(own));
  const enrollment = mayFetch ? enrollments.get(enrollmentId, clock.now()) : undefined;
  if (!enrollment) throw keyNotFound(enrollmentKey(enrollmentId, self));
  return json(summary(enrollment));
}

const summary = (enrollment: Enrollment): Readonly<Record<string, unknown>> => ({
  appName: enrollment.appName,
  deviceName: enrollment.deviceName,
  namespace: enrollment.namespaces,
  encryptedAPKAMSymmetricKey: enrollment.encryptedApkamSymmetricKey ?? null,
  status: enrollment.state,
});
