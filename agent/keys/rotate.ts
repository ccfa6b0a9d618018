import { existsSync } from "node:fs";
import { access, constants, link, open, readFile, rename, rm } from "node:fs/promises";
import { dirname } from "node:path";
import { openAtClient } from "../../atplatform/client/at-client.js";
import { enroll, type PendingEnrollment } from "../../atplatform/client/enroll.js";
import type { Enrollment } from "../../atplatform/client/enrollments.js";
import type { AtKeys } from "../../atplatform/crypto/at-keys.js";
import { readAtKeysFile } from "../../atplatform/crypto/at-keys-file.js";
import { parseAtSign } from "../../atplatform/protocol/at-sign.js";
import { type Clock, systemClock } from "../../core/clock.js";
import { codeOf, EdgeError } from "../../core/errors.js";
import { Secret } from "../../core/secret.js";
import type { AgentConfig } from "../config/parse.js";
import { AgentNotRunning, askAgent } from "../local-client.js";
import { loadAgentKeys } from "./agent-keys.js";
import { KeysUnusable, passphraseOf } from "./load-keys.js";
import { formatRotation, nextApp, rotationKey } from "./rotation.js";

export type RotateStep =
  /** The owner has to approve this. */
  | ({ readonly type: "pending"; readonly appName: string } & PendingEnrollment)
  /** The key file is the new one. */
  | { readonly type: "switched"; readonly enrollmentId: string }
  /** Whether an agent ran, which has gone on to the new keys. */
  | { readonly type: "agent"; readonly isRunning: boolean }
  /** The owner has to revoke this. */
  | { readonly type: "replaced"; readonly enrollmentId: string };

export interface RotateOptions {
  readonly config: AgentConfig;
  readonly expiresInMs?: number;
  readonly onStep: (step: RotateStep) => void;
  readonly clock?: Clock;
  readonly pollMs?: number;
}

const POLL_MS = 10_000;
/** The atServer's time to end what the agent still sent under the old enrolment. */
const AGENT_MS = 90_000;
const ROTATION_LIFE_MS = 7 * 24 * 3_600_000;
/** So an atServer says that an enrolment is of no use any more. */
const GONE: ReadonlySet<string> = new Set(["AT0025", "AT0027", "AT0028", "AT0029", "AT0401"]);

/**
 * Replaces the board's keys by new ones: a new enrolment, approved by the owner; the switch, which a running agent makes
 * without a gap; and the old enrolment revoked. What is done shows in files beside the key file, so the same call goes
 * on after a kill at any point:
 *
 * - `.next.pending`: the request waits for its approval;
 * - `.next`: it was approved, these are the new keys;
 * - `.old`: the old keys, from just before the switch until the atServer does not take them any more.
 *
 * @throws {KeysUnusable} {@link EnrollmentRefused} and what reaching the atServer throws.
 */
export async function rotateKeys(
  options: RotateOptions,
  signal: AbortSignal,
): Promise<{ readonly enrollmentId: string; readonly replaced: string }> {
  const { config, onStep, clock = systemClock, pollMs = POLL_MS } = options;
  const files = filesOf(config.keys);
  const site = await siteOf(config);
  const now = await loadAgentKeys(config);
  const idNow = idOf(now, config.keys);
  await refuseUnwritable(config.keys);

  // The file that was linked but not yet replaced, or the old one after the switch.
  const old = existsSync(files.old) ? await readAtKeysFile(files.old, { passphrase: site.passphrase }) : undefined;
  let replaced = old !== undefined && old.enrollmentId !== idNow ? idOf(old, files.old) : undefined;
  let id = idNow;
  if (replaced === undefined) {
    if (!existsSync(files.next)) await askForNext({ ...options, site, now, idNow, files, pollMs }, signal);
    const next = await checkedNext(site, now, files.next, signal);
    await switchFiles(config.keys, files);
    [replaced, id] = [idNow, next];
  }
  onStep({ type: "switched", enrollmentId: id });
  onStep({ type: "agent", isRunning: await tellAgent(config.stateDir, id) });

  const keys = await readAtKeysFile(config.keys, { passphrase: site.passphrase });
  await using client = await openAtClient({ ...site.reach, keys }, signal);
  const [namespace = ""] = Object.keys((await client.enrollments.fetch(id, signal)).namespaces);
  const record = { key: rotationKey(namespace) };
  await client.put(record, formatRotation({ from: replaced, to: id }), { ttlMs: ROTATION_LIFE_MS }, signal);
  onStep({ type: "replaced", enrollmentId: replaced });
  const oldKeys = await readAtKeysFile(files.old, { passphrase: site.passphrase });
  while (!(await isGone(site, oldKeys, signal))) await clock.sleep(pollMs, signal);
  await rm(files.old, { force: true });
  await client.delete(record, signal);
  return { enrollmentId: id, replaced };
}

interface Files {
  readonly next: string;
  readonly old: string;
}

const filesOf = (keyFile: string): Files => ({ next: `${keyFile}.next`, old: `${keyFile}.old` });

async function siteOf({ atsign, directory, ca, keysPassphraseFile }: AgentConfig) {
  return {
    reach: {
      atSign: parseAtSign(atsign),
      directory,
      ...(ca !== undefined && { ca: await readFile(ca, "utf8") }),
    },
    passphrase: keysPassphraseFile === undefined ? undefined : await passphraseOf(keysPassphraseFile)(),
  };
}

type Site = Awaited<ReturnType<typeof siteOf>>;

function idOf({ enrollmentId }: AtKeys, file: string): string {
  if (enrollmentId !== undefined) return enrollmentId;
  throw new KeysUnusable(
    `the keys in ${file} were never enrolled, so there is nothing to replace: enrol the board first`,
  );
}

async function refuseUnwritable(keyFile: string): Promise<void> {
  await access(dirname(keyFile), constants.W_OK).catch((cause: unknown) => {
    throw new KeysUnusable(
      `this user may not write to the folder of ${keyFile}: run as the agent's user; the keys of a systemd credential are replaced by hand, see docs/operate/keys.md`,
      { cause },
    );
  });
}

interface Asking extends RotateOptions {
  readonly site: Site;
  readonly now: AtKeys;
  readonly idNow: string;
  readonly files: Files;
  readonly pollMs: number;
}

/** Any enrolment may make a passcode; being let in is the owner's to decide. */
async function askForNext(
  { site, now, idNow, files, onStep, expiresInMs, clock, pollMs }: Asking,
  signal: AbortSignal,
): Promise<void> {
  await using client = await openAtClient({ ...site.reach, keys: now }, signal);
  const { appName, deviceName, namespaces }: Enrollment = await client.enrollments.fetch(idNow, signal);
  const isAsked = existsSync(`${files.next}.pending`);
  const passcode = isAsked ? new Secret("") : await client.enrollments.newPasscode({}, signal);
  const app = nextApp(appName);
  await enroll(
    {
      ...site.reach,
      ...{ appName: app, deviceName, namespaces, passcode, keyFile: files.next, pollMs },
      ...(site.passphrase && { passphrase: site.passphrase }),
      ...(expiresInMs !== undefined && { expiresInMs }),
      ...(clock && { clock }),
      onPending: (pending) => onStep({ type: "pending", appName: app, ...pending }),
    },
    signal,
  );
}

/** The new keys' enrolment id, when they are of the same atSign and the atServer takes them. */
async function checkedNext(site: Site, now: AtKeys, file: string, signal: AbortSignal): Promise<string> {
  const next = await readAtKeysFile(file, { passphrase: site.passphrase });
  const id = idOf(next, file);
  await using client = await openAtClient({ ...site.reach, keys: now }, signal);
  await client.useEnrollment(next, signal);
  await client.enrollments.fetch(id, signal);
  return id;
}

async function switchFiles(keyFile: string, { next, old }: Files): Promise<void> {
  await link(keyFile, old).catch((error: unknown) => {
    if (codeOf(error) !== "EEXIST") throw error; // linked by a run that was killed right after
  });
  await syncFolder(keyFile);
  await rename(next, keyFile);
  await syncFolder(keyFile);
  await rm(`${next}.pending`, { force: true });
}

async function syncFolder(file: string): Promise<void> {
  const folder = await open(dirname(file), "r");
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

/** A running agent goes on to the keys that are in the file now. @returns whether there is one. */
async function tellAgent(stateDir: string, id: string): Promise<boolean> {
  let answer: unknown;
  try {
    answer = await askAgent(stateDir, "use-keys", {}, { timeoutMs: AGENT_MS });
  } catch (error) {
    if (error instanceof AgentNotRunning && codeOf(error.cause) !== "EACCES") return false;
    if (!(error instanceof EdgeError)) throw error;
    throw new KeysUnusable(
      `the agent has not gone on to the new keys (${error.message}): restart it, then rotate once more; the old ones still work`,
      { cause: error },
    );
  }
  if (typeof answer === "object" && answer !== null && "enrollmentId" in answer && answer.enrollmentId === id)
    return true;
  throw new KeysUnusable("the agent uses other keys than those in the key file: is it the one of this configuration?");
}

async function isGone({ reach }: Site, keys: AtKeys, signal: AbortSignal): Promise<boolean> {
  await using client = await openAtClient({ ...reach, keys }, signal);
  try {
    await client.send("noop:0", { repeatable: true }, signal);
    return false;
  } catch (error) {
    signal.throwIfAborted();
    if (!(error instanceof EdgeError)) throw error;
    return GONE.has(error.code);
  }
}
