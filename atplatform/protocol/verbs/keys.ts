import { CommandScanner } from "../command-scanner.js";
import { badSyntax, field, oneLine, type VerbCodec } from "../verb-codec.js";

export type KeysVisibility = "public" | "private" | "self";

/** Keys that an enrolment keeps on the atServer. */
export type Keys =
  | {
      readonly operation: "put";
      readonly visibility: KeysVisibility;
      readonly namespace?: string;
      readonly appName?: string;
      readonly deviceName?: string;
      readonly keyType?: string;
      readonly encryptionKeyName?: string;
      readonly keyName: string;
      readonly value: string;
    }
  | { readonly operation: "get"; readonly visibility: KeysVisibility }
  /** By full name, e.g. `<enrollmentId>.default_enc_private_key.__manage@alice`. */
  | { readonly operation: "get" | "delete"; readonly keyName: string };

const OPTIONS = ["namespace", "appName", "deviceName", "keyType", "encryptionKeyName"] as const;
const WORD = /^[\w.-]+$/u;
const VISIBILITIES: readonly KeysVisibility[] = ["public", "private", "self"];

/** `keys:put:<visibility>[:<options>]:keyName:<name> <value>`, `keys:get:<visibility>`, `keys:get|delete:keyName:<name>`. */
export const keys: VerbCodec<Keys> = {
  usage: "e.g. keys:put:public:keyName:encryptionPublicKey:namespace:__global:keyType:rsa2048:<public_key>",

  format(command) {
    if (!("keyName" in command)) return `keys:get:${command.visibility}`;
    const keyName = `keyName:${field("keyName", command.keyName, /^\S+$/u)}`;
    if (command.operation !== "put") return oneLine(`keys:${command.operation}:${keyName}`);
    if (command.value === "") throw badSyntax("keys:put needs a value");
    const options = OPTIONS.map((name) => {
      const value = command[name];
      return value === undefined ? "" : `${name}:${field(name, value, WORD)}:`;
    });
    return oneLine(`keys:put:${command.visibility}:${options.join("")}${keyName} ${command.value}`);
  },

  parse(line) {
    const scanner = new CommandScanner(line, keys.usage);
    scanner.expect("keys");
    const operation = scanner.choice(":", ["put", "get", "delete"]) ?? scanner.refuse();
    const visibility = scanner.choice(":", VISIBILITIES);
    if (operation === "put") return parsePut(scanner, visibility ?? scanner.refuse());
    if (visibility !== undefined) {
      scanner.end();
      return operation === "get" ? { operation, visibility } : scanner.refuse();
    }
    scanner.expect(":keyName:");
    const keyName = scanner.rest();
    return /^\S+$/u.test(keyName) ? { operation, keyName } : scanner.refuse();
  },
};

function parsePut(scanner: CommandScanner, visibility: KeysVisibility): Keys {
  const options = OPTIONS.map((name) => [name, scanner.option(name, (word) => WORD.test(word))] as const);
  scanner.expect(":keyName:");
  const keyName = scanner.until(" ") || scanner.refuse();
  const value = scanner.rest() || scanner.refuse();
  if (/\s/u.test(keyName)) scanner.refuse();
  const given = Object.fromEntries(options.filter(([, word]) => word !== undefined));
  return { operation: "put", visibility, ...given, keyName, value };
}
