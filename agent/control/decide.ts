import { faultOf } from "../../drivers/arguments.js";
import { CommandRejected } from "../../messages/command.js";
import { digestOf, type LedgerEntry, type Outcome } from "./ledger.js";
import { type Caller, RULES } from "./policy.js";
import type { Asked } from "./request-reader.js";
import type { TargetCommand } from "./targets.js";

/** What is known when a command is decided about. */
export interface Circumstances {
  readonly caller: Caller;
  /** What the ledger has under this caller and id. */
  readonly entry: LedgerEntry | undefined;
  /** Digest of the command that is under way with this caller and id in this very moment. */
  readonly underWay: string | undefined;
  readonly ledgerBornAtMs: number | undefined;
  readonly nowMs: number | undefined;
  /** The target's commands; `undefined` when there is no such target. */
  readonly commands: readonly TargetCommand[] | undefined;
  readonly targetIsUp: boolean;
}

export type Decision =
  | { readonly action: "run"; readonly description: TargetCommand }
  /** It would have been run. */
  | { readonly action: "dry-run" }
  /** It was carried out before: the same answer again. */
  | { readonly action: "repeat"; readonly outcome: Outcome }
  /** Its answer comes when it is done. */
  | { readonly action: "join" }
  /** It was accepted before a restart, and nobody knows what became of it. */
  | { readonly action: "unknown"; readonly entry: LedgerEntry };

/** Decides about a command whose sender is certain. @throws {CommandRejected} */
export function decide(asked: Asked, about: Circumstances): Decision {
  const { target, command, args, dryRun } = asked;
  if (!about.caller.allows(asked)) refuse("not-allowed", `${target}/${command} is not allowed to ${asked.caller}`);

  const { entry, underWay } = about;
  const known = entry?.digest ?? underWay;
  if (known !== undefined && !dryRun) {
    if (known !== digestOf(asked)) refuse("id-reused", "the id was used for another command before");
    if (entry?.outcome) return { action: "repeat", outcome: entry.outcome };
    if (underWay !== undefined) return { action: "join" };
    if (entry) return { action: "unknown", entry };
  }

  const nowMs = checkTime(asked, about);
  if (!about.commands) refuse("unknown-target", `there is no ${target}`);
  if (!about.targetIsUp) refuse("driver-down", `${target} is not connected`);
  const description = about.commands.find(({ name }) => name === command);
  if (!description) refuse("unknown-command", `${target} has no command ${command}`);
  const fault = faultOf(description.argsSchema ?? { type: "object" }, args);
  if (fault !== undefined) refuse("bad-args", fault);
  // Last, since it counts: what would be refused anyway takes nobody's place.
  about.caller.admit(asked, nowMs);
  return dryRun ? { action: "dry-run" } : { action: "run", description };
}

/** Checked once more when the command's turn comes. @returns the time. @throws {CommandRejected} */
export function checkTime(
  { caller, issuedAtMs, expiresAtMs }: Asked,
  { nowMs, ledgerBornAtMs }: Pick<Circumstances, "nowMs" | "ledgerBornAtMs">,
): number {
  // A rule's command does not travel, so it cannot come late or twice, and needs no calendar.
  if (caller === RULES) return nowMs ?? NaN;
  if (nowMs === undefined) refuse("no-time", "the device does not know the time yet");
  if (expiresAtMs <= nowMs) refuse("expired", `expired ${nowMs - expiresAtMs} ms ago`);
  if (ledgerBornAtMs === undefined || issuedAtMs < ledgerBornAtMs)
    refuse("before-ledger", "issued before the ledger of this device began");
  return nowMs;
}

function refuse(...reason: ConstructorParameters<typeof CommandRejected>): never {
  throw new CommandRejected(...reason);
}
