import { createHash } from "node:crypto";
import type { Clock } from "../../core/clock.js";
import type { Port } from "../../core/port.js";
import { FlashRefused, type FlashTarget } from "../update/flash-target.js";
import { mcubootHash } from "./mcuboot-image.js";
import { SmpClient, SmpError } from "./smp-client.js";
import { smpErase, smpImages, smpParameters, smpReset, smpSetState, smpUpload } from "./smp-commands.js";

/** A board that speaks SMP on its console (Zephyr with MCUboot, Mynewt). The port is owned from here on. */
export async function openSmpTarget(
  { port, clock }: { readonly port: Port; readonly clock: Clock },
  signal: AbortSignal,
): Promise<FlashTarget> {
  const client = new SmpClient({ port, clock });
  try {
    await smpParameters(client, signal);
  } catch (error) {
    await client[Symbol.asyncDispose]();
    throw error;
  }
  return {
    hashOf: (image) => mcubootHash(image) ?? createHash("sha256").update(image).digest(),

    async slots(slotsSignal) {
      const images = await smpImages(client, slotsSignal);
      return images
        .filter(({ image }) => image === 0)
        .map(({ active, confirmed, pending, permanent, version, hash = new Uint8Array() }) => ({
          active,
          confirmed: confirmed || permanent,
          pending,
          version,
          hash,
        }));
    },

    upload: (image, progress, uploadSignal) => refusing(() => smpUpload(client, image, progress, uploadSignal)),
    test: (hash, testSignal) => refusing(() => smpSetState(client, hash, false, testSignal)),
    confirm: (hash, confirmSignal) => refusing(() => smpSetState(client, hash, true, confirmSignal)),
    erase: (eraseSignal) => refusing(() => smpErase(client, eraseSignal)),
    reset: (resetSignal) => smpReset(client, resetSignal),
    [Symbol.asyncDispose]: () => client[Symbol.asyncDispose](),
  };
}

async function refusing(work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (error) {
    if (error instanceof SmpError) throw new FlashRefused(error.message, { cause: error });
    throw error;
  }
}
