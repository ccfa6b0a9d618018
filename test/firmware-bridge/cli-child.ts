import { Command } from "commander";
import { register as registerFirmware } from "../../cli/firmware.js";
import { register as registerLink } from "../../cli/link.js";
import { codeOf } from "../../core/errors.js";

/** `atedge` with the two subcommands of this room. */
const program = new Command("atedge");
registerLink(program);
registerFirmware(program);
try {
  await program.parseAsync();
} catch (error) {
  process.stderr.write(`atedge: ${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = codeOf(error) === "ARGUMENT_INVALID" ? 2 : 1;
}
