#!/usr/bin/env -S node --max-semi-space-size=1
import { Command, CommanderError } from "commander";
import { EdgeError, codeOf } from "../core/errors.js";
import { register as registerApprove } from "./approve.js";
import { register as registerAudit } from "./audit.js";
import { register as registerCall } from "./call.js";
import { register as registerCollect } from "./collect.js";
import { register as registerConfig } from "./config.js";
import { register as registerDiag } from "./diag.js";
import { register as registerDoctor } from "./doctor.js";
import { register as registerDriver } from "./driver.js";
import { register as registerEnroll } from "./enroll.js";
import { register as registerEnrollments } from "./enrollments.js";
import { register as registerFleet } from "./fleet.js";
import { register as registerFirmware } from "./firmware.js";
import { register as registerKeys } from "./keys.js";
import { register as registerLink } from "./link.js";
import { register as registerOnboard } from "./onboard.js";
import { register as registerOtp } from "./otp.js";
import { register as registerPlatform } from "./platform.js";
import { register as registerProvision } from "./provision.js";
import { register as registerRevoke } from "./revoke.js";
import { register as registerRun } from "./run.js";
import { register as registerStatus } from "./status.js";
import { register as registerUpdate } from "./update.js";
import { register as registerWatch } from "./watch.js";
import { VERSION } from "./version.js";

/** Each subcommand is a small file that loads its heavy parts when it is called. */
const SUBCOMMANDS = [
  registerRun,
  registerWatch,
  registerCollect,
  registerCall,
  registerAudit,
  registerOnboard,
  registerOtp,
  registerEnroll,
  registerApprove,
  registerEnrollments,
  registerRevoke,
  registerPlatform,
  registerConfig,
  registerDoctor,
  registerStatus,
  registerDiag,
  registerKeys,
  registerDriver,
  registerLink,
  registerFirmware,
  registerProvision,
  registerFleet,
  registerUpdate,
];

const program = new Command("atedge")
  .description("puts a device on the Atsign atPlatform: readings out, commands in, end-to-end encrypted")
  .version(VERSION, "-V, --version")
  // Options of a subcommand are its own: `firmware sign --version` is no question about atedge.
  .enablePositionalOptions()
  .showHelpAfterError("(add --help for the options)")
  .exitOverride();
for (const register of SUBCOMMANDS) register(program);

// `atedge watch … | head`: the reader has had enough, which is no failure.
process.stdout.on("error", (error) => {
  if (codeOf(error) !== "EPIPE") throw error;
  process.exit(0);
});

try {
  await program.parseAsync();
} catch (error) {
  process.exitCode = report(error);
}

/** Says what went wrong, once and briefly, and gives the exit code: 1 failed, 2 usage. */
function report(error: unknown): number {
  // Commander has printed what was asked for, or what is wrong with the arguments.
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2;
  // A failure that callers act on, or of the system: the message is for people. Anything else is a fault of ours.
  const known = error instanceof EdgeError || codeOf(error) !== undefined;
  const text = error instanceof Error ? (known ? error.message : (error.stack ?? error.message)) : String(error);
  process.stderr.write(`atedge: ${text}\n`);
  return codeOf(error) === "ARGUMENT_INVALID" ? 2 : 1;
}
