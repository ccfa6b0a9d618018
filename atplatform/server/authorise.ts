import { keyTypeOf, partsOf } from "../protocol/at-key.js";
import { Refusal } from "./refusal.js";
import type { Session } from "./session.js";
import type { Enrollment, EnrollmentStore } from "./store/enrollment-store.js";

export type Use = "read" | "write" | "monitor";

const MANAGE = "__manage";
const EVERYTHING = "*";

/**
 * Whether an enrolment may touch a record (spec 6.5, with its holes closed): a namespace covers what ends in it, `*`
 * covers all but `__manage`, which no key verb reaches. Of the reserved names those that every app needs are open; the
 * atSign's own keys take `*` to write.
 */
export function covers(enrollment: Enrollment, name: string, use: Use): boolean {
  const { type, entity, namespace } = partsOf(name);
  const wanted = namespace === undefined ? undefined : entity;
  if (namespace === MANAGE) return use === "monitor" && accessTo(enrollment, MANAGE) !== undefined;
  if (type === "reserved" && (use !== "write" || isOpenToWriters(name))) return true;
  const access = accessTo(enrollment, wanted);
  return use === "write" ? access === "rw" : access !== undefined;
}

/** `shared_key` records are made by every enrolled app. */
const isOpenToWriters = (name: string): boolean => name.includes("shared_key");

/** The widest access that a covering namespace gives. */
export function accessTo({ namespaces }: Enrollment, entity: string | undefined): "r" | "rw" | undefined {
  let widest: "r" | "rw" | undefined;
  for (const [namespace, access] of Object.entries(namespaces)) {
    const name = namespace.toLowerCase();
    const fits = name === EVERYTHING ? entity !== MANAGE : entity === name || entity?.endsWith(`.${name}`) === true;
    if (fits && widest !== "rw") widest = access;
  }
  return widest;
}

/** Whether it may see and decide about other enrolments. */
export const isManager = (enrollment: Enrollment): boolean => accessTo(enrollment, MANAGE) !== undefined;

/** Whether it may act as the owner: legacy logins may, enrolments need write access to `__manage`. */
export const isManagerSession = (session: Session, enrollments: EnrollmentStore, nowMs: number): boolean => {
  const enrollment = enrollmentOf(session, enrollments, nowMs);
  return enrollment === "none" || (enrollment !== undefined && accessTo(enrollment, MANAGE) === "rw");
};

/** `none`: the connection is bound to no enrolment; `undefined`: to one that is gone. */
export function enrollmentOf(
  session: Session,
  enrollments: EnrollmentStore,
  nowMs: number,
): Enrollment | "none" | undefined {
  const id = session.authentication?.enrollmentId;
  return id === undefined ? "none" : enrollments.get(id, nowMs);
}

/** Whether the connection may touch a record: legacy and CRAM logins may touch all. */
export function mayUse(
  session: Session,
  name: string,
  use: Use,
  { enrollments, nowMs }: { readonly enrollments: EnrollmentStore; readonly nowMs: number },
): boolean {
  const enrollment = enrollmentOf(session, enrollments, nowMs);
  if (enrollment === "none") return true;
  return enrollment?.state === "approved" && covers(enrollment, name, use);
}

export function notAuthorised(session: Session, what: string): Refusal {
  const id = session.authentication?.enrollmentId ?? "";
  return new Refusal("AT0009", `Connection with enrollment ID ${id} is not authorized to ${what}`);
}

/** Whether an enrolment sees a name in `scan` of its own atServer: public ones, and its namespaces. */
export function showsInScan(enrollment: Enrollment, name: string): boolean {
  if (name.startsWith("public:")) return true;
  const { entity, namespace } = partsOf(name);
  if (namespace === MANAGE) return false;
  return accessTo(enrollment, namespace === undefined ? undefined : entity) !== undefined;
}

/** Whether an enrolment gets a change in `sync`: its namespaces, and names without one (spec 3.12). */
export function showsInSync(enrollment: Enrollment, name: string): boolean {
  const { entity, namespace } = partsOf(name);
  if (namespace === undefined || keyTypeOf(name) === "reserved") return true;
  if (Object.keys(enrollment.namespaces).length === 0 || isManager(enrollment)) return true;
  return accessTo(enrollment, entity) !== undefined;
}
