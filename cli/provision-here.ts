import { randomBytes } from "node:crypto";
import { chown, open, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { text as readAll } from "node:stream/consumers";
import { readAtKeysFile } from "../atplatform/crypto/at-keys-file.js";
import { codeOf } from "../core/errors.js";
import { fileExists } from "../core/file-exists.js";
import { makeFolder } from "../core/make-folder.js";
import { ChildSignal } from "../core/scope.js";
import { provisionBoard } from "../deploy/fleet/provision-board.js";
import { parseProvision, type Provision } from "../deploy/fleet/provision-file.js";
import { formatDuration } from "./duration.js";
import { CommandFailed, nextStepToReach, withNextStep } from "./next-step.js";
import { Progress } from "./progress.js";
import type { ProvisionArguments } from "./provision.js";
import { interruption } from "./remote-options.js";

/** Repeating it is harmless: what was done already is left as it is. */
export async function provision(file: string, options: ProvisionArguments): Promise<void> {
  const where = file === "-" ? "standard input" : file;
  const wanted = parseProvision(await read(file), where);
  const { atSign, device, ca } = wanted;
  const keyFile = options.keys ?? join(options.state, "keys", `${atSign}_key.atKeys`);
  const caFile = join(dirname(resolve(options.config)), "ca.pem");
  await makeFolder(dirname(keyFile));
  if (options.replace)
    await moveAside([keyFile, `${keyFile}.pending`, options.config, ...(ca === undefined ? [] : [caFile])]);
  if (ca !== undefined) await putFile(caFile, ca, 0o644);
  if (wanted.config !== undefined) await putFile(options.config, wanted.config, 0o640);
  else if (!(await fileExists(options.config)))
    await putFile(options.config, leastConfig(wanted, keyFile, caFile), 0o640);
  const already = await fileExists(keyFile);
  if (already) await readAtKeysFile(keyFile).catch((error: unknown) => refuse(keyFile, error));
  else await askUntilIn(wanted, keyFile, options);
  await giveToOwnerOf(dirname(keyFile), [keyFile]);
  if (file !== "-") await wipe(file);
  const lines = [
    `${atSign}: ${device} is ${already ? "provisioned already" : "in"}; its keys are in ${keyFile} and nowhere else`,
    ...(file === "-" ? [] : [`${file} was wiped`]),
  ];
  const fact = { type: "provisioned", atsign: atSign, device, keys: keyFile, already };
  process.stdout.write(`${options.json ? JSON.stringify(fact) : lines.join("\n")}\n`);
}

async function askUntilIn(wanted: Provision, keyFile: string, { wait, poll, json }: ProvisionArguments): Promise<void> {
  const { atSign, device } = wanted;
  const stop = interruption();
  await using deadline = new ChildSignal(stop);
  const timer = setTimeout(() => deadline.abort(new CommandFailed("nobody has decided in time")), wait);
  const progress = new Progress();
  progress.start(`${atSign}: asking for ${device} to be let in`);
  const onPending = ({ enrollmentId }: { readonly enrollmentId: string }): void => {
    progress.end();
    if (json) process.stdout.write(`${JSON.stringify({ type: "pending", atsign: atSign, device, enrollmentId })}\n`);
    progress.start(`${atSign}: waiting for the owner's approval, ${formatDuration(wait)} at most`);
  };
  const onWait = ({ message }: Error, waitMs: number): void =>
    progress.start(`${atSign}: ${message}; trying again within ${formatDuration(Math.max(1000, waitMs))}`);
  try {
    await provisionBoard(wanted, { keyFile, pollMs: poll, onPending, onWait }, deadline.signal);
  } catch (error) {
    if (deadline.signal.aborted)
      throw new CommandFailed(
        `${stop.aborted ? "stopped before it was done" : `not approved within ${formatDuration(wait)}`}; the request stays: the same command goes on with it`,
      );
    throw withNextStep(error, nextStep(error, wanted));
  } finally {
    clearTimeout(timer);
    progress.end();
  }
}

function nextStep(error: unknown, { atSign }: Provision): string | undefined {
  if (codeOf(error) === "ENROLLMENT_REFUSED")
    return "the owner's side has denied it: `atedge fleet audit` there says why; a new bundle is needed";
  return nextStepToReach(error, atSign);
}

async function read(file: string): Promise<string> {
  if (file === "-") return await readAll(process.stdin);
  return await readFile(file, "utf8").catch((cause: unknown) => {
    throw new CommandFailed(`${file} cannot be read (${codeOf(cause) ?? "unknown error"})`, { cause });
  });
}

/** For a bundle that was made without a template: the agent runs, and what it reads is for its owner to add. */
function leastConfig({ atSign, device, ns, directory, ca }: Provision, keyFile: string, caFile: string): string {
  const keys = {
    atsign: atSign,
    device,
    ns,
    directory,
    keys: resolve(keyFile),
    ...(ca !== undefined && { ca: caFile }),
  };
  return `${Object.entries(keys)
    .map(([key, value]) => `${key} = ${JSON.stringify(value)}`)
    .join("\n")}\n`;
}

/** What stands there is somebody's work, unless it is the same. */
async function putFile(file: string, text: string, mode: number): Promise<void> {
  const before = await readFile(file, "utf8").catch(() => undefined);
  if (before === text) return;
  if (before !== undefined)
    throw new CommandFailed(`${file} is there already and is another one: --replace moves it aside`);
  await makeFolder(dirname(file), 0o755);
  await writeFile(`${file}.new`, text, { mode, flush: true });
  await rename(`${file}.new`, file);
  await giveToOwnerOf(dirname(file), [file]);
}

async function moveAside(files: readonly string[]): Promise<void> {
  const suffix = `.before-${new Date().toISOString().replaceAll(/[:.]/gu, "-")}`;
  for (const file of files) {
    await rename(file, `${file}${suffix}`).catch((error: unknown) => {
      if (codeOf(error) !== "ENOENT") throw error;
    });
  }
}

/** Made by root, used by the service: files get the owner and group of their folder. */
async function giveToOwnerOf(folder: string, files: readonly string[]): Promise<void> {
  if (process.getuid?.() !== 0) return;
  const { uid, gid } = await stat(folder);
  for (const file of files) await chown(file, uid, gid);
}

/** Overwritten before it is removed: on a memory card that is no promise, but its passcodes and bundle are used up. */
async function wipe(file: string): Promise<void> {
  const { size } = await stat(file);
  const handle = await open(file, "r+");
  try {
    await handle.write(randomBytes(size), 0, size, 0);
    await handle.sync();
  } finally {
    await handle.close();
  }
  await rm(file);
}

function refuse(keyFile: string, cause: unknown): never {
  throw new CommandFailed(`${keyFile} is there already but cannot be read as keys: --replace moves it aside`, {
    cause,
  });
}
