import { parseAtSign, type AtSign } from "../at-sign.js";
import { CommandScanner } from "../command-scanner.js";
import { CommandInvalid, oneLine, type VerbCodec } from "../verb-codec.js";

/** What a client tells about itself; only `version` has an effect: above 3.0.37, errors come as JSON. */
export interface ClientConfig {
  readonly version?: string;
  readonly clientId?: string;
  readonly appName?: string;
  readonly appVersion?: string;
  readonly platform?: string;
}

export interface From {
  readonly atSign: AtSign;
  readonly clientConfig?: ClientConfig;
}

const CLIENT_CONFIG_MEMBERS = ["version", "clientId", "appName", "appVersion", "platform"] as const;

/** `from:@alice[:clientConfig:{…}]`: asks for the challenge that proves who one is. */
export const from: VerbCodec<From> = {
  usage: "syntax from:@<atSign>   e.g from:@alice",

  format: ({ atSign, clientConfig }) =>
    oneLine(`from:${atSign}${clientConfig ? `:clientConfig:${JSON.stringify(clientConfig)}` : ""}`),

  parse(line) {
    const scanner = new CommandScanner(line, from.usage);
    scanner.expect("from:");
    const at = scanner.skip("@") ? "@" : "";
    const atSign = parseAtSign(at + scanner.expectWord());
    if (scanner.isDone()) return { atSign };
    scanner.expect(":clientConfig:");
    return { atSign, clientConfig: parseClientConfig(scanner.rest()) };
  },
};

function parseClientConfig(json: string): ClientConfig {
  let value: unknown;
  try {
    value = JSON.parse(json);
  } catch (cause) {
    throw new CommandInvalid("clientConfig is not JSON", "AT0022", { cause });
  }
  if (typeof value !== "object" || value === null) throw new CommandInvalid("clientConfig is not an object", "AT0022");
  const members = new Map<string, unknown>(Object.entries(value));
  const known = CLIENT_CONFIG_MEMBERS.map((name) => [name, members.get(name)] as const);
  return Object.fromEntries(known.filter(([, member]) => typeof member === "string"));
}
