import { compareVersions } from "../../core/compare-versions.js";
import { codeOf, EdgeError } from "../../core/errors.js";
import type { UpdateOutcome } from "../../core/update-request.js";
import { type Release, ReleaseRefused } from "./release.js";

/**
 * How far an update is; kept on the disk before each step.
 *
 * - `installing`: the program is being exchanged, and may be in pieces.
 * - `trial`: the new one is in place and must show that it works.
 * - `returning`: the old one is being brought back.
 */
export interface UpdateState {
  readonly phase: "installing" | "trial" | "returning";
  readonly from: string;
  readonly to: string;
  /** How often the machine was started in the trial. */
  readonly boots: number;
  /** Of ours, those that ran before. */
  readonly services: readonly string[];
  readonly why: string;
}

export interface Journal {
  load(): Promise<UpdateState | undefined>;
  /** On the disk when it resolves; `undefined`: no update is under way. */
  save(state: UpdateState | undefined): Promise<void>;
  tell(outcome: Omit<UpdateOutcome, "atMs">): Promise<void>;
}

/** The program on the disk. Every method may be repeated after a power cut in it. */
export interface Installation {
  version(): Promise<string>;
  /** Makes sure that {@link restore} can bring the present version back. */
  keepPresent(): Promise<void>;
  /** @throws when it could not be installed; the program may be in pieces then. */
  install(release: Release): Promise<void>;
  restore(version: string): Promise<void>;
  /** The update is over: throws away what was only kept for it. */
  tidy(): Promise<void>;
}

export interface Services {
  /** Of ours, those that run. */
  running(): Promise<readonly string[]>;
  restart(services: readonly string[]): Promise<void>;
  /** Resolves when all run this version, and the agent has reached its atServer; `false` when not in time. */
  becomeHealthy(services: readonly string[], version: string): Promise<boolean>;
}

export interface UpdaterParts {
  readonly journal: Journal;
  readonly installation: Installation;
  readonly services: Services;
}

/** A third start of the machine within a trial is no coincidence. */
const MAX_BOOTS = 2;
const POWER_LOST = "the power went while it was being installed";

/** Installs a release that was verified, and goes back if it does not work. @throws {ReleaseRefused} */
export async function update(release: Release, parts: UpdaterParts): Promise<UpdateOutcome["outcome"]> {
  const { journal, installation, services } = parts;
  const from = await installation.version();
  if (compareVersions(release.version, from) <= 0)
    throw new ReleaseRefused(
      `version ${release.version} is not newer than ${from}, which runs: only \`dpkg -i\` by hand goes back`,
    );
  await installation.keepPresent();
  const state: UpdateState = {
    phase: "installing",
    from,
    to: release.version,
    boots: 0,
    services: await services.running(),
    why: "",
  };
  await journal.save(state);
  try {
    await installation.install(release);
  } catch (error) {
    return goBack(state, `it could not be installed: ${reasonOf(error)}`, parts);
  }
  const trial = { ...state, phase: "trial" } as const;
  await journal.save(trial);
  return tryOut(trial, parts);
}

/**
 * Brings the program into one piece before the services start, at the start of the machine. A trial goes on in
 * {@link resume}, when they have started.
 */
export async function recover(parts: UpdaterParts): Promise<void> {
  const { journal } = parts;
  const state = await journal.load();
  if (!state) return;
  if (state.phase === "trial") {
    const boots = state.boots + 1;
    if (boots <= MAX_BOOTS) return journal.save({ ...state, boots });
  }
  const why = state.phase === "installing" ? POWER_LOST : "the machine was started again and again while it was tried";
  await goBack(state, state.why === "" ? why : state.why, parts, false);
}

/** Goes on with what a power cut has interrupted. @returns `undefined` when nothing was under way. */
export async function resume(parts: UpdaterParts): Promise<UpdateOutcome["outcome"] | undefined> {
  const state = await parts.journal.load();
  if (!state) return undefined;
  if (state.phase === "trial") return tryOut(state, parts);
  return goBack(state, state.why === "" ? POWER_LOST : state.why, parts);
}

async function tryOut(state: UpdateState, parts: UpdaterParts): Promise<UpdateOutcome["outcome"]> {
  const { journal, services } = parts;
  if (!(await services.becomeHealthy(state.services, state.to)))
    return goBack(state, "it did not come up and reach its atServer in time", parts);
  return end(state, "installed", parts, journal);
}

async function goBack(
  state: UpdateState,
  why: string,
  parts: UpdaterParts,
  restart = true,
): Promise<UpdateOutcome["outcome"]> {
  const { journal, installation, services } = parts;
  const returning = { ...state, phase: "returning", why } as const;
  await journal.save(returning);
  await installation.restore(state.from);
  if (restart) await services.restart(state.services);
  return end(returning, "returned", parts, journal);
}

async function end(
  { from, to, why }: UpdateState,
  outcome: UpdateOutcome["outcome"],
  { installation }: UpdaterParts,
  journal: Journal,
): Promise<UpdateOutcome["outcome"]> {
  await journal.tell({ outcome, from, to, why });
  await journal.save(undefined);
  await installation.tidy();
  return outcome;
}

/** For the outcome: what people can do something about, without the stack. */
export function reasonOf(error: unknown): string {
  if (error instanceof EdgeError) return error.message;
  return codeOf(error) ?? (error instanceof Error ? error.message : String(error));
}
