import { randomBytes } from "node:crypto";
import { stat } from "node:fs/promises";
import { join } from "node:path";
import type { AtClient } from "../../atplatform/client/at-client.js";
import { replaceSecretFile } from "../../atplatform/crypto/at-keys-file.js";
import type { AtSign } from "../../atplatform/protocol/at-sign.js";
import { EdgeError } from "../../core/errors.js";
import { makeFolder } from "../../core/make-folder.js";
import { Secret } from "../../core/secret.js";
import { fingerprintOf } from "../../messages/pins.js";
import type { FleetStore } from "./fleet-store.js";
import type { Manifest } from "./manifest.js";
import type { Plan, PlannedDevice } from "./plan.js";
import { formatProvision } from "./provision-file.js";
import { fillTemplate } from "./template.js";

/** Opens the owner's client of an atSign; the caller of the fleet's functions closes it. */
export type OwnerOf = (atSign: AtSign, signal: AbortSignal) => Promise<Pick<AtClient, "enrollments" | "publicKeyOf">>;

export interface ApplyOptions {
  readonly manifest: Manifest;
  readonly plan: Plan;
  readonly store: FleetStore;
  readonly ownerOf: OwnerOf;
  /** A folder a device goes here, with its `atedge-provision.toml`. */
  readonly outDir: string;
  /** PEM text of a platform's own certificate authority, for the boards. */
  readonly ca?: string;
  /** Reads a configuration template. */
  readonly templateOf: (name: string) => Promise<string>;
  readonly lifeMs: number;
  readonly passcodes: number;
  readonly nowMs: () => number;
  /** Brings a bundle to its board, e.g. over SSH; after the file was written. */
  readonly deliver?: (device: PlannedDevice, provision: string, signal: AbortSignal) => Promise<void>;
  readonly onDevice?: (result: Applied) => void;
}

export interface Applied {
  readonly device: string;
  readonly atSign: AtSign;
  readonly outcome: "bundled" | "kept" | "conflict" | "failed";
  readonly why: string;
  readonly file?: string;
}

/** The atSign of a stolen board has the keys that the thief may have read. */
export class KeysCompromised extends EdgeError {
  override readonly code: string = "KEYS_COMPROMISED";
}

/**
 * Makes the fleet as planned: passcodes and a bundle for each device that has none. One that fails does not hold up the
 * others. Killed at any point, the next run goes on: a bundle that is not whole is made anew.
 */
export async function applyPlan(options: ApplyOptions, signal: AbortSignal): Promise<readonly Applied[]> {
  const { plan, outDir, onDevice } = options;
  await makeFolder(outDir);
  const owners = new Map<AtSign, Awaited<ReturnType<OwnerOf>>>();
  const results: Applied[] = [];
  for (const planned of plan.devices) {
    signal.throwIfAborted();
    const result = await applyOne(planned, options, owners, signal);
    results.push(result);
    onDevice?.(result);
  }
  return results;
}

async function applyOne(
  planned: PlannedDevice,
  options: ApplyOptions,
  owners: Map<AtSign, Awaited<ReturnType<OwnerOf>>>,
  signal: AbortSignal,
): Promise<Applied> {
  const { device, atSign, step } = planned;
  const about = { device: device.name, atSign } as const;
  const file = join(options.outDir, device.name, "atedge-provision.toml");
  if (step.type === "conflict") return { ...about, outcome: "conflict", why: step.why };
  // The file is the operator's; when he has moved it to its board it need not be here.
  if (step.type === "keep") return { ...about, outcome: "kept", why: step.why, ...((await isThere(file)) && { file }) };
  try {
    let owner = owners.get(atSign);
    if (!owner) {
      owner = await options.ownerOf(atSign, signal);
      await checkKeys(atSign, owner, options.store, signal);
      owners.set(atSign, owner);
    }
    const provision = await makeBundle(planned, owner, file, options, signal);
    await options.deliver?.(planned, provision, signal);
    return { ...about, outcome: "bundled", why: step.why, file };
  } catch (error) {
    signal.throwIfAborted();
    if (!(error instanceof Error)) throw error;
    options.store.note("bundle failed", device.name, error.message);
    return { ...about, outcome: "failed", why: error.message };
  }
}

async function makeBundle(
  { device, atSign, step }: PlannedDevice,
  owner: Awaited<ReturnType<OwnerOf>>,
  file: string,
  options: ApplyOptions,
  signal: AbortSignal,
): Promise<string> {
  const { store, manifest, lifeMs, nowMs, ca } = options;
  const { name, serial, template } = device;
  const config =
    template === undefined
      ? undefined
      : fillTemplate(await options.templateOf(template), template, {
          ...device.values,
          ...{ device: name, serial, atsign: atSign, namespace: manifest.namespace, directory: manifest.directory },
        });
  const proof = {
    bundle: randomBytes(8).toString("hex"),
    secret: new Secret(randomBytes(32).toString("base64")),
    serial,
  };
  store.putDevice({ name, serial, atSign, state: "planned", enrollmentId: null }, "planned", step.type);
  store.beginBundle({
    id: proof.bundle,
    device: name,
    atSign,
    serial,
    secret: proof.secret,
    expiresAtMs: nowMs() + lifeMs,
  });
  const passcodes: Secret[] = [];
  while (passcodes.length < options.passcodes) {
    passcodes.push(await owner.enrollments.newPasscode({ ttlMs: lifeMs }, signal));
  }
  const text = formatProvision({
    ...{ atSign, device: name, ns: manifest.namespace, directory: manifest.directory, passcodes, proof },
    ...(ca !== undefined && { ca }),
    ...(config !== undefined && { config }),
  });
  await makeFolder(join(options.outDir, name));
  await replaceSecretFile(file, text);
  store.bundleMade(proof.bundle, name);
  return text;
}

/** @throws {KeysCompromised} while the atSign still has the keys that were on a stolen board. */
async function checkKeys(
  atSign: AtSign,
  owner: Pick<AtClient, "publicKeyOf">,
  store: FleetStore,
  signal: AbortSignal,
): Promise<void> {
  const fingerprint = fingerprintOf(await owner.publicKeyOf(atSign, { fresh: true }, signal));
  const known = store.atSign(atSign);
  if (known?.compromised === true && known.keyFingerprint === fingerprint)
    throw new KeysCompromised(`${atSign} still has the keys that a stolen board had: give it new ones first`);
  if (known?.keyFingerprint !== fingerprint) store.putAtSign(atSign, fingerprint, false);
}

const isThere = (path: string): Promise<boolean> =>
  stat(path).then(
    () => true,
    () => false,
  );
