import * as v from "valibot";
import {
  commandEntries,
  doc,
  driverId,
  fieldEntries,
  filePath,
  integer,
  parseWith,
  pointer,
  template,
} from "../config-parts.js";
import { parseTopic, parseTopicFilter } from "./topic-filter.js";

const url = v.pipe(
  v.string(),
  v.check((text) => {
    const parsed = URL.canParse(text) ? new URL(text) : undefined;
    return (
      /^mqtts?:$/u.test(parsed?.protocol ?? "") &&
      !parsed?.username &&
      !parsed?.password &&
      ["", "/"].includes(parsed?.pathname ?? "")
    );
  }, "expected mqtt://HOST:PORT or mqtts://HOST:PORT, no user, password or path in it"),
  doc("The broker; mqtts is TLS. Ports 1883 and 8883 unless given."),
  v.examples(["mqtt://localhost:1883"]),
);

const reading = v.strictObject({
  topic: v.pipe(
    v.string(),
    v.examples(["bench/+/temperature"]),
    parseWith(parseTopicFilter),
    doc("Topic filter; what each + and # stands for is {1}, {2} … in `name`."),
  ),
  ...fieldEntries,
  qos: v.optional(
    v.pipe(
      v.picklist([0, 1]),
      doc("1: a message is acknowledged when its readings are safe in the outbox, and the broker keeps it until then."),
    ),
    1,
  ),
  retained: v.optional(
    v.pipe(
      v.boolean(),
      doc("false passes over the retained message that a broker sends at each subscription, which may be old."),
    ),
    true,
  ),
});

const command = v.strictObject({
  ...commandEntries,
  topic: v.pipe(
    v.string(),
    parseWith(parseTopic),
    doc("Where it is published; `{name}` stands for an argument."),
    v.examples(["bench/lamp/set"]),
  ),
  payload: v.optional(
    v.pipe(
      template,
      doc(
        'What is published, such as {"state":"{state}"}: `{name}` stands for an argument. Left out: the arguments as JSON.',
      ),
    ),
  ),
  qos: v.optional(
    v.pipe(v.picklist([0, 1]), doc("1: the broker has acknowledged it when the command counts as sent.")),
    1,
  ),
  retain: v.optional(v.pipe(v.boolean(), doc("true has the broker keep it for later subscribers.")), false),
  answerTopic: v.optional(
    v.pipe(
      v.string(),
      parseWith(parseTopic),
      doc(
        "Where the device answers or publishes its state; the next message there is the answer. Left out: none is waited for.",
      ),
      v.examples(["bench/lamp"]),
    ),
  ),
  answerPointer: v.optional(v.pipe(pointer, doc("What of the answer goes to the caller; empty: all of it.")), ""),
  correlate: v.optional(
    v.pipe(
      v.boolean(),
      doc(
        "true, in version 5: the command names a response topic (`answerTopic`, or one of our own) and carries correlation data, and only the message that carries the same is its answer.",
      ),
    ),
    false,
  ),
});

const will = v.strictObject({
  topic: v.pipe(v.string(), parseWith(parseTopic), doc("Where it is published."), v.examples(["atedge/north/status"])),
  payload: v.optional(
    v.pipe(
      v.string(),
      v.maxLength(4096),
      doc("What the broker publishes when it loses us, and we ourselves before we leave."),
    ),
    "offline",
  ),
  online: v.optional(
    v.pipe(v.string(), v.maxLength(4096), doc("What we publish there whenever we are connected; empty: nothing.")),
    "online",
  ),
  qos: v.optional(v.pipe(v.picklist([0, 1]), doc("Quality of service of both.")), 1),
  retain: v.optional(v.pipe(v.boolean(), doc("true has the broker keep it for later subscribers.")), true),
});

/** Keys of `type = "mqtt"`. */
export const mqttSchema = v.pipe(
  v.strictObject({
    id: driverId,
    type: v.literal("mqtt"),
    url,
    version: v.optional(v.pipe(v.picklist(["3.1.1", "5"]), doc("Protocol version.")), "3.1.1"),
    clientId: v.optional(
      v.pipe(
        v.string(),
        v.regex(/^[A-Za-z0-9_-]{1,64}$/u, "expected letters, digits, _ and -"),
        doc(
          "Name of the session at the broker, the same after every restart. Left out: made once; another one when the card is copied to another machine.",
        ),
      ),
    ),
    username: v.optional(v.pipe(v.string(), v.nonEmpty(), doc("User name at the broker."))),
    passwordFile: v.optional(v.pipe(filePath, doc("File with the password; one line end at its end does not count."))),
    ca: v.optional(
      v.pipe(filePath, doc("PEM file with the certificate authority of the broker; only this one is trusted then.")),
    ),
    cert: v.optional(v.pipe(filePath, doc("PEM file with our certificate, when the broker asks for one."))),
    key: v.optional(v.pipe(filePath, doc("PEM file with the private key for `cert`."))),
    serverName: v.optional(
      v.pipe(v.string(), v.nonEmpty(), doc("Name in the broker's certificate, when it is not the host.")),
    ),
    keepAliveSeconds: v.optional(
      v.pipe(integer(5, 3600), doc("A broker that is silent for longer counts as gone, in seconds.")),
      30,
    ),
    sessionExpirySeconds: v.optional(
      v.pipe(
        integer(0, 4_294_967_295),
        doc(
          "How long the broker keeps our session while we are away, in seconds; 0: not at all. Other values count in version 5 only.",
        ),
      ),
      604_800,
    ),
    maxPending: v.optional(
      v.pipe(integer(1, 65_535), doc("Messages on their way into the outbox at most; then no more are read.")),
      1024,
    ),
    maxMessageBytes: v.optional(
      v.pipe(integer(1024, 16_777_216), doc("A longer message is dropped and counted.")),
      262_144,
    ),
    will: v.optional(v.pipe(will, doc("Last will: tells other clients of the broker whether we are there."))),
    preset: v.optional(
      v.pipe(
        v.array(
          v.strictObject({
            kind: v.pipe(
              v.picklist(["zigbee2mqtt", "tasmota", "shelly", "home-assistant"]),
              doc("What speaks at the broker; its devices' readings and commands then need no tables of their own."),
            ),
            prefix: v.optional(
              v.pipe(
                v.string(),
                parseWith(parseTopic),
                doc(
                  "First part of the topics of zigbee2mqtt and home-assistant, when it is not `zigbee2mqtt` or `homeassistant`.",
                ),
              ),
            ),
          }),
        ),
        v.maxLength(8),
        doc("Readings and commands of well-known systems."),
      ),
      [],
    ),
    reading: v.optional(v.pipe(v.array(reading), doc("What to take from which topics.")), []),
    command: v.optional(v.pipe(v.array(command), doc("What can be published on command.")), []),
  }),
  v.forward(
    v.partialCheck(
      [["cert"], ["key"]],
      ({ cert, key }) => (cert === undefined) === (key === undefined),
      "expected both cert and key, or none",
    ),
    ["cert"],
  ),
  v.forward(
    v.partialCheck(
      [["version"], ["command"]],
      ({ version, command }) => version === "5" || !command.some(({ correlate }) => correlate),
      'expected version = "5": correlation data is new in it',
    ),
    ["version"],
  ),
  doc("An MQTT broker, 3.1.1 or 5."),
);

export type MqttConfig = v.InferOutput<typeof mqttSchema>;
export type MqttReading = MqttConfig["reading"][number];
export type MqttCommand = MqttConfig["command"][number];
