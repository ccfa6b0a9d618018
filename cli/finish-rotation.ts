import { setTimeout as sleep } from "node:timers/promises";
import { baseApp, isRotated, parseRotation, type Rotation, rotationKey } from "../agent/keys/rotation.js";
import type { AtClient } from "../atplatform/client/at-client.js";
import type { Enrollment } from "../atplatform/client/enrollments.js";
import { EdgeError } from "../core/errors.js";
import { ChildSignal } from "../core/scope.js";
import { formatDuration } from "./duration.js";
import { CommandFailed } from "./next-step.js";
import { Progress } from "./progress.js";

const POLL_MS = 1_000;

/**
 * What comes after the approval of a board's new keys: when the board says that it has gone on to them, the old
 * enrolment is revoked, which is the owner's to do.
 *
 * @returns the enrolment that was revoked; `undefined` when the approved one takes the place of none.
 */
export async function finishRotation(
  client: Pick<AtClient, "atSign" | "enrollments" | "get">,
  { id, appName, deviceName, namespaces }: Enrollment,
  waitMs: number,
  stop: AbortSignal,
): Promise<Enrollment | undefined> {
  if (!isRotated(appName)) return undefined;
  const [namespace = ""] = Object.keys(namespaces);
  const isFormer = (each: Enrollment): boolean =>
    each.id !== id && each.deviceName === deviceName && baseApp(each.appName) === baseApp(appName);
  const former = (await client.enrollments.list({ states: ["approved"] }, stop)).filter(isFormer);
  if (former.length === 0) return undefined;
  await using deadline = new ChildSignal(stop);
  const later = `the board has not changed to the new keys within ${formatDuration(waitMs)}; the same command goes on waiting`;
  const timer = setTimeout(() => deadline.abort(new CommandFailed(later)), waitMs);
  const progress = new Progress();
  progress.start(`${client.atSign}: approved; waiting until ${deviceName} has changed to its new keys`);
  try {
    for (;;) {
      const rotation = await rotationOf(client, namespace, deadline.signal);
      // The record is the board's word: only what is the same board's can be revoked by it.
      const old = rotation?.to === id ? former.find((each) => each.id === rotation.from) : undefined;
      if (old) {
        await client.enrollments.revoke(old.id, {}, deadline.signal);
        return old;
      }
      await sleep(POLL_MS, undefined, { signal: deadline.signal });
    }
  } catch (error) {
    deadline.signal.throwIfAborted();
    throw error;
  } finally {
    progress.end();
    clearTimeout(timer);
  }
}

async function rotationOf(
  client: Pick<AtClient, "atSign" | "get">,
  namespace: string,
  signal: AbortSignal,
): Promise<Rotation | undefined> {
  const record = await client.get({ key: rotationKey(namespace), by: client.atSign }, {}, signal);
  if (record === undefined || record.value === null) return undefined;
  try {
    return parseRotation(record.value);
  } catch (error) {
    if (error instanceof EdgeError) return undefined;
    throw error;
  }
}
