import type { SerialPortInfo } from "../serial/usb-ports.js";
import type { FoundBroker } from "./brokers.js";
import type { PortHolder } from "./port-holders.js";

export interface FoundPort extends SerialPortInfo {
  readonly heldBy?: PortHolder;
}

export interface Discovered {
  readonly ports: readonly FoundPort[];
  readonly brokers: readonly FoundBroker[];
}

/** What was found as `[[driver]]` tables to paste, with a comment on each. */
export function discoveredToml({ ports, brokers }: Discovered): string {
  const ids = new Set<string>();
  return [...ports.map((port) => portTable(port, ids)), ...brokers.map((broker) => brokerTable(broker, ids))].join(
    "\n",
  );
}

function portTable(port: FoundPort, ids: Set<string>): string {
  const { path, byId, byPath, vendorId, productId, serialNumber, manufacturer, product, driver, heldBy } = port;
  const isUsb = vendorId !== undefined && productId !== undefined;
  const facts = [
    [manufacturer, product].filter((text) => text !== undefined).join(" "),
    isUsb ? `USB ${vendorId}:${productId}` : "",
    serialNumber === undefined ? "" : `serial number ${serialNumber}`,
    driver === undefined ? "" : `kernel driver ${driver}`,
    `now ${path}`,
  ].filter((fact) => fact !== "");
  // A name of the adapter survives another socket; one without a serial number is known by its socket.
  const [name] = byId.length > 0 ? byId : byPath.length > 0 ? byPath : [path];
  return lines([
    comment(facts.join(", ")),
    ...(heldBy ? [comment(`in use by ${heldBy.name || "a process"} (pid ${heldBy.pid}): end that first`)] : []),
    "[[driver]]",
    `id = ${toml(idOf(product ?? path.split("/").at(-1) ?? "serial", ids))}`,
    'type = "serial"',
    `path = ${toml(name ?? path)}`,
    "baud = 115200 # as the device has it",
    'frame = "json-lines" # or key-value, csv, nmea, …',
  ]);
}

function brokerTable({ url, isOpen, wantsCertificate, certificate }: FoundBroker, ids: Set<string>): string {
  return lines([
    comment(
      `MQTT broker that ${isOpen ? "lets everybody in" : wantsCertificate ? "asks for a certificate" : "asks for a user and a password"}`,
    ),
    ...(certificate ? [comment(`certificate of ${certificate.subject}, signed by ${certificate.issuer}`)] : []),
    ...(certificate?.distrusted === undefined
      ? []
      : [comment(`not trusted here (${certificate.distrusted}): name its authority with ca`)]),
    "[[driver]]",
    `id = ${toml(idOf("mqtt", ids))}`,
    'type = "mqtt"',
    `url = ${toml(url)}`,
    ...(isOpen || wantsCertificate ? [] : ['#username = "atedge"', '#passwordFile = "/etc/atedge/mqtt-password"']),
    ...(wantsCertificate ? ['#cert = "/etc/atedge/mqtt.pem"', '#key = "/etc/atedge/mqtt.key"'] : []),
    ...(certificate?.distrusted === undefined ? [] : ['#ca = "/etc/atedge/broker-ca.pem"']),
    '# What to take, such as topic = "bench/+/temperature", name = "temperature.{1}"; or a preset.',
    "#[[driver.reading]]",
  ]);
}

/** An id of its own out of what the device calls itself. */
function idOf(text: string, ids: Set<string>): string {
  const slug =
    text
      .toLowerCase()
      .replaceAll(/[^a-z0-9]+/gu, "-")
      .replaceAll(/^-+|-+$/gu, "")
      .slice(0, 26) || "driver";
  let id = slug;
  for (let n = 2; ids.has(id); n += 1) id = `${slug}-${n}`;
  ids.add(id);
  return id;
}

const lines = (all: readonly string[]): string => `${all.join("\n")}\n`;
/** What a device says of itself must not begin a line of the file. */
const comment = (text: string): string => `# ${text.replaceAll(/[\u0000-\u001f\u007f]/gu, " ")}`;
/** TOML's basic strings are what JSON writes. */
const toml = (text: string): string => JSON.stringify(text);
