import { type Command, InvalidArgumentError } from "commander";
import { parseDuration } from "./duration.js";

/** What all fleet commands have in common. */
export interface FleetOptions {
  readonly state?: string;
  readonly keysDir?: string;
  readonly directory?: string;
  readonly ca?: string;
  readonly json?: boolean;
}

export interface ApplyArguments extends FleetOptions {
  readonly out: string;
  readonly templates?: string;
  /** Milliseconds. */
  readonly life: number;
  readonly passcodes: number;
  readonly ssh?: boolean;
  readonly report?: string;
}

export interface ApproveArguments extends FleetOptions {
  readonly watch?: boolean;
  readonly report?: string;
}

const HELP = `
Examples:
  atedge fleet plan boards.csv                          what would happen
  atedge fleet apply boards.csv --out bundles           a bundle for each board that has none
  board$ sudo atedge provision atedge-provision.toml    on the board, or on the boot partition of its image
  atedge fleet approve boards.csv --watch               let in whoever proves a bundle, deny the rest
  atedge fleet status

A manifest is CSV (name,serial,atsign,tags,template,value.NAME,…) or TOML; docs/operate/fleet.md has both.`;

export function register(program: Command): void {
  const fleet = program
    .command("fleet")
    .description("provision and keep many boards from one manifest (owner's machine)")
    .addHelpText("after", HELP);
  const add = (name: string, description: string): Command =>
    fleet
      .command(name)
      .description(description)
      .option("--state <folder>", "what is known of the fleet (default: ~/.config/atedge/fleet)")
      .option("--json", "print JSON, one object a line");
  const withOwner = (command: Command): Command =>
    command
      .option("--keys-dir <folder>", "the .atKeys files of the owner's atSigns (default: ~/.atsign/keys)")
      .option("--directory <host:port>", "the atDirectory (default: the manifest's)")
      .option("--ca <file>", "certificate of a platform of your own (its ca.pem)");
  const run = async () => await import("./fleet-commands.js");

  add("plan <manifest>", "show what apply would do, and check limits and names").action(
    async (manifest: string, options: FleetOptions) => (await run()).plan(manifest, options),
  );
  withOwner(add("apply <manifest>", "make a provisioning bundle for each board that has none"))
    .option("--out <folder>", "where the bundles go, a folder a board", "bundles")
    .option("--templates <folder>", "configuration templates, NAME.toml (default: templates beside the manifest)")
    .option("--life <duration>", "how long passcodes and bundles are good", parseDuration, 7 * 86_400_000)
    .option("--passcodes <number>", "passcodes a bundle: an answer that is lost costs one", parseCount, 3)
    .option("--ssh", "bring each bundle to the board's host of the manifest, and provision it there")
    .option("--report <file>", "write what was done, JSON")
    .action(async (manifest: string, options: ApplyArguments) => (await run()).apply(manifest, options));
  withOwner(add("approve <manifest>", "let in the boards that prove a bundle of this fleet, deny the rest"))
    .option("--watch", "go on until Ctrl-C, as requests come")
    .option("--report <file>", "write what was decided, JSON")
    .action(async (manifest: string, options: ApproveArguments) => (await run()).approve(manifest, options));
  add("status", "what state each board is in").action(async (options: FleetOptions) => (await run()).status(options));
  withOwner(add("retire <device>", "revoke a board for good"))
    .option("--force", "also when the atServer cannot be reached: revoke it later")
    .action(async (device: string, options: FleetOptions & { readonly force?: boolean }) =>
      (await run()).retire(device, options),
    );
  withOwner(add("replace <device>", "a dead board: revoke it, so that another one takes its name"))
    .requiredOption("--serial <number>", "of the new board, as it stands in the manifest from now on")
    .action(async (device: string, options: FleetOptions & { readonly serial: string }) =>
      (await run()).replace(device, options),
    );
  withOwner(add("transfer <device>", "move a board to another atSign, such as a new owner's"))
    .requiredOption("--to <atSign>", "the atSign that it goes to, as it stands in the manifest from now on")
    .action(async (device: string, options: FleetOptions & { readonly to: string }) =>
      (await run()).transfer(device, options),
    );
  withOwner(
    add("compromise <device>", "a stolen board: revoke it, and let nothing in until its atSign has new keys"),
  ).action(async (device: string, options: FleetOptions) => (await run()).compromise(device, options));
  add("audit", "print the trail of what was done, and check that it is whole").action(async (options: FleetOptions) =>
    (await run()).audit(options),
  );
}

function parseCount(text: string): number {
  const count = Number(text);
  if (!/^\d{1,2}$/u.test(text) || count < 1 || count > 20) throw new InvalidArgumentError("Expected 1 to 20.");
  return count;
}
