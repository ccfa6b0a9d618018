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

export interface EachArguments {
  readonly state?: string;
  readonly tag?: string;
  readonly wave: string;
  /** Per cent. */
  readonly stopAbove: number;
  readonly atOnce: number;
  readonly report?: string;
  readonly json?: boolean;
}

export interface ReconfigureArguments extends EachArguments {
  readonly as: string;
  readonly keys?: string;
  readonly pins?: string;
  readonly directory?: string;
  readonly ca?: string;
  /** Milliseconds, both. */
  readonly within: number;
  readonly settle: number;
}

const HELP = `
Examples:
  atedge fleet plan boards.csv                          what would happen
  atedge fleet apply boards.csv --out bundles           a bundle for each board that has none
  board$ sudo atedge provision atedge-provision.toml    on the board, or on the boot partition of its image
  atedge fleet approve boards.csv --watch               let in whoever proves a bundle, deny the rest
  atedge fleet status

A manifest is CSV (name,serial,atsign,tags,template,value.NAME,…) or TOML; docs/operate/fleet.md has both.`;

const EACH_HELP = `
Examples ({} stands for @owner/device):
  atedge fleet each boards.csv --tag roof -- call {} agent driver-disable '{"driver":"vent"}' --as @grower
  atedge fleet each boards.csv --wave 1,5%,25% -- update push {} atedge_0.2.0_arm64.deb --wait 300 --as @grower
  atedge fleet each boards.csv --tag v2 -- firmware push {} board image.bin --as @grower`;

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
  withOwner(
    add("rotate <device>", "give an enrolled board a new enrolment; the old one ends when the new one is in"),
  ).action(async (device: string, options: FleetOptions) => (await run()).rotate(device, options));
  const withWaves = (command: Command): Command =>
    command
      .option("--tag <tag>", "only devices with this tag of the manifest")
      .option("--wave <sizes>", "devices a wave, the last one repeated", "1,10%,50%")
      .option("--stop-above <percent>", "no other wave when more of one have failed", parsePercent, 10)
      .option("--at-once <number>", "devices at a time", parseCount, 8)
      .option("--report <file>", "write what became of each, JSON");
  withWaves(add("each <manifest> <command...>", "run an atedge command for every device, in waves"))
    .addHelpText("after", EACH_HELP)
    .action(async (manifest: string, command: string[], options: EachArguments) => {
      const { each } = await import("./fleet-each.js");
      await each(manifest, command, options);
    });
  withWaves(add("reconfigure <manifest> <settings>", "set settings (a JSON object) in waves, each on trial first"))
    .requiredOption("--as <atSign>", "who you are: devices must allow you agent/config-* and agent/state")
    .option("--keys <file>", "your .atKeys file")
    .option("--pins <folder>", "where trusted keys are remembered (default: ~/.config/atedge)")
    .option("--directory <host:port>", "the atDirectory")
    .option("--ca <file>", "certificate of a platform of your own (its ca.pem)")
    .option("--within <duration>", "settings that were not kept by then go back by themselves", parseDuration, 300_000)
    .option(
      "--settle <duration>",
      "how long a device runs with them before it is asked how it is",
      parseDuration,
      5_000,
    )
    .action(async (manifest: string, settings: string, options: ReconfigureArguments) => {
      const { reconfigure } = await import("./fleet-each.js");
      await reconfigure(manifest, settings, options);
    });
  add("audit", "print the trail of what was done, and check that it is whole").action(async (options: FleetOptions) =>
    (await run()).audit(options),
  );
}

function parseCount(text: string): number {
  const count = Number(text);
  if (!/^\d{1,2}$/u.test(text) || count < 1 || count > 20) throw new InvalidArgumentError("Expected 1 to 20.");
  return count;
}

function parsePercent(text: string): number {
  const percent = Number(text);
  if (!/^\d{1,3}$/u.test(text) || percent > 100) throw new InvalidArgumentError("Expected 0 to 100.");
  return percent;
}
