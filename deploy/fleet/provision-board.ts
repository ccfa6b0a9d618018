import { enroll, type PendingEnrollment } from "../../atplatform/client/enroll.js";
import type { AtKeys } from "../../atplatform/crypto/at-keys.js";
import { AtServerError } from "../../atplatform/protocol/at-error.js";
import { parseDirectoryAddress } from "../../atplatform/transport/directory.js";
import { backoff, type BackoffOptions } from "../../core/backoff.js";
import { type Clock, systemClock } from "../../core/clock.js";
import { EdgeError } from "../../core/errors.js";
import type { Secret } from "../../core/secret.js";
import { isOverLimit, mayPass } from "./may-pass.js";
import { type Provision, proofOf } from "./provision-file.js";

export interface ProvisionOptions {
  readonly keyFile: string;
  readonly onPending?: (pending: PendingEnrollment) => void;
  /** Called before each wait for something that may pass: a network, or the limit of requests. */
  readonly onWait?: (why: Error, waitMs: number) => void;
  readonly pollMs?: number;
  /** After "exceeded the limit": an atServer counts by the hour, and boards of one site have one address. */
  readonly limitPause?: BackoffOptions;
  readonly clock?: Clock;
}

const POLL_MS = 10_000;
const LOSS_MAX_MS = 60_000;
const LIMIT_PAUSE: BackoffOptions = { firstMs: 60_000, maxMs: 15 * 60_000 };

/** All passcodes of the file were refused: it is used up, or too old. */
export class PasscodesUsedUp extends EdgeError {
  override readonly code: string = "PASSCODES_USED_UP";
}

/**
 * Makes this board the device that a provisioning file speaks of: keys are made here, and the request carries the proof
 * that the file's bundle is held. Waits as long as `signal` lets it for a network, for an atServer that takes no more
 * requests now, and for the approval. Called again after a stop, it goes on with the same request.
 *
 * @throws {PasscodesUsedUp}, and what {@link enroll} throws.
 */
export async function provisionBoard(
  provision: Provision,
  options: ProvisionOptions,
  signal: AbortSignal,
): Promise<AtKeys> {
  const { pollMs = POLL_MS, limitPause = LIMIT_PAUSE, clock = systemClock, onWait } = options;
  const lossPauses = backoff({ firstMs: pollMs, maxMs: Math.max(pollMs, LOSS_MAX_MS) });
  const limitPauses = backoff(limitPause);
  const passcodes = [...provision.passcodes];
  for (let passcode = passcodes.shift(); passcode;) {
    try {
      return await enrollWith(passcode, provision, options, signal);
    } catch (error) {
      signal.throwIfAborted();
      if (isRefusedPasscode(error)) {
        // An answer that was lost has used it up, or another board; the next one is good.
        passcode = passcodes.shift();
      } else if (error instanceof Error && (isOverLimit(error) || mayPass(error))) {
        const { value: waitMs } = (isOverLimit(error) ? limitPauses : lossPauses).next();
        onWait?.(error, waitMs);
        await clock.sleep(waitMs, signal);
      } else throw error;
    }
  }
  throw new PasscodesUsedUp(
    `${provision.atSign} takes none of the ${provision.passcodes.length} passcodes any more: \`atedge fleet apply\` makes a new bundle`,
  );
}

const isRefusedPasscode = (error: unknown): boolean =>
  error instanceof AtServerError && /invalid otp/iu.test(error.description);

async function enrollWith(
  passcode: Secret,
  { atSign, device, ns, directory, ca, proof }: Provision,
  { keyFile, onPending, pollMs, clock }: ProvisionOptions,
  signal: AbortSignal,
): Promise<AtKeys> {
  return await enroll(
    {
      ...{ atSign, directory: parseDirectoryAddress(directory), keyFile, passcode },
      ...{ appName: "atedge", deviceName: device, namespaces: { [`${device}.${ns}`]: "rw" } },
      ...(ca !== undefined && { ca }),
      ...(proof && { proof: (key: string) => proofOf(proof, device, key) }),
      ...(onPending && { onPending }),
      ...(pollMs !== undefined && { pollMs }),
      ...(clock && { clock }),
    },
    signal,
  );
}
