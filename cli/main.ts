#!/usr/bin/env -S node --max-semi-space-size=1
import { Command, CommanderError } from "commander";
import { EdgeError, codeOf } from "../core/errors.js";
import { VERSION } from "./version.js";

/** A file each, in the order of the help. A daemon keeps what is loaded, so only the one that is asked for is. */
const SUBCOMMANDS: Readonly<Record<string, () => Promise<{ readonly register: (program: Command) => void }>>> = {
  run: () => import("./run.js"),
  watch: () => import("./watch.js"),
  collect: () => import("./collect.js"),
  call: () => import("./call.js"),
  audit: () => import("./audit.js"),
  onboard: () => import("./onboard.js"),
  otp: () => import("./otp.js"),
  enroll: () => import("./enroll.js"),
  approve: () => import("./approve.js"),
  enrollments: () => import("./enrollments.js"),
  revoke: () => import("./revoke.js"),
  platform: () => import("./platform.js"),
  config: () => import("./config.js"),
  doctor: () => import("./doctor.js"),
  status: () => import("./status.js"),
  diag: () => import("./diag.js"),
  keys: () => import("./keys.js"),
  driver: () => import("./driver.js"),
  link: () => import("./link.js"),
  firmware: () => import("./firmware.js"),
  provision: () => import("./provision.js"),
  fleet: () => import("./fleet.js"),
  update: () => import("./update.js"),
};

const program = new Command("atedge")
  .description("puts a device on the Atsign atPlatform: readings out, commands in, end-to-end encrypted")
  .version(VERSION, "-V, --version")
  // Options of a subcommand are its own: `firmware sign --version` is no question about atedge.
  .enablePositionalOptions()
  .showHelpAfterError("(add --help for the options)")
  .exitOverride();
const asked = process.argv[2] ?? "";
const wanted = Object.hasOwn(SUBCOMMANDS, asked) ? [SUBCOMMANDS[asked]] : Object.values(SUBCOMMANDS);
for (const load of wanted) (await load?.())?.register(program);

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
