import { appendFileSync } from "node:fs";

/**
 * Where the agent can die between two things that must not come apart: each write to its store and each call to its
 * atServer or a device has a name, and stands at `before` and `after` it; a write also at `applied`, which is when it
 * is made and not yet durable. The fault lab (`test/faults/`) kills it at each of them.
 */
export const READING_STEPS = [
  "reading.insert",
  "reading.date",
  "reading.expire",
  "pack.form",
  "pack.send",
  "pack.status",
  "pack.taken",
  "pack.aside",
  "pack.retry",
  "aside.drop",
  "stream.life",
  "state.put",
  "proof.put",
  "monitor.save",
  "store.upkeep",
  "store.room",
] as const;

export const COMMAND_STEPS = [
  "command.accept",
  "command.call",
  "command.finish",
  "command.birth",
  "command.prune",
  "answer.queue",
  "answer.send",
  "answer.sent",
  "answer.status",
  "answer.done",
  "answer.aside",
  "pin.set",
  "audit.append",
  "audit.rotate",
  "config.keep",
  "rule.keep",
] as const;

export const STEPS = [...READING_STEPS, ...COMMAND_STEPS] as const;

export type Step = (typeof STEPS)[number];
export type StepMoment = "before" | "applied" | "after";

/** `<step>:<moment>[:<how often it passes first>]`, from the environment of a test; see test/faults. */
const fault = process.env["ATEDGE_TEST_KILL_AT"];
/** A file that gets a line for each step that is passed. */
const trace = process.env["ATEDGE_TEST_STEPS_FILE"];

/** Tells that the agent is at a step. Does nothing but in the fault lab. */
export const passStep: (step: Step, moment: StepMoment) => void =
  fault === undefined && trace === undefined ? () => undefined : inTheLab(fault ?? "", trace);

/** Does `work` as a step. */
export async function atStep<T>(step: Step, work: () => Promise<T>): Promise<T> {
  passStep(step, "before");
  const result = await work();
  passStep(step, "after");
  return result;
}

function inTheLab(fault: string, trace: string | undefined): typeof passStep {
  const [killStep, killMoment, passes = "0"] = fault.split(":");
  let left = Number(passes);
  return (step, moment) => {
    if (trace !== undefined) appendFileSync(trace, `${step}:${moment}\n`);
    if (step !== killStep || moment !== killMoment) return;
    if (left > 0) left -= 1;
    else process.kill(process.pid, "SIGKILL");
  };
}
