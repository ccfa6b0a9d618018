import { enroll, type PendingEnrollment } from "../../atplatform/client/enroll.js";
import { AtServerError } from "../../atplatform/protocol/at-error.js";
import type { AtKeys } from "../../atplatform/crypto/at-keys.js";
import { parseDirectoryAddress } from "../../atplatform/transport/directory.js";
import { EdgeError } from "../../core/errors.js";
import { type Provision, proofOf } from "./provision-file.js";

export interface ProvisionOptions {
  readonly keyFile: string;
  readonly onPending?: (pending: PendingEnrollment) => void;
  readonly pollMs?: number;
}

/** All passcodes of the file were refused: it is used up, or too old. */
export class PasscodesUsedUp extends EdgeError {
  override readonly code: string = "PASSCODES_USED_UP";
}

/**
 * Makes this board the device that a provisioning file speaks of: keys are made here, and the request carries the proof
 * that the file's bundle is held. Called again after a stop, it goes on with the same request.
 *
 * @throws {PasscodesUsedUp}, and what {@link enroll} throws.
 */
export async function provisionBoard(
  { atSign, device, ns, directory, ca, passcodes, proof }: Provision,
  { keyFile, onPending, pollMs }: ProvisionOptions,
  signal: AbortSignal,
): Promise<AtKeys> {
  for (const passcode of passcodes) {
    try {
      return await enroll(
        {
          ...{ atSign, directory: parseDirectoryAddress(directory), keyFile, passcode },
          ...{ appName: "atedge", deviceName: device, namespaces: { [`${device}.${ns}`]: "rw" } },
          ...(ca !== undefined && { ca }),
          ...(proof && { proof: (key: string) => proofOf(proof, device, key) }),
          ...(onPending && { onPending }),
          ...(pollMs !== undefined && { pollMs }),
        },
        signal,
      );
    } catch (error) {
      // An answer that was lost has used a passcode up; the next one is good.
      if (!(error instanceof AtServerError) || !/invalid otp/iu.test(error.description)) throw error;
    }
  }
  throw new PasscodesUsedUp(
    `${atSign} takes none of the ${passcodes.length} passcodes any more: \`atedge fleet apply\` makes a new bundle`,
  );
}
