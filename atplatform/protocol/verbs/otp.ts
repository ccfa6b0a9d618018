import { CommandScanner, parseUint } from "../command-scanner.js";
import { field, integer, oneLine, type VerbCodec } from "../verb-codec.js";

/** A passcode for one enrolment request, or (`put`) one that is chosen and stays. */
export type Otp =
  | { readonly action: "get"; readonly ttlMs?: number }
  | { readonly action: "put"; readonly passcode: string; readonly ttlMs?: number };

const PASSCODE = /^\w{6,}$/u;

/** `otp:get[:ttl:<ms>]` and `otp:put:<passcode>[:ttl:<ms>]`. */
export const otp: VerbCodec<Otp> = {
  usage: "otp:get or otp:validate:<otp>",

  format(command) {
    const ttl = command.ttlMs === undefined ? "" : `:ttl:${integer("ttlMs", command.ttlMs)}`;
    if (command.action === "get") return oneLine(`otp:get${ttl}`);
    // The passcode is a secret: no error may show it.
    if (!PASSCODE.test(command.passcode)) return field("passcode", "", PASSCODE);
    return oneLine(`otp:put:${command.passcode}${ttl}`);
  },

  parse(line) {
    const scanner = new CommandScanner(line, otp.usage);
    scanner.expect("otp");
    const passcode = scanner.skip(":put:") ? scanner.word() : undefined;
    if (passcode === undefined) scanner.expect(":get");
    else if (!PASSCODE.test(passcode)) scanner.refuse();
    const ttlMs = scanner.skip(":ttl:") ? (parseUint(scanner.word()) ?? scanner.refuse()) : undefined;
    scanner.end();
    const ttl = ttlMs !== undefined && { ttlMs };
    return passcode === undefined ? { action: "get", ...ttl } : { action: "put", passcode, ...ttl };
  },
};
