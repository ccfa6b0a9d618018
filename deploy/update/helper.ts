import { createHash } from "node:crypto";
import { constants, existsSync, lstatSync } from "node:fs";
import { copyFile, mkdir, open, readFile, rename, rm, type FileHandle } from "node:fs/promises";
import { basename, join } from "node:path";
import { parse } from "smol-toml";
import * as v from "valibot";
import {
  MAX_RELEASE_BYTES,
  UPDATE_OUTCOME,
  UPDATE_REQUEST,
  writeWhole,
  type UpdateOutcome,
} from "../../core/update-request.js";
import type { RunCommand } from "./commands.js";
import { DebInstallation } from "./deb-installation.js";
import { FolderInstallation } from "./folder-installation.js";
import { isPublicKey, openRelease, parseSignedRelease, type Release, ReleaseRefused } from "./release.js";
import { systemdServices } from "./systemd-services.js";
import {
  type Installation,
  type Journal,
  reasonOf,
  recover,
  resume,
  update,
  type UpdateState,
  type UpdaterParts,
} from "./updater.js";

export interface HelperOptions {
  readonly run: RunCommand;
  /** This program itself, one file. */
  readonly program: string;
  readonly folder?: string;
  readonly requests?: string;
  readonly config?: string;
  readonly library?: string;
  readonly runtimeDir?: string;
  readonly say: (text: string) => void;
}

const STATE = "state.json";
const HELPER = "helper.js";
const MAX_REQUEST_BYTES = 16_384;

const configSchema = v.strictObject({
  keys: v.optional(v.array(v.pipe(v.string(), v.check(isPublicKey, "expected base64 of an Ed25519 public key"))), []),
  healthyWithinS: v.optional(v.pipe(v.number(), v.integer(), v.minValue(20), v.maxValue(3600)), 120),
});
const requestSchema = v.strictObject({
  file: v.pipe(v.string(), v.regex(/^[A-Za-z0-9][A-Za-z0-9._+~-]{0,120}$/u)),
  signed: v.string(),
  signature: v.string(),
});
const stateSchema = v.strictObject({
  phase: v.picklist(["installing", "trial", "returning"]),
  from: v.string(),
  to: v.string(),
  boots: v.number(),
  services: v.array(v.string()),
  why: v.string(),
});

/**
 * The root-owned side of an update: takes what the agent has put into its folder, trusts none of it, and installs it if
 * a key of `/etc/atedge/update.toml` has signed it. `recover` runs before our services at the start of the machine.
 */
export async function runHelper(what: "run" | "recover", options: HelperOptions): Promise<void> {
  const { folder = "/var/lib/atedge-update", say } = options;
  await mkdir(folder, { recursive: true, mode: 0o755 });
  const { parts, installationOf, staged } = await partsOf(options, folder);
  if (what === "recover") return recover(parts);
  const resumed = await resume(parts);
  if (resumed !== undefined) say(`the update that was under way: ${resumed}`);
  await serveRequest({ ...options, folder }, parts, installationOf, staged);
  // Only now: until here a helper that is known to work was needed.
  await rm(join(folder, HELPER), { force: true });
}

async function serveRequest(
  options: HelperOptions & { readonly folder: string },
  parts: UpdaterParts,
  installationOf: (kind: Release["kind"]) => Installation,
  staged: string,
): Promise<void> {
  const { requests = "/var/lib/atedge/update", folder, say, program } = options;
  const path = join(requests, UPDATE_REQUEST);
  if (!existsSync(path)) return;
  let to = "unknown";
  try {
    const { keys } = await readConfig(options);
    const release = await takeRequest(path, requests, staged, keys);
    to = release.version;
    const installation = installationOf(release.kind);
    if (release.arch !== (await architecture(options.run)))
      throw new ReleaseRefused(`the release is for ${release.arch}, which this machine is not`);
    if (installation instanceof DebInstallation) await installation.check(release);
    if (program !== join(folder, HELPER)) await keepHelper(program, folder);
    say(`installing ${release.version}`);
    say(`${release.version}: ${await update(release, { ...parts, installation })}`);
  } catch (error) {
    const why = reasonOf(error);
    say(`refused: ${why}`);
    await parts.journal.tell({ outcome: "refused", from: await parts.installation.version(), to, why });
  } finally {
    await rm(staged, { force: true });
  }
}

/** Moves the request out of the way first, for its presence starts us. @throws {ReleaseRefused} */
async function takeRequest(path: string, requests: string, staged: string, keys: readonly string[]): Promise<Release> {
  let value: unknown;
  try {
    value = JSON.parse((await readCarefully(path, MAX_REQUEST_BYTES)).toString("utf8"));
  } catch (cause) {
    throw new ReleaseRefused("the request cannot be read", { cause });
  } finally {
    await rm(path, { force: true });
  }
  const request = v.safeParse(requestSchema, value);
  if (!request.success) throw new ReleaseRefused("the request is not one of `atedge update`");
  const { file, signed, signature } = request.output;
  const from = join(requests, basename(file));
  try {
    const release = openRelease(parseSignedRelease({ signed, signature }), keys);
    const bytes = await readCarefully(from, MAX_RELEASE_BYTES);
    // What is checked is what is installed: nobody else can write to our copy.
    if (bytes.length !== release.bytes || createHash("sha256").update(bytes).digest("hex") !== release.sha256)
      throw new ReleaseRefused("the file is not the one that was signed");
    await rm(staged, { force: true });
    const copy = await open(staged, "wx", 0o600);
    try {
      await copy.writeFile(bytes);
      await copy.sync();
    } finally {
      await copy.close();
    }
    return release;
  } finally {
    await rm(from, { force: true });
  }
}

/** A regular file of at most this size; a link is not followed, for a stranger may have laid it. */
async function readCarefully(path: string, maxBytes: number): Promise<Buffer> {
  let file: FileHandle;
  try {
    file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch (cause) {
    throw new ReleaseRefused(`${basename(path)} cannot be read`, { cause });
  }
  try {
    const stat = await file.stat();
    if (!stat.isFile() || stat.size > maxBytes) throw new ReleaseRefused(`${basename(path)} is no file of its size`);
    const bytes = Buffer.alloc(stat.size);
    let at = 0;
    while (at < bytes.length) {
      const { bytesRead } = await file.read(bytes, at, bytes.length - at, at);
      if (bytesRead === 0) break;
      at += bytesRead;
    }
    return bytes.subarray(0, at);
  } finally {
    await file.close();
  }
}

async function partsOf(options: HelperOptions, folder: string) {
  const { run, library = "/usr/lib/atedge", runtimeDir = "/run/atedge" } = options;
  const { healthyWithinS } = await readConfig(options).catch(() => ({ healthyWithinS: 120 }));
  const services = systemdServices({ run, healthyWithinMs: healthyWithinS * 1000, runtimeDir });
  const staged = join(folder, "staged");
  const isLinked = existsSync(library) && lstatSync(library).isSymbolicLink();
  const restart = async (): Promise<void> => services.restart(await services.running());
  const installation: Installation = isLinked
    ? new FolderInstallation(run, join(library, "..", "..", "..", "opt", "atedge"), staged, restart)
    : new DebInstallation(run, folder, staged);
  const installationOf = (kind: Release["kind"]): Installation => {
    if ((kind === "tar") !== isLinked)
      throw new ReleaseRefused(
        isLinked ? "this machine takes a tar, no package" : "this machine takes a Debian package",
      );
    return installation;
  };
  return { parts: { journal: journalIn(folder), services, installation }, installationOf, staged };
}

/** What updates this machine must outlive the exchange of its program. */
async function keepHelper(program: string, folder: string): Promise<void> {
  const fresh = join(folder, `${HELPER}.new`);
  await copyFile(program, fresh);
  const file = await open(fresh, "r");
  try {
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(fresh, join(folder, HELPER));
}

function journalIn(folder: string): Journal {
  const path = join(folder, STATE);
  return {
    async load(): Promise<UpdateState | undefined> {
      const text = await readFile(path, "utf8").catch(() => undefined);
      return text === undefined ? undefined : v.parse(stateSchema, JSON.parse(text));
    },
    async save(state) {
      if (state) await writeWhole(path, `${JSON.stringify(state)}\n`);
      else await rm(path, { force: true });
    },
    async tell(outcome) {
      const told: UpdateOutcome = { ...outcome, atMs: Date.now() };
      await writeWhole(join(folder, UPDATE_OUTCOME), `${JSON.stringify(told)}\n`, 0o644);
    },
  };
}

/** @throws {ReleaseRefused} in plain words. */
async function readConfig({ config = "/etc/atedge/update.toml" }: HelperOptions) {
  const text = await readFile(config, "utf8").catch(() => "");
  try {
    return v.parse(configSchema, parse(text));
  } catch (cause) {
    throw new ReleaseRefused(`${config} has a fault: ${cause instanceof Error ? cause.message : String(cause)}`, {
      cause,
    });
  }
}

async function architecture(run: RunCommand): Promise<string> {
  const named: Readonly<Record<string, string>> = { x64: "amd64", arm64: "arm64", arm: "armhf" };
  return run("dpkg", "--print-architecture").then(
    (text) => text.trim(),
    () => named[process.arch] ?? process.arch,
  );
}
