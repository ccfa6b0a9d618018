import { readFile, rm } from "node:fs/promises";
import { resolve } from "node:path";
import { text } from "node:stream/consumers";
import { setTimeout as sleep } from "node:timers/promises";
import { passphraseOf } from "../agent/keys/load-keys.js";
import { openAtClient } from "../atplatform/client/at-client.js";
import { enroll, type EnrollOptions, type PendingEnrollment } from "../atplatform/client/enroll.js";
import { readAtKeysFile } from "../atplatform/crypto/at-keys-file.js";
import { AtServerError } from "../atplatform/protocol/at-error.js";
import { type AtSign, parseAtSign } from "../atplatform/protocol/at-sign.js";
import { type DirectoryAddress, parseDirectoryAddress } from "../atplatform/transport/directory.js";
import { codeOf } from "../core/errors.js";
import { fileExists } from "../core/file-exists.js";
import { ChildSignal } from "../core/scope.js";
import { Secret } from "../core/secret.js";
import { parseAddress } from "../messages/names.js";
import { formatDuration } from "./duration.js";
import { CommandFailed, nextStepToReach, withNextStep } from "./next-step.js";
import { Progress } from "./progress.js";
import { readCa } from "./read-ca.js";
import { interruption } from "./remote-options.js";

export interface EnrollArguments {
  readonly device: string;
  readonly ns: string;
  readonly app: string;
  readonly passcodeFile: string;
  readonly keyFile: string;
  readonly passphraseFile: string | undefined;
  readonly directory: string;
  readonly caFile: string | undefined;
  readonly expiresInMs: number | undefined;
  readonly waitMs: number;
  readonly pollMs: number;
  readonly json: boolean;
}

/** A board that has just booted has no network yet, or a clock that is behind; it may come. */
const MAY_PASS: ReadonlySet<string> = new Set([
  "CONNECT_FAILED",
  "CONNECTION_LOST",
  "CLOCK_FAULT",
  "TIMED_OUT",
  "NOT_SENT",
]);

/** Makes a board one of the atSign's. A board that is one already is a success too. */
export async function enrollBoard(name: string, args: EnrollArguments): Promise<void> {
  const { keyFile, pollMs, json } = args;
  const atSign = parseAtSign(name);
  const { device, ns } = parseAddress(args.device, args.ns);
  const site: Site = { atSign, directory: parseDirectoryAddress(args.directory), ...(await readCa(args.caFile)) };
  const stop = interruption();
  await using deadline = new ChildSignal(stop);
  const timer = setTimeout(() => deadline.abort(new DeadlinePassed()), args.waitMs);
  const progress = new Progress();
  try {
    const passphrase = args.passphraseFile === undefined ? undefined : await passphraseOf(args.passphraseFile)();
    if (await fileExists(keyFile)) {
      await checkEnrolled(site, args, passphrase, deadline.signal);
      await rm(`${keyFile}.pending`, { force: true }); // the last run ended between the two
      tell(json, { type: "enrolled", atsign: atSign, device, keys: keyFile, already: true }, [
        `${atSign}: ${device} is enrolled already, with the keys in ${keyFile}`,
      ]);
      return;
    }
    const passcode = await readPasscode(args.passcodeFile, `${keyFile}.pending`);
    progress.start(`${atSign}: asking for the enrolment of ${device}`);
    const options: EnrollOptions = {
      ...site,
      appName: args.app,
      deviceName: device,
      namespaces: { [`${device}.${ns}`]: "rw" },
      passcode,
      keyFile,
      ...(passphrase && { passphrase }),
      pollMs,
      ...(args.expiresInMs !== undefined && { expiresInMs: args.expiresInMs }),
      onPending(pending) {
        progress.end();
        tellPending(pending, atSign, args);
        progress.start(`${atSign}: waiting for the approval, ${formatDuration(args.waitMs)} at most`);
      },
    };
    const { enrollmentId } = await untilReached(options, progress, deadline.signal);
    progress.end();
    tell(json, { type: "enrolled", atsign: atSign, device, keys: keyFile, already: false, enrollmentId }, [
      `${atSign}: ${device} is enrolled; its keys are in ${keyFile} and nowhere else`,
    ]);
  } catch (error) {
    progress.end();
    if (stop.aborted || error instanceof DeadlinePassed) throw ended(stop.aborted, args);
    throw withNextStep(error, nextStep(error, atSign, args));
  } finally {
    clearTimeout(timer);
  }
}

interface Site {
  readonly atSign: AtSign;
  readonly directory: DirectoryAddress;
  readonly ca?: string;
}

class DeadlinePassed extends CommandFailed {
  constructor() {
    super("nobody has decided in time");
  }
}

function ended(byUser: boolean, { waitMs, keyFile }: EnrollArguments): CommandFailed {
  const what = byUser ? "stopped before it was done" : `not approved within ${formatDuration(waitMs)}`;
  return new CommandFailed(
    `${what}; a request that was filed stays, with its keys in ${keyFile}.pending: the same command goes on with it`,
  );
}

/** Asks again while link or server are away: the request on the disk stays the same. */
async function untilReached(options: EnrollOptions, progress: Progress, signal: AbortSignal) {
  for (;;) {
    try {
      return await enroll(options, signal);
    } catch (error) {
      signal.throwIfAborted();
      if (!MAY_PASS.has(codeOf(error) ?? "") || !(error instanceof Error)) throw error;
      progress.start(`${options.atSign}: ${error.message}; trying again`);
    }
    await sleep(options.pollMs, undefined, { signal }).catch(() => signal.throwIfAborted());
  }
}

/** The key file is there: whether it is what this command would have made. */
async function checkEnrolled(
  site: Site,
  { keyFile, device, ns }: EnrollArguments,
  passphrase: Secret | undefined,
  signal: AbortSignal,
): Promise<void> {
  const keys = await readAtKeysFile(keyFile, { passphrase });
  const other = (what: string): CommandFailed =>
    new CommandFailed(`${keyFile} exists already and is not overwritten: ${what}; move it away, or name another`);
  if (keys.enrollmentId === undefined) throw other("it holds keys that were not enrolled");
  await using client = await openAtClient({ ...site, keys }, signal);
  const enrollment = await client.enrollments.fetch(keys.enrollmentId, signal).catch((error: unknown) => {
    const code = codeOf(error) ?? "";
    if (!/^AT0(?:401|02[5789])$/u.test(code)) throw error;
    throw other(`the atServer does not take its keys any more (${code})`);
  });
  if (enrollment.deviceName !== device || enrollment.namespaces[`${device}.${ns}`] !== "rw")
    throw other(
      `it is the enrolment of ${enrollment.deviceName}, for ${Object.keys(enrollment.namespaces).join(", ")}`,
    );
}

/** The passcode is gone as a rule when a request waits already, and then it is not needed. */
async function readPasscode(file: string, pendingFile: string): Promise<Secret> {
  const isPending = await fileExists(pendingFile);
  const read = async (): Promise<string> => {
    if (file === "-") return process.stdin.isTTY && isPending ? "" : await text(process.stdin);
    return await readFile(file, "utf8").catch((cause: unknown) => {
      if (isPending) return "";
      throw new CommandFailed(`--passcode-file: ${file} cannot be read (${codeOf(cause) ?? "unknown error"})`, {
        cause,
      });
    });
  };
  const passcode = (await read()).trim();
  if (passcode === "" && !isPending)
    throw new CommandFailed(`--passcode-file: ${file} is empty: it should hold what \`atedge otp\` has printed`);
  return new Secret(passcode);
}

function tellPending({ enrollmentId, fingerprint }: PendingEnrollment, atSign: string, args: EnrollArguments): void {
  const { device, ns, json } = args;
  tell(json, { type: "pending", atsign: atSign, device, enrollmentId, fingerprint }, [
    `${atSign}: ${device} asks for ${device}.${ns}:rw`,
    `  enrolment    ${enrollmentId}`,
    `  fingerprint  ${fingerprint}`,
    "On the owner's machine, with the fingerprint as it stands here:",
    `  atedge approve --as ${atSign} ${enrollmentId} --fingerprint ${fingerprint}`,
  ]);
}

function tell(json: boolean, fact: object, lines: readonly string[]): void {
  process.stdout.write(`${json ? JSON.stringify(fact) : lines.join("\n")}\n`);
}

function nextStep(error: unknown, atSign: string, { keyFile, device, app }: EnrollArguments): string | undefined {
  const code = codeOf(error);
  if (code === "ENROLLMENT_REFUSED")
    return `ask again with a new passcode if that was a mistake: \`atedge otp --as ${atSign}\` on the owner's machine`;
  if (code === "NOT_ACTIVATED") return `its owner has to begin: \`atedge onboard ${atSign}\` on the owner's machine`;
  if (code === "EACCES" || code === "EROFS" || code === "ENOTDIR")
    return `the keys cannot be written to ${resolve(keyFile)}; nothing was asked of the atServer`;
  if (!(error instanceof AtServerError)) return nextStepToReach(error, atSign);
  if (/invalid otp/u.test(error.description))
    return `the passcode is wrong, used up or too old: \`atedge otp --as ${atSign}\` on the owner's machine makes another`;
  if (/Another enrollment/u.test(error.description))
    return `${app} on ${device} is enrolled already: \`atedge revoke --as ${atSign} --device ${device}\` on the owner's machine ends that, or take another --device`;
  return undefined;
}
