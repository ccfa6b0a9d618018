import type { AtClient } from "../../atplatform/client/at-client.js";
import type { Enrollment } from "../../atplatform/client/enrollments.js";
import type { AtSign } from "../../atplatform/protocol/at-sign.js";
import { backoff } from "../../core/backoff.js";
import { systemClock } from "../../core/clock.js";
import { EdgeError } from "../../core/errors.js";
import type { BundleRow, FleetStore } from "./fleet-store.js";
import { mayPass } from "./may-pass.js";
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

export interface WatchOptions extends ApproveOptions {
  /** Goes on until aborted, as requests come, and outlives losses of the atServer. */
  readonly watch: boolean;
  /** Called when the atServer cannot be reached now. */
  readonly onWait?: (why: Error) => void;
}

const PAUSE = { firstMs: 1_000, maxMs: 15_000 } as const;

/** Settles every request of an atSign, also what a run before has left half done. */
export async function approveRequests(
  clientOf: (signal: AbortSignal) => Promise<Pick<AtClient, "enrollments">>,
  options: WatchOptions,
  signal: AbortSignal,
): Promise<void> {
  for (const waitMs of backoff(PAUSE)) {
    try {
      const client = await clientOf(signal);
      const { enrollments } = client;
      await reconcile(client, options, signal);
      if (options.watch)
        for await (const request of enrollments.requests(signal)) await settle(request, client, options, signal);
      else
        for (const request of await enrollments.list({ states: ["pending"] }, signal))
          await settle(request, client, options, signal);
      return;
    } catch (error) {
      signal.throwIfAborted();
      if (!options.watch || !(error instanceof Error) || !mayPass(error)) throw error;
      options.onWait?.(error);
    }
    await systemClock.sleep(waitMs, signal);
  }
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

/**
 * Approves a request that proves its bundle and denies any other. When the atServer refuses that, the request stays as
 * it is. Throws when the way to it was lost: the decision may have arrived or not, and can be sent again.
 */
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
    if (decision.bundle.state === "made" && !store.claimBundle(id, device, request.id))
      return await settle(request, client, options, signal); // another run was first: look again
    const asked = request.fingerprint === undefined ? {} : { fingerprint: request.fingerprint };
    await client.enrollments.approve(request, asked, signal);
    await endFormer(device, request.id, client, options, signal);
    store.deviceEnrolled(device, request.id);
    return end("approved", `it proved the bundle ${id}`);
  } catch (error) {
    signal.throwIfAborted();
    if (!(error instanceof EdgeError) || mayPass(error)) throw error;
    store.note("decision failed", about.device, `${request.id}: ${error.message}`);
    return end("failed", error.message);
  }
}

/** What a run that was killed, or lost its atServer, between the approval and its own note of it has left. */
export async function reconcile(
  client: Pick<AtClient, "enrollments">,
  options: ApproveOptions,
  signal: AbortSignal,
): Promise<void> {
  const { atSign, store, onDecision } = options;
  const rows = new Map(store.devices().map((row) => [row.name, row]));
  for (const { id, appName, deviceName, status } of await client.enrollments.list({ states: ["approved"] }, signal)) {
    const bundle = store.bundle(bundleOf(appName) ?? "");
    const row = rows.get(deviceName);
    const isNoted = row?.state === "enrolled" || row?.enrollmentId === id;
    if (status !== "approved" || isNoted || bundle?.atSign !== atSign || bundle.enrollmentId !== id) continue;
    await endFormer(bundle.device, id, client, options, signal);
    store.deviceEnrolled(bundle.device, id);
    const why = `it proved the bundle ${bundle.id}, and was let in before`;
    onDecision?.({ atSign, device: bundle.device, enrollment: id, outcome: "approved", why });
  }
}

/** Of a device that was rotated: its old enrolment ends when the new one is in. */
async function endFormer(
  device: string,
  enrollmentId: string,
  client: Pick<AtClient, "enrollments">,
  { store }: ApproveOptions,
  signal: AbortSignal,
): Promise<void> {
  const former = store.device(device)?.enrollmentId ?? null;
  if (former === null || former === enrollmentId) return;
  const [approved] = (await client.enrollments.list({ states: ["approved"] }, signal)).filter(
    ({ id }) => id === former,
  );
  if (approved) await client.enrollments.revoke(former, {}, signal);
  store.note("revoked", device, former);
}
