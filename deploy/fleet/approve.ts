import type { AtClient } from "../../atplatform/client/at-client.js";
import type { Enrollment } from "../../atplatform/client/enrollments.js";
import type { AtSign } from "../../atplatform/protocol/at-sign.js";
import { EdgeError } from "../../core/errors.js";
import type { BundleRow, FleetStore } from "./fleet-store.js";
import { bundleOf, isProved } from "./provision-file.js";

export type Decision =
  { readonly type: "approve"; readonly bundle: BundleRow } | { readonly type: "deny"; readonly why: string };

export interface ApproveOptions {
  readonly atSign: AtSign;
  readonly namespace: string;
  readonly store: FleetStore;
  readonly nowMs: () => number;
  readonly onDecision?: (decided: Decided) => void;
}

export interface Decided {
  readonly atSign: AtSign;
  readonly device: string;
  readonly enrollment: string;
  readonly outcome: "approved" | "denied" | "failed";
  readonly why: string;
}

/** Whether a request proves a bundle of this fleet. Changes nothing. */
export function decide(request: Enrollment, { atSign, namespace, store, nowMs }: ApproveOptions): Decision {
  const { appName, deviceName, namespaces, encryptedSymmetricKey } = request;
  const deny = (why: string): Decision => ({ type: "deny", why });
  const id = bundleOf(appName);
  if (id === undefined) return deny("it names no bundle");
  const bundle = store.bundle(id);
  if (!bundle || bundle.atSign !== atSign) return deny(`the bundle ${id} is none of this fleet at ${atSign}`);
  const { device, serial, secret, state } = bundle;
  if (state === "void" || state === "begun") return deny(`the bundle ${id} of ${device} was replaced by another`);
  if (state === "used" && bundle.enrollmentId !== request.id)
    return deny(`the bundle ${id} of ${device} was used already, by the enrolment ${bundle.enrollmentId ?? "?"}`);
  if (state === "made" && bundle.expiresAtMs <= nowMs()) return deny(`the bundle ${id} of ${device} has expired`);
  if (deviceName !== device) return deny(`the bundle ${id} is that of ${device}, not of ${deviceName}`);
  if (
    encryptedSymmetricKey === undefined ||
    !isProved(appName, { bundle: id, secret, serial }, device, encryptedSymmetricKey)
  )
    return deny(`the proof for the bundle ${id} of ${device} is wrong: whoever asks does not hold the bundle`);
  const wanted = `${device}.${namespace}`;
  const asked = Object.entries(namespaces);
  if (asked.length !== 1 || asked[0]?.[0] !== wanted || asked[0][1] !== "rw")
    return deny(`it asks for ${asked.map((each) => each.join(":")).join(", ")} instead of ${wanted}:rw`);
  return { type: "approve", bundle };
}

/** Approves a request that proves its bundle and denies any other. A failure of the atServer leaves it as it is. */
export async function settle(
  request: Enrollment,
  client: Pick<AtClient, "enrollments">,
  options: ApproveOptions,
  signal: AbortSignal,
): Promise<Decided> {
  const { atSign, store, onDecision } = options;
  const decision = decide(request, options);
  const about = { atSign, device: request.deviceName.slice(0, 60), enrollment: request.id };
  const end = (outcome: Decided["outcome"], why: string): Decided => {
    const decided = { ...about, outcome, why };
    onDecision?.(decided);
    return decided;
  };
  try {
    if (decision.type === "deny") {
      store.note("denied", about.device, `${request.id}: ${decision.why}`);
      await client.enrollments.deny(request.id, signal);
      return end("denied", decision.why);
    }
    const { id, device } = decision.bundle;
    if (decision.bundle.state === "made") store.claimBundle(id, device, request.id);
    const asked = request.fingerprint === undefined ? {} : { fingerprint: request.fingerprint };
    await client.enrollments.approve(request, asked, signal);
    store.deviceEnrolled(device, request.id);
    return end("approved", `it proved the bundle ${id}`);
  } catch (error) {
    signal.throwIfAborted();
    if (!(error instanceof EdgeError)) throw error;
    store.note("decision failed", about.device, `${request.id}: ${error.message}`);
    return end("failed", error.message);
  }
}

/** What a run that was killed between the approval and its own note of it has left. */
export async function reconcile(
  client: Pick<AtClient, "enrollments">,
  { atSign, store }: ApproveOptions,
  signal: AbortSignal,
): Promise<void> {
  const rows = new Map(store.devices().map((row) => [row.name, row]));
  for (const { id, appName, deviceName, status } of await client.enrollments.list({ states: ["approved"] }, signal)) {
    const bundle = store.bundle(bundleOf(appName) ?? "");
    const isNoted = rows.get(deviceName)?.state === "enrolled";
    if (status !== "approved" || isNoted || bundle?.atSign !== atSign || bundle.enrollmentId !== id) continue;
    store.deviceEnrolled(bundle.device, id);
  }
}
