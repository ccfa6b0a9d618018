import type { Command } from "commander";
import { parseDuration } from "./duration.js";
import { asOwner, type OwnerOptions, withOwnerOptions } from "./owner.js";

export interface ApproveOptions extends OwnerOptions {
  readonly fingerprint?: string;
  readonly device?: string;
  readonly manager?: boolean;
  readonly zeroIv?: boolean;
  /** Milliseconds. */
  readonly wait: number;
}

const HELP = `
A request proves nothing by itself: compare its fingerprint with what the board itself shows (its screen, its serial
console, a photo of it), never with what came through the atServer.

Examples:
  atedge approve --as @greenhouse --fingerprint sha256:5c1e…
  atedge approve --as @greenhouse --device north      (on a terminal: asks for the fingerprint)`;

export function register(program: Command): void {
  withOwnerOptions(program.command("approve"))
    .description("let a board in that asks to be enrolled (owner's machine)")
    .argument("[enrollment]", "its id; without one the fingerprint finds it")
    .option("--fingerprint <sha256:…>", "what the board shows")
    .option("--device <name>", "only requests of this device")
    .option("--manager", "also a request for the keys of every namespace, or for enrolling others")
    .option(
      "--zero-iv",
      "also on an atServer that keeps no IVs (October 2024; it is found out): its operator can then read the self key",
    )
    .option(
      "--wait <duration>",
      "for new keys of a board: how long to wait for its change, to revoke the old ones (default: 10m)",
      parseDuration,
      600_000,
    )
    .addHelpText("after", HELP)
    .action(async (id: string | undefined, options: ApproveOptions) => {
      const { approveRequest } = await import("./approve-request.js");
      await asOwner(options, (client, signal) => approveRequest(client, id, options, signal));
    });
}
