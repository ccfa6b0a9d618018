import type { EnrollOperation, EnrollParams } from "../../protocol/verbs/enroll.js";
import { accessTo, enrollmentOf, isManager, isManagerSession } from "../authorise.js";
import { defaultKeyNames, enrollmentKey, pkamPublicKeyName, storeDefaultKeys } from "../enrollment-record.js";
import { keyNotFound, Refusal, refused } from "../refusal.js";
import { json, type Reply } from "../reply.js";
import type { Services } from "../services.js";
import type { Enrollment, EnrollmentState } from "../store/enrollment-store.js";
import { mergeMetadata } from "../store/metadata.js";
import type { Call } from "../verb.js";

const CLOSE_AFTER_MS = 10_000;

export async function approve(params: EnrollParams, call: Call, services: Services): Promise<Reply> {
  const id = requireId(params, "approve");
  for (const name of ["encryptedDefaultEncryptionPrivateKey", "encryptedDefaultSelfEncryptionKey"] as const) {
    if (!params[name]) throw refused(`${name} is mandatory for enroll:approve`);
  }
  const { self, clock, keys } = services;
  await change(id, "approve", call, services, (target) => {
    const { apkamKeysExpiryMs: lifeMs, apkamPublicKey } = target;
    services.enrollments.put({
      ...target,
      state: "approved",
      otp: undefined,
      expiresAtMs: lifeMs > 0 ? clock.now() + lifeMs : undefined,
    });
    storeDefaultKeys(id, params, services);
    const name = pkamPublicKeyName(target, self);
    const metadata = mergeMetadata(keys.get(name)?.metadata, {}, self, clock.now());
    keys.putUnlogged({ name, value: JSON.stringify({ apkamPublicKey }), metadata });
  });
  return json({ status: "approved", enrollmentId: id });
}

export async function deny(params: EnrollParams, call: Call, services: Services): Promise<Reply> {
  const id = requireId(params, "deny");
  const { enrollments, clock, settings } = services;
  await change(id, "deny", call, services, (target) => {
    enrollments.put({ ...target, state: "denied", expiresAtMs: clock.now() + settings.enrollExpiryMs });
  });
  return json({ status: "denied", enrollmentId: id });
}

export async function revoke(params: EnrollParams, force: boolean, call: Call, services: Services): Promise<Reply> {
  const id = requireId(params, "revoke");
  const { connection, session } = call;
  const isOwn = session.authentication?.enrollmentId === id;
  if (isOwn && !force) throw new Refusal("AT0031", "Current client cannot revoke its own enrollment");
  await change(id, "revoke", call, services, (target) => services.enrollments.put({ ...target, state: "revoked" }));
  services.connections.dropEnrollment(id, connection);
  if (!isOwn) return json({ status: "revoked", enrollmentId: id });
  // It ends with the connection, by the call's signal.
  void services.clock.sleep(CLOSE_AFTER_MS, call.signal).then(
    () => connection.destroy(),
    () => undefined,
  );
  const message = "Enrollment is revoked. Closing the connection in 10 seconds";
  return json({ status: "revoked", enrollmentId: id, message });
}

export async function unrevoke(params: EnrollParams, call: Call, services: Services): Promise<Reply> {
  const id = requireId(params, "unrevoke");
  await change(id, "unrevoke", call, services, (target) => services.enrollments.put({ ...target, state: "approved" }));
  return json({ status: "approved", enrollmentId: id });
}

/** Only what was denied or revoked can go, with every record that the approval made. */
export async function deleteEnrollment(params: EnrollParams, { session }: Call, services: Services): Promise<Reply> {
  const id = requireId(params, "delete");
  const { self, clock, commits, enrollments } = services;
  if (!isManagerSession(session, enrollments, clock.now())) {
    throw refused(`Failed to delete enrollment id: ${id}. The enrollment does not have access to "__manage" namespace`);
  }
  await commits.write(() => {
    const target = enrollments.get(id, clock.now());
    if (!target) throw keyNotFound(enrollmentKey(id, self));
    if (target.state !== "denied" && target.state !== "revoked") {
      const cause = `Cannot delete ${target.state} enrollments. Only denied and revoked enrollments can be deleted`;
      throw refused(`Failed to delete enrollment id: ${id} | Cause: ${cause}`);
    }
    enrollments.remove(id);
    for (const name of [...defaultKeyNames(id, self), pkamPublicKeyName(target, self)])
      services.keys.deleteUnlogged(name);
  });
  return json({ enrollmentId: id, status: "deleted" });
}

type Decision = "approve" | "deny" | "revoke" | "unrevoke";

const ALLOWED: Readonly<
  Record<Decision, { readonly from: EnrollmentState; readonly verb: string; readonly done: string }>
> = {
  approve: { from: "pending", verb: "approve", done: "approved" },
  deny: { from: "pending", verb: "deny", done: "denied" },
  revoke: { from: "approved", verb: "revoke", done: "revoked" },
  unrevoke: { from: "revoked", verb: "un-revoke", done: "un-revoked" },
};

/** Checks and changes in one write, so that two decisions cannot both find the enrolment undecided. */
async function change(
  id: string,
  decision: Decision,
  { session }: Call,
  services: Services,
  apply: (target: Enrollment) => void,
): Promise<void> {
  const { enrollments, commits, clock } = services;
  await commits.write(() => {
    const target = enrollments.get(id, clock.now());
    if (!target) throw new Refusal("AT0028", `enrollment_id: ${id} is expired or invalid`, { colonForm: true });
    const { from, verb, done } = ALLOWED[decision];
    if (target.state !== from) {
      const why = `Cannot ${verb} a ${target.state} enrollment. Only ${from} enrollments can be ${done}`;
      throw refused(`Failed to ${decision} enrollment id: ${id}. ${why}`);
    }
    const decider = enrollmentOf(session, enrollments, clock.now());
    if (decider !== "none") checkAuthority(decider, target, decision);
    apply(target);
  });
}

/** Nobody gives what it does not have. */
function checkAuthority(decider: Enrollment | undefined, target: Enrollment, decision: Decision): void {
  const failed = `Failed to ${decision} enrollment id: ${target.id}.`;
  if (!decider || decider.state !== "approved" || !isManager(decider)) {
    throw refused(`${failed} The approving enrollment does not have access to "__manage" namespace`);
  }
  for (const [namespace, access] of Object.entries(target.namespaces)) {
    const own = accessTo(decider, namespace.toLowerCase());
    if (own === undefined || (access === "rw" && own === "r")) {
      throw refused(`${failed} Client is not authorized for namespaces in the enrollment request`);
    }
  }
}

function requireId({ enrollmentId }: EnrollParams, operation: EnrollOperation): string {
  if (!enrollmentId) throw refused(`enrollmentId is mandatory for enroll:${operation}`);
  return enrollmentId;
}
