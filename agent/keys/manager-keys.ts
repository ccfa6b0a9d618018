import { readFile } from "node:fs/promises";
import { join } from "node:path";
import type { AtClient } from "../../atplatform/client/at-client.js";
import type { Enrollment } from "../../atplatform/client/enrollments.js";
import type { AtKeys } from "../../atplatform/crypto/at-keys.js";
import { replaceSecretFile } from "../../atplatform/crypto/at-keys-file.js";
import { AtServerError } from "../../atplatform/protocol/at-error.js";
import { backoff } from "../../core/backoff.js";
import type { Clock } from "../../core/clock.js";
import { codeOf, EdgeError } from "../../core/errors.js";
import type { Log } from "../../core/log.js";
import type { DeviceAddress } from "../../messages/names.js";

/** The keys may do more than a board's: whoever steals the board could take the whole atSign. */
export class ManagerKeys extends EdgeError {
  override readonly code = "MANAGER_KEYS";
}

/** What the atServer said the last time of the enrolment that the keys are of. */
export interface KnownEnrollment {
  readonly enrollmentId: string;
  readonly namespaces: Readonly<Record<string, string>>;
}

export interface KeysInUse {
  readonly atSign: string;
  readonly keyFile: string;
  readonly keys: Pick<AtKeys, "enrollmentId">;
}

/** Whether namespaces let their holder enrol others, or reach all that is the atSign's. */
export function holdsEverything(namespaces: Readonly<Record<string, string>>): boolean {
  return Object.keys(namespaces).some((name) => name === "*" || name.toLowerCase() === "__manage");
}

/**
 * What can be told without the atServer: keys of no enrolment hold everything, and of an enrolment what it held before.
 *
 * @throws {ManagerKeys}
 */
export function refuseManagerKeys(inUse: KeysInUse, known: KnownEnrollment | undefined): void {
  const { enrollmentId } = inUse.keys;
  if (enrollmentId === undefined) throw refusal(inUse, "were not enrolled, so they hold everything");
  if (known?.enrollmentId === enrollmentId && holdsEverything(known.namespaces))
    throw refusal(inUse, `hold ${Object.keys(known.namespaces).join(" and ")}`);
}

function refusal({ atSign, keyFile }: KeysInUse, what: string): ManagerKeys {
  return new ManagerKeys(
    `the keys in ${keyFile} ${what}: whoever gets hold of this board would be ${atSign}. ` +
      `Move the file to the owner's machine and make keys for this board with \`atedge enroll ${atSign}\`; ` +
      "allowManagerKeys = true in the configuration runs with it all the same",
  );
}

export interface EnrollmentCheckOptions extends KeysInUse {
  readonly client: Pick<AtClient, "enrollments">;
  readonly stateDir: string;
  readonly address: DeviceAddress;
  readonly allowManagerKeys: boolean;
  readonly clock: Pick<Clock, "sleep">;
  readonly log: Log;
}

/**
 * Asks the atServer, as soon as it can be reached, what the enrolment holds, and keeps it for the next start.
 *
 * @throws {ManagerKeys}
 */
export async function checkEnrollment(options: EnrollmentCheckOptions, signal: AbortSignal): Promise<void> {
  const { keys, client, stateDir, address, allowManagerKeys, clock, log } = options;
  const { enrollmentId } = keys;
  if (enrollmentId === undefined) return;
  const enrollment = await fetched(client, enrollmentId, { clock, log }, signal);
  if (enrollment === undefined) return;
  const { namespaces } = enrollment;
  const known: KnownEnrollment = { enrollmentId, namespaces };
  await replaceSecretFile(join(stateDir, FILE), JSON.stringify(known)).catch((error: unknown) => {
    // A full disk: the atServer is asked again at the next start.
    log.warn({ code: codeOf(error) }, "what the enrolment holds could not be kept");
  });
  if (!allowManagerKeys) refuseManagerKeys(options, known);
  const tail = `${address.device}.${address.ns}`;
  if (!reaches(namespaces, tail))
    log.error(
      { enrolled: Object.keys(namespaces).join(" "), needed: `${tail}:rw` },
      "the enrolment is not for this device, so nothing can be sent: look at device and ns in the configuration, or enrol anew",
    );
}

/** The enrolment, or `undefined` when the atServer does not tell. */
async function fetched(
  { enrollments }: Pick<AtClient, "enrollments">,
  id: string,
  { clock, log }: Pick<EnrollmentCheckOptions, "clock" | "log">,
  signal: AbortSignal,
): Promise<Enrollment | undefined> {
  for (const waitMs of backoff({ firstMs: 1000, maxMs: 60_000 })) {
    try {
      return await enrollments.fetch(id, signal);
    } catch (error) {
      signal.throwIfAborted();
      if (isFinal(error)) {
        log.warn({ code: codeOf(error) }, "the atServer does not tell what this enrolment holds");
        return undefined;
      }
    }
    await clock.sleep(waitMs, signal);
  }
  return undefined;
}

/** Link, server and refused keys may come back; another answer stays what it is. */
function isFinal(error: unknown): boolean {
  if (error instanceof AtServerError) return error.remedy === "fix" || error.remedy === "answer";
  return codeOf(error) === "ANSWER_INVALID";
}

/** Whether the holder may write to the names that end in `tail`. */
export function reaches(namespaces: Readonly<Record<string, string>>, tail: string): boolean {
  return Object.entries(namespaces).some(
    ([name, access]) => access.includes("w") && (name === "*" || tail === name || tail.endsWith(`.${name}`)),
  );
}

const FILE = "enrollment.json";

/** What {@link checkEnrollment} has kept; `undefined` when it has not, or it cannot be read. */
export async function knownEnrollment(stateDir: string): Promise<KnownEnrollment | undefined> {
  try {
    const value: unknown = JSON.parse(await readFile(join(stateDir, FILE), "utf8"));
    if (typeof value !== "object" || value === null || !("enrollmentId" in value) || !("namespaces" in value))
      return undefined;
    const { enrollmentId, namespaces } = value;
    if (typeof enrollmentId !== "string" || typeof namespaces !== "object" || namespaces === null) return undefined;
    return { enrollmentId, namespaces: Object.fromEntries(Object.entries(namespaces).map(([n, a]) => [n, String(a)])) };
  } catch {
    return undefined;
  }
}
