import { loadConfig } from "../agent/config/load.js";
import { rotateKeys, type RotateStep } from "../agent/keys/rotate.js";
import { ChildSignal } from "../core/scope.js";
import { formatDuration } from "./duration.js";
import { CommandFailed, nextStepToReach, withNextStep } from "./next-step.js";
import { Progress } from "./progress.js";
import { interruption } from "./remote-options.js";

interface RotateOptions {
  readonly config: string;
  readonly wait: number;
  readonly poll: number;
  readonly expires?: number;
  readonly json?: boolean;
}

class DeadlinePassed extends CommandFailed {}

/** Shows each step of the change of keys as it is done. */
export async function rotateBoard({ config: file, wait, poll, expires, json = false }: RotateOptions): Promise<void> {
  const { config } = await loadConfig(file);
  const { atsign, device } = config;
  const stop = interruption();
  await using deadline = new ChildSignal(stop);
  const timer = setTimeout(() => deadline.abort(new DeadlinePassed(`not done within ${formatDuration(wait)}`)), wait);
  const progress = new Progress();
  const say = (fact: object, ...lines: readonly string[]): void => {
    progress.end();
    process.stdout.write(json ? `${JSON.stringify(fact)}\n` : lines.map((line) => `${line}\n`).join(""));
  };
  const onStep = (step: RotateStep): void => {
    switch (step.type) {
      case "pending":
        say(
          step,
          `${atsign}: ${device} asks for new keys (${step.appName})`,
          `  enrolment    ${step.enrollmentId}`,
          `  fingerprint  ${step.fingerprint}`,
          "On the owner's machine, with the fingerprint as it stands here:",
          `  atedge approve --as ${atsign} ${step.enrollmentId} --fingerprint ${step.fingerprint}`,
        );
        return progress.start(`${atsign}: waiting for the approval, ${formatDuration(wait)} at most`);
      case "switched":
        return say(step, `${atsign}: the new keys are in ${config.keys} (${step.enrollmentId})`);
      case "agent":
        return say(
          step,
          `  ${step.isRunning ? "the running agent uses them" : "no agent runs here; the next start uses them"}`,
        );
      case "replaced":
        say(
          step,
          `  the old enrolment ${step.enrollmentId} has to be revoked; \`atedge approve\` of above does it, or:`,
          `  atedge revoke --as ${atsign} ${step.enrollmentId}`,
        );
        return progress.start(`${atsign}: waiting until the old enrolment is revoked`);
    }
  };
  try {
    progress.start(`${atsign}: asking for new keys`);
    const done = await rotateKeys(
      { config, onStep, pollMs: poll, ...(expires !== undefined && { expiresInMs: expires }) },
      deadline.signal,
    );
    say({ type: "done", ...done }, `${atsign}: ${device} has new keys; the old ones are of no use any more`);
  } catch (error) {
    progress.end();
    const isStopped = stop.aborted || error instanceof DeadlinePassed;
    if (!isStopped) throw withNextStep(error, nextStepToReach(error, atsign));
    const what = stop.aborted ? "stopped before it was done" : `not done within ${formatDuration(wait)}`;
    throw new CommandFailed(`${what}; this board works as before, and the same command goes on where it was`);
  } finally {
    progress.end();
    clearTimeout(timer);
  }
}
