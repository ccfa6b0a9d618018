import { randomUUID } from "node:crypto";
import { existsSync } from "node:fs";
import { open, rm, stat, statfs } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { AtKeys } from "../../atplatform/crypto/at-keys.js";
import { codeOf, EdgeError } from "../../core/errors.js";
import { clockTrust } from "../agent-time.js";
import type { AgentConfig, Fault } from "../config/parse.js";
import { faultLine } from "../config/parse.js";
import { loadAgentKeys } from "../keys/agent-keys.js";
import { knownEnrollment, refuseManagerKeys } from "../keys/manager-keys.js";
import { bad, type Finding, ok, said, skipped, warn } from "./finding.js";

/** Who runs this: what a file's mode lets one do differs from user to user. */
export async function checkUser({ stateDir }: AgentConfig): Promise<Finding> {
  const uid = process.getuid?.() ?? 0;
  const owner = await stat(stateDir).then(
    (info) => info.uid,
    () => uid,
  );
  if (owner === uid) return ok("user", `this is the user that the agent's state belongs to (${uid})`);
  return warn(
    "user",
    `this is user ${uid}, the agent's state belongs to user ${owner}: files and ports are looked at as user ${uid}`,
    `run it as that user, such as \`sudo -u '#${owner}' atedge doctor\``,
  );
}

export function checkPolicy({ allow, reader, driver }: AgentConfig, warnings: readonly Fault[]): Finding[] {
  const unpinned = [...reader, ...allow].filter(({ key, atsign }) => key === undefined && /^@[^*]+$/u.test(atsign));
  const names = [...new Set(unpinned.map(({ atsign }) => atsign))];
  const unsigned = allow.filter((entry) => entry.unsigned).map(({ atsign }) => atsign);
  return [
    ...warnings.map((warning) => warn("config", faultLine(warning))),
    ok(
      "policy",
      `${count(reader.length, "reader")}; ${allow.length === 0 ? "nobody may send commands" : count(allow.length, "[[allow]] table")}; ${count(driver.length, "driver")}`,
    ),
    ...(names.length > 0
      ? [
          warn(
            "policy",
            `the keys of ${names.join(", ")} are not pinned: the first one seen is trusted`,
            'name each with key = "sha256:…"; `atedge onboard` shows it to its owner',
          ),
        ]
      : []),
    ...(unsigned.length > 0
      ? [
          warn(
            "policy",
            `${unsigned.join(", ")} may send commands without signature and seal: their atServer could too`,
          ),
        ]
      : []),
  ];
}

const count = (number: number, what: string): string => `${number} ${what}${number === 1 ? "" : "s"}`;

/** The keys as the agent would load them. */
export async function checkKeys(
  config: AgentConfig,
): Promise<{ readonly findings: readonly Finding[]; readonly keys: AtKeys | undefined }> {
  const { keys: keyFile, keysPassphraseFile, atsign, stateDir, allowManagerKeys } = config;
  try {
    const keys = await loadAgentKeys(config);
    if (!allowManagerKeys) refuseManagerKeys({ atSign: atsign, keyFile, keys }, await knownEnrollment(stateDir));
    const sealed = keysPassphraseFile === undefined ? "" : `, sealed with the passphrase in ${keysPassphraseFile}`;
    return { keys, findings: [ok("keys", `${keyFile} can be read by this user alone${sealed}`), ...rotation(keyFile)] };
  } catch (error) {
    if (!(error instanceof EdgeError)) throw error;
    return { keys: undefined, findings: [bad("keys", error.message)] };
  }
}

function rotation(keyFile: string): Finding[] {
  const left = [`${keyFile}.next.pending`, `${keyFile}.next`, `${keyFile}.old`].filter((path) => existsSync(path));
  if (left.length === 0) return [];
  return [warn("keys", `a change of keys is not finished (${left.join(", ")})`, "go on with it: `atedge keys rotate`")];
}

const MIN_YEAR = 2026;

/** The clock of this machine, without a server to compare it with. */
export function checkLocalClock(nowMs: number): Finding {
  const time = new Date(nowMs).toISOString();
  const howTo = "`timedatectl` shows whether the time is synchronised; systemd-timesyncd or chrony does it";
  if (new Date(nowMs).getUTCFullYear() < MIN_YEAR)
    return bad("clock", `this machine takes the time for ${time}: certificates are then "not yet valid"`, howTo);
  const trust = clockTrust();
  if (trust === "unsynchronised")
    return warn("clock", `${time}, not synchronised since the start of the machine`, howTo);
  return ok("clock", `${time}${trust === "synchronised" ? ", synchronised" : ""}`);
}

/** Whether the state folder takes what is written, and has room. */
export async function checkDisk({ stateDir, outbox }: AgentConfig): Promise<Finding[]> {
  if (!existsSync(stateDir)) {
    const parent = dirname(stateDir);
    if (existsSync(parent)) return [warn("disk", `there is no ${stateDir} yet; the agent makes it at its first start`)];
    return [
      bad("disk", `there is no ${stateDir}, nor the folder above it`, `mkdir -p ${stateDir}, or change stateDir`),
    ];
  }
  const findings: Finding[] = [];
  const probe = join(stateDir, `.doctor-${randomUUID()}`);
  try {
    const file = await open(probe, "wx", 0o600);
    try {
      await file.writeFile("x");
      await file.sync();
    } finally {
      await file.close();
      await rm(probe, { force: true });
    }
  } catch (error) {
    findings.push(notWritable(stateDir, codeOf(error) ?? said(error)));
  }
  const { mode } = await stat(stateDir);
  if ((mode & 0o022) !== 0) findings.push(bad("disk", `others may write to ${stateDir}`, `chmod 700 ${stateDir}`));
  const { bavail, bsize } = await statfs(stateDir);
  const freeBytes = bavail * bsize;
  const { maxBytes, minFreeBytes } = outbox;
  const room = `${megabytes(freeBytes)} free at ${stateDir}, of which the outbox leaves ${megabytes(minFreeBytes)}`;
  if (freeBytes <= minFreeBytes)
    findings.push(bad("disk", `${room}: the oldest readings go already`, "make room, or lower outbox.minFreeBytes"));
  else if (freeBytes - minFreeBytes < maxBytes / 10)
    findings.push(warn("disk", `${room}: less than a tenth of outbox.maxBytes (${megabytes(maxBytes)}) has room`));
  else findings.push(ok("disk", room));
  return findings;
}

function notWritable(stateDir: string, code: string): Finding {
  switch (code) {
    case "EROFS":
      return bad(
        "disk",
        `the file system of ${stateDir} is read-only`,
        "look at `dmesg`: a worn card does this; then `mount -o remount,rw`",
      );
    case "ENOSPC":
      return bad(
        "disk",
        `the disk of ${stateDir} is full`,
        "make room: `journalctl --vacuum-size=50M`, `apt-get clean`",
      );
    case "EACCES":
    case "EPERM":
      return bad(
        "disk",
        `this user may not write to ${stateDir}`,
        "run it as the agent's user, or chown the folder to it",
      );
    default:
      return bad("disk", `${stateDir} cannot be written to (${code})`, "look at `dmesg`");
  }
}

const megabytes = (bytes: number): string => `${Math.round(bytes / 1e6)} MB`;

/** What nobody could look at since something before it is wrong. */
export const notReached = (checks: readonly string[], why: string): Finding[] =>
  checks.map((check) => skipped(check, why));
