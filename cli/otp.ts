import type { Command } from "commander";
import { parseDuration } from "./duration.js";
import { asOwner, type OwnerOptions, withOwnerOptions } from "./owner.js";

interface OtpOptions extends OwnerOptions {
  /** Milliseconds. */
  readonly ttl?: number;
}

export function register(program: Command): void {
  withOwnerOptions(program.command("otp"))
    .description("print a passcode with which one board may ask to be enrolled (owner's machine)")
    .option("--ttl <duration>", "how long it is good, such as 10m (default: 5m)", parseDuration)
    .action(async (options: OtpOptions) => {
      await asOwner(options, async (client, signal) => {
        const { ttl: ttlMs } = options;
        const passcode = await client.enrollments.newPasscode(ttlMs === undefined ? {} : { ttlMs }, signal);
        const text = passcode.reveal();
        process.stdout.write(`${options.json ? JSON.stringify({ passcode: text }) : text}\n`);
      });
    });
}
