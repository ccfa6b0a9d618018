import t from "tap";
import { faultLine, parseConfig } from "../../../agent/config/parse.js";

const HEAD = `atsign = "@a"\ndevice = "b"\n[[reader]]\natsign = "@c"\n`;

void t.test("file names in a driver's table count from the folder of the configuration", async (t) => {
  const { config } = parseConfig(
    `${HEAD}
[[driver]]
id = "m"
type = "mqtt"
url = "mqtts://broker"
username = "u"
passwordFile = "secrets/mqtt"
ca = "/etc/ssl/broker.pem"
[[driver]]
id = "host"
type = "host"
disks = ["/", "data"]
[[driver]]
id = "vent"
type = "serial"
path = "tty/vent"
frame = "delimited"
delimiter = "0d0a"
[[driver.reading]]
pointer = "/t"
name = "t"
[[driver.command]]
name = "set"
line = "SET {n}"
args = { n = { type = "number" } }
[[driver]]
id = "kitchen"
type = "simulated"
shape = "replay"
file = "kitchen.csv"
[[driver]]
id = "own"
type = "exec"
program = "thermometer.py"
folder = "exec"
[[driver]]
id = "press"
type = "link"
path = "tty/press"
`,
    "/etc/site",
  );
  const [mqtt, host, serial, replay, exec, link] = config.driver;
  t.match(mqtt, { passwordFile: "/etc/site/secrets/mqtt", ca: "/etc/ssl/broker.pem", url: "mqtts://broker" });
  t.match(host, { disks: ["/", "/etc/site/data"], root: "/" });
  t.match(serial, {
    path: "/etc/site/tty/vent",
    delimiter: Buffer.from("\r\n"),
    reading: [{ pointer: ["t"] }],
    command: [{ line: { kind: "text", text: "SET {n}" } }],
  });
  t.match(replay, { file: "/etc/site/kitchen.csv" });
  t.match(exec, { folder: "/etc/site/exec", program: "thermometer.py" });
  t.match(link, { path: "/etc/site/tty/press" });
});

void t.test("two drivers with a reading of one name are told of", async (t) => {
  const { warnings } = parseConfig(
    `${HEAD}
[[driver]]
id = "north"
type = "simulated"
name = "temperature"
[[driver]]
id = "south"
type = "serial"
path = "/dev/ttyS0"
[[driver.reading]]
name = "temperature"
[[driver.reading]]
name = "humidity"
[[driver.reading]]
name = "humidity"
[[driver]]
id = "panel"
type = "gpio"
input = [{ line = 1, name = "door" }, { line = 2, name = "humidity" }]
`,
    "/",
  );
  t.strictSame(warnings.map(faultLine), [
    'driver[1].reading[0].name: driver "north" gives a reading called "temperature" too; readers cannot tell them apart',
    'driver[2].input[1].name: driver "south" gives a reading called "humidity" too; readers cannot tell them apart',
  ]);
});
