import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { agentSchema } from "../../../agent/config/schema.js";
import { loadConfig } from "../../../agent/config/load.js";
import { nearest } from "../../../agent/config/nearest.js";
import { ConfigInvalid, faultLine, parseConfig } from "../../../agent/config/parse.js";
import { exampleFile, referencePage } from "../../../agent/config/reference.js";

const MINIMAL = `atsign = "@greenhouse"\ndevice = "north"\n[[reader]]\natsign = "@grower"\n`;
const PIN = `sha256:${"0f".repeat(32)}`;

function faultsOf(text: string): string[] {
  try {
    parseConfig(text, "/etc/atedge");
    return [];
  } catch (error) {
    if (error instanceof ConfigInvalid) return error.faults.map(faultLine);
    throw error;
  }
}

t.test("a configuration", async (t) => {
  t.test("that is short gets every default, and its file names become absolute", async (t) => {
    const { config, warnings } = parseConfig(MINIMAL, "/etc/atedge");
    t.match(config, {
      atsign: "@greenhouse",
      device: "north",
      ns: "atedge",
      directory: { kind: "directory", host: "root.atsign.org", port: 64 },
      stateDir: "/var/lib/atedge",
      keys: "/var/lib/atedge/keys/@greenhouse_key.atKeys",
      allowManagerKeys: false,
      maxBatch: 500,
      durability: { alarm: "power-cut", measurement: "power-cut" },
      reader: [{ atsign: "@grower", consumer: "watch --keep", receipts: true }],
      allow: [],
      driver: [],
    });
    t.equal(config.ca, undefined);
    t.same(warnings, []);
  });

  t.test("keeps what is given, atSigns in their canonical form", async (t) => {
    const { config } = parseConfig(
      `atsign = "Green.House"
       device = "north"
       directory = "[::1]:6400"
       ca = "ca.pem"
       keys = "my.atKeys"
       stateDir = "state"
       [[reader]]
       atsign = "@Grower"
       key = "${PIN}"
       [[allow]]
       atsign = "@grower"
       commands = ["vent/*", "*/*"]
       unsigned = true
       [[driver]]
       id = "vent"
       type = "serial"
       path = "/dev/ttyACM0"`,
      "/etc/atedge",
    );
    t.match(config, {
      atsign: "@greenhouse",
      directory: { host: "::1", port: 6400 },
      ca: "/etc/atedge/ca.pem",
      keys: "/etc/atedge/my.atKeys",
      stateDir: "/etc/atedge/state",
      reader: [{ atsign: "@grower", key: PIN }],
      allow: [{ atsign: "@grower", commands: ["vent/*", "*/*"], unsigned: true }],
    });
    t.match(config.driver, [
      { id: "vent", type: "serial", path: "/dev/ttyACM0", baud: 115_200, reading: [], command: [] },
    ]);
  });

  const table: [name: string, text: string, faults: string[]][] = [
    [
      "without its required keys",
      `ns = "atedge"`,
      ["atsign: missing: expected a text", "device: missing: expected a text"],
    ],
    [
      "with an atSign that is none",
      MINIMAL.replace("@greenhouse", "@green house"),
      ['atsign: expected an atSign such as @alice, got "@green house"'],
    ],
    [
      "with a device name that no key can carry",
      MINIMAL.replace("north", "North"),
      ['device: expected a to z, 0 to 9 and -, starting with a letter, at most 30 characters, got "North"'],
    ],
    [
      "with the namespace null",
      `ns = "null"\n${MINIMAL}`,
      ['ns: expected a to z, 0 to 9 and _, starting with a letter, at most 55 characters, got "null"'],
    ],
    [
      "with an address that is none",
      `directory = "root atsign org"\n${MINIMAL}`,
      ['directory: expected HOST:PORT, got "root atsign org"'],
    ],
    ["with a port over 65535", `directory = "a:65536"\n${MINIMAL}`, ['directory: expected HOST:PORT, got "a:65536"']],
    [
      "with a number out of bounds and one of another type",
      `maxBatch = 0\nstateIntervalMs = "1s"\n${MINIMAL}`,
      ["maxBatch: expected 1 to 1000, got 0", 'stateIntervalMs: expected 1000 to 86400000, got "1s"'],
    ],
    [
      "with a half of a reading",
      `maxBatch = 1.5\n${MINIMAL}`,
      ["maxBatch: expected a whole number, 1 to 1000, got 1.5"],
    ],
    [
      "with a word that is none of the choices",
      `logLevel = "loud"\n${MINIMAL}`,
      ['logLevel: expected "debug", "info", "warn" or "error", got "loud"'],
    ],
    [
      "with misspelt keys, all of them told",
      `max_batch = 1\nfoo = 1\nouTbox = 1\n${MINIMAL}consumr = "x"\n[outbox]\nmaxbyte = 1\n`,
      [
        "max_batch: unknown key; did you mean maxBatch?",
        `foo: unknown key; known are ${Object.keys(agentSchema.entries).join(", ")}`,
        "ouTbox: unknown key; did you mean outbox?",
        "outbox.maxbyte: unknown key; did you mean maxBytes?",
        "reader[0].consumr: unknown key; did you mean consumer?",
      ],
    ],
    [
      "with a pin of another form",
      `${MINIMAL}key = "sha256:0F"\n`,
      ['reader[0].key: expected sha256: and 64 lower-case hex digits, got "sha256:0F"'],
    ],
    [
      "with commands that are no patterns",
      `${MINIMAL}[[allow]]\natsign = "@grower"\ncommands = ["vent", "vent/o*", "vent/a b"]\n`,
      [
        'allow[0].commands[0]: expected target/command, where * stands for any text, got "vent"',
        'allow[0].commands[2]: expected target/command, where * stands for any text, got "vent/a b"',
      ],
    ],
    [
      "with conditions that cannot be read",
      `${MINIMAL}[[allow]]\natsign = "@grower"\ncommands = ["vent/*"]\ndevices = ["No rth"]\nhours = ["25:00-26:00", "funday 06:00-07:00"]\ntimeZone = "Mars/Base"\nrate = { max = 0, perMs = 1000, per = 1 }\nargs = { percent = { maxx = 3, pattern = "(" } }\n`,
      [
        "allow[0].rate.per: unknown key; did you mean perMs?",
        "allow[0].args.percent.maxx: unknown key; did you mean max?",
        `allow[0].devices[0]: expected a device's name, where * stands for any text, got "No rth"`,
        'allow[0].args.percent.pattern: expected a regular expression, got "("',
        'allow[0].hours[0]: expected hours such as "06:00-20:00" or "mon-fri 22:00-06:00", got "25:00-26:00"',
        'allow[0].hours[1]: expected hours such as "06:00-20:00" or "mon-fri 22:00-06:00", got "funday 06:00-07:00"',
        'allow[0].timeZone: expected "local", "UTC" or a time zone such as "Europe/Berlin", got "Mars/Base"',
        "allow[0].rate.max: expected 1 to 1000000, got 0",
      ],
    ],
    [
      "with a pattern of atSigns that lets everybody in, or gives a pattern a key",
      `${MINIMAL}[[allow]]\natsign = "@a*"\ncommands = ["*/*"]\n[[allow]]\natsign = "@site-*"\nunsigned = true\ncommands = ["*/*"]\n`,
      [
        'allow[0].atsign: expected at least 3 letters beside the *, got "@a*"',
        "allow[1]: expected one atSign's name beside key or unsigned, no pattern",
      ],
    ],
    [
      "with an allow that allows nothing",
      `${MINIMAL}[[allow]]\natsign = "@grower"\ncommands = []\n`,
      ["allow[0].commands: expected a list, each a text, at least 1, got a list"],
    ],
    [
      "with an unknown kind of driver",
      `${MINIMAL}[[driver]]\nid = "a"\ntype = "serail"\n`,
      ['driver[0].type: unknown kind "serail"; did you mean serial?'],
    ],
    [
      "with faults inside a driver",
      `${MINIMAL}[[driver]]\nid = "A b"\ntype = "serial"\nmax_line_bytes = 1\nbaud = "1s"\n[[driver.reading]]\nnme = "t"\n`,
      [
        'driver[0].id: expected a to z, 0 to 9, _ and -, at most 30 characters, got "A b"',
        "driver[0].max_line_bytes: unknown key; did you mean maxLineBytes?",
        "driver[0].reading[0].nme: unknown key; did you mean name?",
        'driver[0].baud: expected 50 to 4000000, got "1s"',
        "driver[0].reading[0].name: missing: expected a text",
        "driver[0].path: expected either path or usb",
      ],
    ],
    ["with a driver without a type", `${MINIMAL}[[driver]]\nid = "a"\n`, ["driver[0].type: missing: expected a text"]],
    [
      "with a driver named like the agent",
      `${MINIMAL}[[driver]]\nid = "agent"\ntype = "serial"\npath = "/x"\n`,
      ['driver[0].id: expected another name than "agent", which is the agent itself, got "agent"'],
    ],
    [
      "with names that stand twice",
      `${MINIMAL}[[reader]]\natsign = "GROWER"\n${`[[driver]]\nid = "a"\ntype = "serial"\npath = "/x"\n`.repeat(2)}`,
      ['reader[1].atsign: "GROWER" has a [[reader]] already', 'driver[1].id: "a" is the id of another driver too'],
    ],
    [
      "with two keys for one peer",
      `${MINIMAL}key = "${PIN}"\n[[allow]]\natsign = "Grower"\ncommands = ["*/*"]\nkey = "${PIN.replace("0", "1")}"\n`,
      ["allow[0].key: the [[reader]] @grower has another key"],
    ],
    [
      "with two keys for one caller",
      `${MINIMAL}${[PIN, PIN.replace("0", "1")].map((key) => `[[allow]]\natsign = "@c"\ncommands = ["*/*"]\nkey = "${key}"\n`).join("")}`,
      ["allow[1].key: the [[allow]] @c has another key"],
    ],
    [
      "with a text where a list of tables belongs",
      `${MINIMAL.split("[[")[0] ?? ""}reader = "@grower"\n`,
      ['reader: expected a list, each a table, got "@grower"'],
    ],
  ];
  for (const [name, text, faults] of table) {
    t.test(`${name} is refused`, async (t) => t.same(faultsOf(text), faults));
  }

  t.test("that is no TOML is refused with line and column", async (t) => {
    const [fault = ""] = faultsOf(`atsign = "@a"\ndevice = north\n`);
    t.match(fault, /^line 2, column 10: /u);
    t.match(fault, "device = north");
  });

  t.test("with a prototype for a key is refused", async (t) => {
    t.equal(faultsOf(`${MINIMAL}[__proto__]\na = 1\n`).length, 1);
  });

  t.test("does not show the password in a URL that it complains of", async (t) => {
    const [fault = ""] = faultsOf(`directory = "mqtt://u:hunter2@host"\n${MINIMAL}`);
    t.match(fault, "mqtt://u:[secret]@host");
    t.notMatch(fault, "hunter2");
  });

  t.test("that allows commands of no driver, or has no reader, is used with a warning", async (t) => {
    const { warnings } = parseConfig(
      `atsign = "@a"\ndevice = "b"\n[[allow]]\natsign = "@c"\ncommands = ["vnt/open", "agent/state", "v*/x", "x*/x"]\n[[allow]]\natsign = "Site-*"\ncommands = ["*/*"]\n[[driver]]\nid = "vent"\ntype = "serial"\npath = "/x"\n`,
      "/",
    );
    t.same(warnings.map(faultLine), [
      'allow[0].commands[0]: no driver has the id "vnt"; did you mean vent?',
      'allow[0].commands[3]: no driver has the id "x*"',
      "allow[1].atsign: whoever gets a name like @site-* is let in",
      "reader: nobody reads: readings are taken and go nowhere",
    ]);
  });

  t.test("file that is missing, a folder or no text says what to do", async (t) => {
    const folder = t.testdir();
    const binary = join(folder, "binary.toml");
    writeFileSync(binary, Buffer.from([0xff, 0xfe]));
    await t.rejects(loadConfig(join(folder, "none.toml")), {
      code: "CONFIG_INVALID",
      message: /config example > /,
    });
    await t.rejects(loadConfig(folder), { code: "CONFIG_INVALID", message: /is a folder/ });
    await t.rejects(loadConfig(binary), { code: "CONFIG_INVALID", message: /not UTF-8/ });
  });
});

t.test("the nearest word is one that was meant, or none", async (t) => {
  const known = ["intervalMs", "path", "baud"];
  t.equal(nearest("interval_ms", known), "intervalMs");
  t.equal(nearest("paht", known), "path");
  t.equal(nearest("colour", known), undefined);
  t.equal(nearest("x".repeat(100_000), known), undefined);
});

t.test("the example file", async (t) => {
  t.test("is a good configuration as it stands", async (t) => {
    t.same(faultsOf(exampleFile()), []);
  });

  t.test("has no key that the parser does not know, also where it is commented out", async (t) => {
    const all = exampleFile().replaceAll(/^#(?=[a-zA-Z[])/gmu, "");
    t.same(
      faultsOf(all).filter((fault) => fault.includes("unknown")),
      [],
    );
  });
});

t.test(
  "the pages made from the schema are up to date (node scripts/run.mjs scripts/config-reference.ts)",
  async (t) => {
    const root = join(import.meta.dirname, "..", "..", "..");
    t.equal(readFileSync(join(root, "docs", "reference", "config.md"), "utf8"), referencePage());
    t.equal(readFileSync(join(root, "deploy", "atedge.example.toml"), "utf8"), exampleFile());
  },
);
