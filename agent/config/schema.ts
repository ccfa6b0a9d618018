import * as v from "valibot";
import { parseAtSign } from "../../atplatform/protocol/at-sign.js";
import { parseDirectoryAddress } from "../../atplatform/transport/directory.js";
import { driverId } from "../../drivers/config-parts.js";
import { SyntaxInvalid } from "../../core/errors.js";
import { parseDevice, parseNamespace } from "../../messages/names.js";
import { parseFingerprint } from "../../messages/pins.js";
import { parseConsumer } from "../../messages/receipt.js";
import { parseHours, parseTimeZone } from "../control/hours.js";
import { channel, dataBudgetMB, deflate, durabilities, outbox } from "./data-sections.js";
import { parseRule } from "../rules/grammar.js";
import { parseWith } from "./parse-with.js";

const COMMAND_PATTERN = /^[A-Za-z0-9*][A-Za-z0-9._*-]{0,63}\/[A-Za-z0-9*][A-Za-z0-9._*-]{0,63}$/u;
const DEVICE_PATTERN = /^[a-z*][a-z0-9*-]{0,29}$/u;

const atSign = (description: string, example: string) =>
  v.pipe(
    v.string(),
    v.description(description),
    v.examples([example]),
    parseWith(parseAtSign, "expected an atSign such as @alice"),
  );

const pin = v.pipe(
  v.string(),
  parseWith(parseFingerprint, "expected sha256: and 64 lower-case hex digits"),
  v.examples(["sha256:0f0e0d0c0b0a09080706050403020100ffeeddccbbaa99887766554433221100"]),
);

const integer = (min: number, max: number) => v.pipe(v.number(), v.integer(), v.minValue(min), v.maxValue(max));

const reader = v.pipe(
  v.strictObject({
    atsign: atSign("Who may read. Readings are encrypted for this atSign alone.", "@grower"),
    key: v.optional(
      v.pipe(
        pin,
        v.description(
          "Fingerprint of the reader's encryption public key. Left out: the first key seen is kept and reported.",
        ),
      ),
    ),
    consumer: v.optional(
      v.pipe(
        v.string(),
        parseWith(parseConsumer, "expected a name of letters, digits, blanks and . _ -, at most 64 characters"),
        v.description(
          "Whose receipts free the outbox: the name that `atedge watch --keep` or a collector reports under.",
        ),
      ),
      "watch --keep",
    ),
    receipts: v.optional(
      v.pipe(
        v.boolean(),
        v.description(
          "false for a reader of other make that gives no receipts: readings then count as delivered when the reader's atServer has them.",
        ),
      ),
      true,
    ),
    deflate,
  }),
  v.description("An atSign that gets the readings. One table each."),
);

/** `rules`, an atSign, or one with a `*` for any text. */
function parseAllowed(text: string): string {
  if (text === "rules") return text;
  if (!text.includes("*")) return parseAtSign(text);
  // Whoever can get a name that fits is let in, so it has to say something.
  if (text.replaceAll(/[@*]/gu, "").length < 3) throw new SyntaxInvalid("expected at least 3 letters beside the *");
  parseAtSign(text.replaceAll("*", "x"));
  const lower = text.toLowerCase().replaceAll(".", "");
  return lower.startsWith("@") ? lower : `@${lower}`;
}

const argument = v.strictObject({
  min: v.optional(v.number()),
  max: v.optional(v.number()),
  enum: v.optional(v.pipe(v.array(v.union([v.string(), v.number(), v.boolean()])), v.minLength(1))),
  pattern: v.optional(v.pipe(v.string(), v.maxLength(200), parseWith(parsePattern, "expected a regular expression"))),
  required: v.optional(v.boolean(), false),
});

function parsePattern(text: string): string {
  new RegExp(`^(?:${text})$`, "u").test("");
  return text;
}

function checkedHours(text: string): string {
  parseHours(text);
  return text;
}

const allow = v.pipe(
  v.strictObject({
    atsign: v.pipe(
      v.string(),
      v.description(
        "Who may send the commands below: an atSign; a pattern such as `@site-*`, and then everybody who gets such a name; or `rules`, the `[[rule]]` tables of this file.",
      ),
      v.examples(["@grower"]),
      parseWith(parseAllowed),
    ),
    key: v.optional(
      v.pipe(
        pin,
        v.description(
          "Fingerprint of the caller's encryption public key. Left out: the first key seen is kept and reported.",
        ),
      ),
    ),
    commands: v.pipe(
      v.array(v.pipe(v.string(), v.regex(COMMAND_PATTERN, "expected target/command, where * stands for any text"))),
      v.minLength(1),
      v.description(
        "What the caller may do, as `target/command`, where `*` stands for any text. The target is a driver's id, or `agent` for the agent itself, which no `*` stands for.",
      ),
      v.examples([["vent/*", "lamp/set"]]),
    ),
    devices: v.optional(
      v.pipe(
        v.array(v.pipe(v.string(), v.regex(DEVICE_PATTERN, "expected a device's name, where * stands for any text"))),
        v.minLength(1),
        v.description("Devices that this table counts for, where `*` stands for any text. Left out: every one."),
        v.examples([["north", "gh-*"]]),
      ),
    ),
    args: v.optional(
      v.pipe(
        v.record(v.string(), argument),
        v.description(
          "Limits of arguments by name, each a table of `min`, `max`, `enum`, `pattern` (of the whole text) and `required`. They stand beside those of the driver.",
        ),
        v.examples([{ percent: { min: 0, max: 60, required: true } }]),
      ),
    ),
    hours: v.optional(
      v.pipe(
        v.array(v.pipe(v.string(), parseWith(checkedHours))),
        v.minLength(1),
        v.description("When: `06:00-20:00`, `mon-fri 08:00-18:00`, `sat,sun 22:00-04:00`. Left out: at any hour."),
        v.examples([["mon-fri 06:00-20:00"]]),
      ),
    ),
    timeZone: v.optional(
      v.pipe(
        v.string(),
        parseWith(parseTimeZone),
        v.description(
          "Whose clock `hours` go by: `local` is the machine's, or `UTC`, or a name such as `Europe/Berlin`.",
        ),
      ),
      "local",
    ),
    rate: v.optional(
      v.pipe(
        v.strictObject({
          max: v.pipe(integer(1, 1_000_000), v.description("Most commands."), v.examples([10])),
          perMs: v.pipe(integer(1000, 31 * 86_400_000), v.description("In how long."), v.examples([60_000])),
        }),
        v.description("At most `max` commands by this table in `perMs`, counted a caller, since the agent's start."),
        v.examples([{ max: 10, perMs: 60_000 }]),
      ),
    ),
    unsigned: v.optional(
      v.pipe(
        v.boolean(),
        v.description("true lets a client that only speaks plain AtRpc in: no seal and no signature is asked of it."),
      ),
      false,
    ),
  }),
  v.partialCheck(
    [["atsign"], ["key"], ["unsigned"]],
    ({ atsign, key, unsigned }) => (key === undefined && !unsigned) || /^@[^*]+$/u.test(atsign),
    "expected one atSign's name beside key or unsigned, no pattern",
  ),
  v.description(
    "An atSign that may send commands. Nothing is allowed that is not listed. Several tables may name the same one: what one of them allows is allowed.",
  ),
);

const driver = v.pipe(
  v.looseObject({
    id: v.pipe(
      driverId,
      v.check((id) => id !== "agent", 'expected another name than "agent", which is the agent itself'),
    ),
    type: v.pipe(v.string(), v.description("The kind of driver; its own keys follow below."), v.examples(["serial"])),
  }),
  v.description("An instrument. One table each."),
);

const rule = v.pipe(
  v.strictObject({
    name: v.pipe(
      v.string(),
      v.regex(/^[a-z0-9][a-z0-9-]{0,29}$/u, "expected a to z, 0 to 9 and -, at most 30 characters"),
      v.description("The rule's name, for log and audit."),
      v.examples(["too-hot"]),
    ),
    rule: v.pipe(
      v.string(),
      v.maxLength(300),
      v.description(
        "`when READING > VALUE [for 60s] [until < VALUE] then TARGET/COMMAND`; also >= < <= == !=. It fires once when the condition has held for so long, and again only after `until`, or without it after the condition has not held.",
      ),
      v.examples(["when temperature.north > 30 for 60s until < 28 then vent/open"]),
      parseWith(checkedRule),
    ),
    args: v.optional(
      v.pipe(
        v.record(v.string(), v.unknown()),
        v.description("Arguments of the command."),
        v.examples([{ percent: 100 }]),
      ),
      {},
    ),
    staleMs: v.optional(
      v.pipe(
        integer(1000, 86_400_000),
        v.description("A reading this old says nothing any more: then nothing has held, and nothing fires."),
      ),
      60_000,
    ),
  }),
  v.description(
    'What the device does by itself, with or without a network. The command must be allowed by an [[allow]] with atsign = "rules".',
  ),
);

function checkedRule(text: string): string {
  parseRule(text);
  return text;
}

const audit = v.strictObject({
  maxBytes: v.optional(
    v.pipe(integer(65_536, 1_073_741_824), v.description("Of its files together; then the oldest goes.")),
    4_194_304,
  ),
});

/**
 * The agent's whole configuration: type, default, bounds and doc line of every key. The parser, the reference page and
 * the example file all come from here. The keys of a driver's own kind come from that kind's schema.
 */
export const agentSchema = v.strictObject({
  atsign: atSign("The device's own atSign.", "@greenhouse"),
  device: v.pipe(
    v.string(),
    parseWith(parseDevice, "expected a to z, 0 to 9 and -, starting with a letter, at most 30 characters"),
    v.description("The device's name under its atSign; part of every key."),
    v.examples(["north"]),
  ),
  directory: v.optional(
    v.pipe(
      v.string(),
      v.description("HOST:PORT of the atDirectory. A platform of one's own has another one."),
      parseWith(parseDirectoryAddress, "expected HOST:PORT"),
    ),
    "root.atsign.org:64",
  ),
  ca: v.optional(
    v.pipe(
      v.string(),
      v.nonEmpty(),
      v.description(
        "PEM file with a further certificate authority to trust, such as `ca.pem` of a platform of one's own.",
      ),
      v.examples(["/etc/atedge/ca.pem"]),
    ),
  ),
  keys: v.optional(
    v.pipe(
      v.string(),
      v.nonEmpty(),
      v.description("The `.atKeys` file, mode 0600. Left out: `keys/@ATSIGN_key.atKeys` in the state folder."),
      v.examples(["/var/lib/atedge/keys/@greenhouse_key.atKeys"]),
    ),
  ),
  keysPassphraseFile: v.optional(
    v.pipe(
      v.string(),
      v.nonEmpty(),
      v.description(
        "File with the passphrase that the key file is sealed with, mode 0600. It protects the keys only as long as it is not on the same card.",
      ),
      v.examples(["/run/credentials/atedge.service/atedge.passphrase"]),
    ),
  ),
  allowManagerKeys: v.optional(
    v.pipe(
      v.boolean(),
      v.description(
        "true accepts keys that may enrol others or reach every namespace; they do not belong on a device.",
      ),
    ),
    false,
  ),
  stateDir: v.optional(
    v.pipe(v.string(), v.nonEmpty(), v.description("Folder of the outbox and the ledger; one agent at a time.")),
    "/var/lib/atedge",
  ),
  ns: v.optional(
    v.pipe(
      v.string(),
      parseWith(parseNamespace, "expected a to z, 0 to 9 and _, starting with a letter, at most 55 characters"),
      v.description("Application namespace: the end of every key. Both ends use the same."),
    ),
    "atedge",
  ),
  sharedKeys: v.optional(
    v.pipe(
      v.array(pin),
      v.maxLength(256),
      v.description(
        "Fingerprints of AES keys that a human has accepted, after the agent refused them because its atServer gave another one than before. The log names them.",
      ),
    ),
    [],
  ),
  logLevel: v.optional(
    v.pipe(
      v.picklist(["debug", "info", "warn", "error"]),
      v.description("The least that is logged on standard error."),
    ),
    "info",
  ),
  maxBatch: v.optional(v.pipe(integer(1, 1000), v.description("Most readings in one message.")), 500),
  maxDelayMs: v.optional(
    v.pipe(
      integer(0, 3_600_000),
      v.description("Longest that a reading waits for others to share its message; alarms never wait."),
    ),
    1000,
  ),
  stateIntervalMs: v.optional(
    v.pipe(
      integer(1000, 86_400_000),
      v.description("Shortest time between two updates of a channel's latest value kept for readers."),
    ),
    60_000,
  ),
  metricsPort: v.optional(
    v.pipe(
      integer(1, 65_535),
      v.description("Port on 127.0.0.1 for Prometheus: the health as text at `/metrics`. Left out: none is opened."),
      v.examples([9464]),
    ),
  ),
  dataBudgetMB,
  outbox: v.optional(v.pipe(outbox, v.description("Room for readings that are not delivered yet.")), {}),
  durability: v.optional(
    v.pipe(
      durabilities,
      v.description("What each class of message survives: `power-cut` waits for the disk, `crash` does not."),
    ),
    {},
  ),
  audit: v.optional(v.pipe(audit, v.description("The log of commands, rules and changes, for `atedge audit`.")), {}),
  reader: v.optional(v.array(reader), []),
  channel: v.optional(v.pipe(v.array(channel), v.maxLength(256)), []),
  allow: v.optional(v.array(allow), []),
  rule: v.optional(v.pipe(v.array(rule), v.maxLength(64)), []),
  driver: v.optional(v.array(driver), []),
});

/** The configuration as the file gives it, checked and with defaults. Paths are still as written. */
export type AgentFile = v.InferOutput<typeof agentSchema>;
export type ReaderConfig = AgentFile["reader"][number];
export type RuleConfig = AgentFile["rule"][number];
export type AllowConfig = AgentFile["allow"][number];
