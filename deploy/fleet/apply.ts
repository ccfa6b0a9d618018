import { randomBytes } from "node:crypto";
import { existsSync } from "node:fs";
import { join } from "node:path";
import type { AtClient } from "../../atplatform/client/at-client.js";
import { replaceSecretFile } from "../../atplatform/crypto/at-keys-file.js";
import type { AtSign } from "../../atplatform/protocol/at-sign.js";
import { backoff } from "../../core/backoff.js";
import { systemClock } from "../../core/clock.js";
import { EdgeError } from "../../core/errors.js";
import { makeFolder } from "../../core/make-folder.js";
import { TaskGroup } from "../../core/scope.js";
import { Secret } from "../../core/secret.js";
import { fingerprintOf } from "../../messages/pins.js";
import type { FleetStore } from "./fleet-store.js";
import type { Manifest } from "./manifest.js";
import { mayPass } from "./may-pass.js";
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

type Owner = Awaited<ReturnType<OwnerOf>>;

/** Passcodes are asked of so many atServers at a time: what takes long is the way to them. */
const AT_SIGNS_AT_ONCE = 8;
const ATTEMPTS = 6;
const PAUSE = { firstMs: 1_000, maxMs: 8_000 } as const;

/**
 * Makes the fleet as planned: passcodes and a bundle for each device that has none. One that fails does not hold up the
 * others. Killed at any point, the next run goes on: a bundle that is not whole is made anew.
 *
 * @returns one result a device, in the order of the plan.
 */
export async function applyPlan(options: ApplyOptions, signal: AbortSignal): Promise<readonly Applied[]> {
  const { plan, outDir, onDevice } = options;
  await makeFolder(outDir);
  const results = new Map<PlannedDevice, Applied>();
  const groups = new Map<AtSign, PlannedDevice[]>(plan.devices.map(({ atSign }) => [atSign, []]));
  for (const planned of plan.devices) groups.get(planned.atSign)?.push(planned);
  const queue = groups.values();
  const open = oneAtATime((atSign: AtSign, stop) => openOwner(atSign, options, stop));
  await using workers = new TaskGroup(signal);
  for (let worker = 0; worker < AT_SIGNS_AT_ONCE; worker += 1) {
    workers.start(async (stop) => {
      for (const devices of queue) {
        let owner: Promise<Owner> | undefined;
        for (const planned of devices) {
          stop.throwIfAborted();
          const result = await applyOne(planned, options, () => (owner ??= open(planned.atSign, stop)), stop);
          results.set(planned, result);
          onDevice?.(result);
        }
      }
    });
  }
  await workers.join();
  signal.throwIfAborted();
  return plan.devices.flatMap((planned) => results.get(planned) ?? []);
}

/** Keys may be sealed, and a passphrase is asked for: one question after the other. */
function oneAtATime(open: OwnerOf): OwnerOf {
  let last: Promise<unknown> = Promise.resolve();
  return (atSign, signal) => {
    const next = last.then(() => open(atSign, signal));
    last = next.catch(() => undefined);
    return next;
  };
}

async function openOwner(atSign: AtSign, { ownerOf, store }: ApplyOptions, signal: AbortSignal): Promise<Owner> {
  const owner = await ownerOf(atSign, signal);
  await patiently(() => checkKeys(atSign, owner, store, signal), signal);
  return owner;
}

/** An atServer that restarts meanwhile holds things up; one that stays away fails its devices, and the next run goes on. */
async function patiently<T>(ask: () => Promise<T>, signal: AbortSignal): Promise<T> {
  const waits = backoff(PAUSE);
  for (let left = ATTEMPTS - 1; ; left -= 1) {
    try {
      return await ask();
    } catch (error) {
      signal.throwIfAborted();
      if (left === 0 || !mayPass(error)) throw error;
      await systemClock.sleep(waits.next().value, signal);
    }
  }
}

async function applyOne(
  planned: PlannedDevice,
  options: ApplyOptions,
  ownerOf: () => Promise<Owner>,
  signal: AbortSignal,
): Promise<Applied> {
  const { device, atSign, step } = planned;
  const about = { device: device.name, atSign } as const;
  const file = join(options.outDir, device.name, "atedge-provision.toml");
  if (step.type === "conflict") return { ...about, outcome: "conflict", why: step.why };
  // The file is the operator's; when he has moved it to its board it need not be here.
  if (step.type === "keep") return { ...about, outcome: "kept", why: step.why, ...(existsSync(file) && { file }) };
  try {
    const provision = await makeBundle(planned, await ownerOf(), file, options, signal);
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
  owner: Owner,
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
  // One that is to be rotated has its old enrolment until the new one is in.
  const { enrollmentId = null } = store.device(name) ?? {};
  store.putDevice({ name, serial, atSign, state: "planned", enrollmentId }, "planned", step.type);
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
    passcodes.push(await patiently(() => owner.enrollments.newPasscode({ ttlMs: lifeMs }, signal), signal));
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
