import { parseAtSign, type AtSign } from "../at-sign.js";
import { CommandScanner } from "../command-scanner.js";
import { badSyntax, field, oneLine, type VerbCodec } from "../verb-codec.js";

/** The list of atSigns that may not connect, and settings that are for tests. */
export type Config =
  | { readonly action: "block-add" | "block-remove"; readonly atSigns: readonly AtSign[] }
  | { readonly action: "block-show" }
  | { readonly action: "set"; readonly name: string; readonly value: string }
  | { readonly action: "reset" | "print"; readonly name: string };

const NAME = /^[^=\s:]+$/u;

/** `config:block:add:@bob @carol`, `config:block:show`, `config:set:<name>=<value>` and so on. */
export const config: VerbCodec<Config> = {
  usage: "configure block syntax config:block:<action>:@<atSign>, where <action> is add, remove or show",

  format(command) {
    switch (command.action) {
      case "block-show":
        return "config:block:show";
      case "block-add":
      case "block-remove":
        if (command.atSigns.length === 0) throw badSyntax(config.usage);
        return oneLine(
          `config:block:${command.action === "block-add" ? "add" : "remove"}:${command.atSigns.join(" ")}`,
        );
      case "set":
        return oneLine(`config:set:${field("name", command.name, NAME)}=${command.value}`);
      case "reset":
      case "print":
        return oneLine(`config:${command.action}:${field("name", command.name, NAME)}`);
    }
  },

  parse(line) {
    const scanner = new CommandScanner(line, config.usage);
    scanner.expect("config");
    if (scanner.skip(":block:show")) {
      scanner.end();
      return { action: "block-show" };
    }
    if (scanner.skip(":block:")) return parseBlock(scanner);
    const action = scanner.choiceBeforeColon(":", ["set", "reset", "print"]) ?? scanner.refuse();
    scanner.expect(":");
    if (action !== "set") return { action, name: scanner.rest() || scanner.refuse() };
    const name = scanner.until("=") || scanner.refuse();
    return { action, name, value: scanner.rest() };
  },
};

function parseBlock(scanner: CommandScanner): Config {
  const action = scanner.choiceBeforeColon("", ["add", "remove"]) ?? scanner.refuse();
  scanner.expect(":");
  const atSigns = scanner
    .rest()
    .split(/\s+/u)
    .map((word) => (/^@[^:@]+$/u.test(word) ? parseAtSign(word) : scanner.refuse()));
  return { action: action === "add" ? "block-add" : "block-remove", atSigns };
}
