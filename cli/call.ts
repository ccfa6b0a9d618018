import { once } from "node:events";
import { InvalidArgumentError, Option, type Command } from "commander";
import type { JsonObject } from "../messages/json-field.js";
import type { CallOutcome } from "../remote/call.js";
import { interruption, openRemote, withRemoteOptions, type RemoteOptions } from "./remote-options.js";

interface CallCliOptions extends RemoteOptions {
  readonly id?: string;
  readonly dryRun?: boolean;
  readonly cancel?: boolean;
  /** Milliseconds, both. */
  readonly timeout: number;
  readonly ackTimeout: number;
}

const EXAMPLES = `
Examples:
  atedge call @greenhouse/north vent open '{"percent":40}' --as @grower
  atedge call @greenhouse/north vent open '{"percent":40}' --as @grower --dry-run
  atedge call @greenhouse/north agent state --as @grower
  atedge call @greenhouse/north lamp set '{"on":true}' --as @grower --directory localhost:6464 --ca platform/ca.pem

The exit code is 0 when the device did it, and 1 with the reason when not. When you cannot know ("unknown", "offline"),
call again with the same --id: the device acts once on one id, and gives the stored answer again.`;

export function register(program: Command): void {
  withRemoteOptions(program.command("call"))
    .description("send a command to a device and print its answer")
    .argument("<@owner/device>", "whose device, and which")
    .argument("<target>", "driver of the device, or agent")
    .argument("<command>", "command of the target")
    .argument("[args]", "arguments as a JSON object", parseArgs, {})
    .option("--id <id>", "name of the command; the same name never acts twice (default: a new one)")
    .option("--dry-run", "have time, policy and arguments checked, and nothing done")
    .option("--cancel", "Ctrl-C tells the device to give the command up")
    .addOption(
      new Option("--timeout <seconds>", "for the result; then the command expires too")
        .argParser(parseSeconds)
        .default(30_000, "30"),
    )
    .addOption(
      new Option("--ack-timeout <seconds>", "for a sign of the device").argParser(parseSeconds).default(5_000, "5"),
    )
    .addHelpText("after", EXAMPLES)
    .action(async (subject: string, target: string, command: string, args: JsonObject, options: CallCliOptions) => {
      const { randomUUID } = await import("node:crypto");
      const { call } = await import("../remote/call.js");
      const { id = randomUUID(), timeout: timeoutMs, ackTimeout: ackTimeoutMs, dryRun = false, cancel } = options;
      const interrupted = interruption();
      const life = new AbortController();
      // When the command is to be cancelled, its answer is still waited for.
      if (!cancel) interrupted.addEventListener("abort", () => life.abort(), { once: true });
      const { signal } = life;
      const { session: opened, log } = await openRemote(subject, options, signal);
      await using session = opened;
      const { owner, address, platform, trust, outbound } = session;
      const to = { platform, trust, outbound, owner, address, timeoutMs, ackTimeoutMs, log };
      const calling = call({ ...to, target, command, args, id, dryRun }, signal).catch((error: unknown) => {
        if (signal.aborted) return undefined;
        throw error;
      });
      const giveUp = async (): Promise<void> => {
        process.once("SIGINT", () => life.abort());
        process.stderr.write("atedge: the device is told to give the command up; Ctrl-C again does not wait for it\n");
        const cancelling = { target: "agent", command: "cancel", args: { id }, id: randomUUID() };
        await call({ ...to, ...cancelling }, signal).catch((error: unknown) => {
          if (!signal.aborted) log.warn({ err: error }, "the device could not be told");
        });
      };
      const told = new Promise<void>((resolve) => {
        if (cancel) interrupted.addEventListener("abort", () => void giveUp().finally(resolve), { once: true });
      });
      const outcome = await calling;
      if (interrupted.aborted && cancel) await Promise.race([told, untilAborted(signal)]);
      if (outcome?.kind !== "success") process.exitCode = 1;
      if (outcome) print(outcome, id, options.json ?? false);
      else process.stderr.write(`atedge: interrupted; the device may have the command: --id ${id} asks again\n`);
    });
}

const untilAborted = (signal: AbortSignal): Promise<unknown> =>
  signal.aborted ? Promise.resolve() : once(signal, "abort");

function print(outcome: CallOutcome, id: string, json: boolean): void {
  if (json) process.stdout.write(`${JSON.stringify({ ...outcome, id })}\n`);
  else if (outcome.kind === "success") process.stdout.write(`${JSON.stringify(outcome.result)}\n`);
  else process.stderr.write(`atedge: ${failureText(outcome, id)}\n`);
}

function failureText(outcome: Exclude<CallOutcome, { readonly kind: "success" }>, id: string): string {
  const { kind, message } = outcome;
  switch (kind) {
    case "refused":
    case "failed":
      return message === outcome.reason ? `${kind}: ${message}` : `${kind}: ${outcome.reason}: ${message}`;
    case "unknown":
    case "offline":
      return `${kind}: ${message}; --id ${id} asks again without doing it twice`;
  }
}

function parseArgs(text: string): JsonObject {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    // What the parser says about its position helps nobody on a command line.
  }
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as JsonObject;
  throw new InvalidArgumentError(`Expected a JSON object such as '{"on":true}'.`);
}

function parseSeconds(text: string): number {
  const seconds = Number(text);
  if (seconds > 0 && seconds <= 24 * 3600) return seconds * 1000;
  throw new InvalidArgumentError("Expected seconds, 86400 at most.");
}
