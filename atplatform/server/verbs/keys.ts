import { normaliseKeyName } from "../../protocol/at-key.js";
import { keys as codec, type Keys, type KeysVisibility } from "../../protocol/verbs/keys.js";
import { accessTo, enrollmentOf, isManagerSession, notAuthorised } from "../authorise.js";
import { defaultKeyNames } from "../enrollment-record.js";
import { Refusal, refused } from "../refusal.js";
import { data, json, type Reply } from "../reply.js";
import type { Services } from "../services.js";
import type { Session } from "../session.js";
import type { Enrollment } from "../store/enrollment-store.js";
import { NOT_COMMITTED } from "../store/key-store.js";
import { mergeMetadata } from "../store/metadata.js";
import { verb } from "../verb.js";

const GLOBAL = "__global";
const MIDDLE: Readonly<Record<KeysVisibility, string>> = {
  public: "__public_keys",
  private: "__private_keys",
  self: "__self_keys",
};

/** `keys`: what an enrolment keeps for itself on the server, out of log and sync; each sees its own only (spec 3.26). */
export const keysVerb = verb(codec, true, (command, { session }, services) => {
  const enrollment = requireEnrollment(session, services);
  switch (command.operation) {
    case "put":
      return put(command, enrollment, session, services);
    case "get":
      if ("visibility" in command) return list(command.visibility, enrollment, session, services);
      return get(command.keyName, enrollment, session, services);
    case "delete":
      return remove(command.keyName, enrollment, session, services);
  }
});

function requireEnrollment(session: Session, { enrollments, clock }: Services): Enrollment {
  const enrollment = enrollmentOf(session, enrollments, clock.now());
  if (enrollment === "none" || !enrollment) throw refused("Keys verb cannot be accessed without an enrollmentId");
  const { id, state } = enrollment;
  if (state !== "approved") throw refused(`Enrollment Id ${id} is not approved. current state: ${state}`);
  return enrollment;
}

async function put(
  command: Extract<Keys, { operation: "put" }>,
  enrollment: Enrollment,
  session: Session,
  { self, clock, commits, keys }: Services,
): Promise<Reply> {
  const { visibility, namespace = GLOBAL, appName, deviceName, keyType, encryptionKeyName, keyName, value } = command;
  const owner = visibility === "public" ? [] : [appName ?? enrollment.appName, deviceName ?? enrollment.deviceName];
  const scope = visibility === "self" ? "" : `${visibility}:`;
  const name = normaliseKeyName(`${scope}${[...owner, keyName, MIDDLE[visibility], namespace].join(".")}${self}`);
  const inReach = namespace.toLowerCase() === GLOBAL || accessTo(enrollment, namespace.toLowerCase()) === "rw";
  if (!inReach) throw notAuthorised(session, `put key: ${name}`);
  await commits.write(() => {
    const old = keys.get(name);
    if (old && ownerOf(old.value) !== enrollment.id) throw notAuthorised(session, `put key: ${name}`);
    const text = JSON.stringify({ value, keyType, enrollmentId: enrollment.id, encryptionKeyName });
    keys.putUnlogged({ name, value: text, metadata: mergeMetadata(old?.metadata, {}, self, clock.now()) });
  });
  return data(String(NOT_COMMITTED));
}

/** Its records in `__global`, and for managers those in `__manage`; and the keys that its approver left for it. */
function list(visibility: KeysVisibility, enrollment: Enrollment, session: Session, services: Services): Reply {
  const { self, keys, enrollments, clock } = services;
  const namespaces = isManagerSession(session, enrollments, clock.now()) ? [GLOBAL, "__manage"] : [GLOBAL];
  const endings = namespaces.map((namespace) => `.${MIDDLE[visibility]}.${namespace}${self}`);
  const own = keys
    .activeNames(clock.now())
    .filter((name) => endings.some((ending) => name.endsWith(ending)))
    .filter((name) => ownerOf(keys.get(name)?.value) === enrollment.id);
  const [privateKey, selfKey] = defaultKeyNames(enrollment.id, self);
  const inherited = visibility === "private" ? privateKey : visibility === "self" ? selfKey : undefined;
  if (inherited !== undefined && keys.get(inherited)) own.push(inherited);
  return json(own.sort());
}

function get(keyName: string, enrollment: Enrollment, session: Session, { self, keys }: Services): Reply {
  const name = normaliseKeyName(keyName);
  const value = keys.get(name)?.value;
  if (!belongsTo(name, value, enrollment, self)) throw notAuthorised(session, `get key: ${name}`);
  if (value === undefined || value === null) throw new Refusal("AT0015", `key ${name} not found in keystore`);
  return data(value);
}

async function remove(keyName: string, enrollment: Enrollment, session: Session, services: Services): Promise<Reply> {
  const { self, commits, keys } = services;
  const name = normaliseKeyName(keyName);
  if (!belongsTo(name, keys.get(name)?.value, enrollment, self)) throw notAuthorised(session, `delete key: ${name}`);
  await commits.write(() => keys.deleteUnlogged(name));
  return data(String(NOT_COMMITTED));
}

/** Any other name, `privatekey:at_secret` for one, is out of reach (spec 3.26, hole). */
function belongsTo(
  name: string,
  value: string | null | undefined,
  { id }: Enrollment,
  self: Services["self"],
): boolean {
  if (defaultKeyNames(id, self).includes(name)) return true;
  if (!Object.values(MIDDLE).some((middle) => name.includes(`.${middle}.`))) return false;
  return value === undefined || ownerOf(value) === id;
}

function ownerOf(value: string | null | undefined): string | undefined {
  try {
    const stored: unknown = JSON.parse(value ?? "");
    if (typeof stored !== "object" || stored === null || !("enrollmentId" in stored)) return undefined;
    return typeof stored.enrollmentId === "string" ? stored.enrollmentId : undefined;
  } catch {
    return undefined;
  }
}
