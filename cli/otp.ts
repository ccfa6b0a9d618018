import type { Command } from "commander";
import type { Secret } from "../core/secret.js";
import { parseDuration } from "./duration.js";
import { asOwner, type OwnerOptions, withOwnerOptions } from "./owner.js";

interface OtpOptions extends OwnerOptions {
  readonly set?: string;
  /** Milliseconds. */
  readonly ttl?: number;
}

export function register(program: Command): void {
  withOwnerOptions(program.command("otp"))
    .description("print a passcode with which one board may ask to be enrolled (owner's machine)")
    .option(
      "--ttl <duration>",
      "how long it is good, such as 10m (default: 5m; with --set: until it is replaced)",
      parseDuration,
    )
    .option(
      "--set <file>",
      "instead, take the one in this file (- reads standard input) as good for any number of boards",
    )
    .action(async (options: OtpOptions) => {
      const ttl = options.ttl === undefined ? {} : { ttlMs: options.ttl };
      const chosen = options.set === undefined ? undefined : await chosenPasscode(options.set);
      await asOwner(options, async (client, signal) => {
        if (chosen) {
          await client.enrollments.setPasscode(chosen, ttl, signal);
          process.stdout.write(options.json ? `${JSON.stringify({ set: true })}\n` : "");
          return;
        }
        const passcode = await client.enrollments.newPasscode(ttl, signal);
        const text = passcode.reveal();
        process.stdout.write(`${options.json ? JSON.stringify({ passcode: text }) : text}\n`);
      });
    });
}

async function chosenPasscode(file: string): Promise<Secret> {
  const { text } = await import("node:stream/consumers");
  const { readFile } = await import("node:fs/promises");
  const { ArgumentInvalid } = await import("./next-step.js");
  const { codeOf } = await import("../core/errors.js");
  const { Secret } = await import("../core/secret.js");
  const content = await (file === "-" ? text(process.stdin) : readFile(file, "utf8")).catch((cause: unknown) => {
    throw new ArgumentInvalid(`--set: ${file} cannot be read (${codeOf(cause) ?? "unknown error"})`, { cause });
  });
  // Six, since the Dart SDK takes no other number (client.md, 4.5).
  if (!/^\w{6}$/u.test(content.trim()))
    throw new ArgumentInvalid(`--set: ${file} should hold six letters and digits, and nothing else`);
  return new Secret(content.trim());
}
