import { listSerialPorts, SYSTEM_ROOTS } from "../serial/usb-ports.js";
import { findBroker, type FoundBroker } from "./brokers.js";
import type { Discovered } from "./discovered-toml.js";
import { holdersOf } from "./port-holders.js";

/** Where brokers listen unless told otherwise. */
const BROKER_PORTS = [
  { port: 1883, tls: false },
  { port: 8883, tls: true },
] as const;

/** The serial ports of this machine, and the brokers that answer on the hosts. */
export async function discover(
  hosts: readonly string[],
  signal: AbortSignal,
  roots = SYSTEM_ROOTS,
): Promise<Discovered> {
  const asked = hosts.flatMap((host) => brokersToAsk(host).map((where) => findBroker(where, signal)));
  const ports = await listSerialPorts(roots);
  const holders = await holdersOf(ports.map(({ path }) => path));
  const brokers = (await Promise.all(asked)).filter((broker): broker is FoundBroker => broker !== undefined);
  return {
    ports: ports.map((port) => {
      const heldBy = holders.get(port.path);
      return { ...port, ...(heldBy ? { heldBy } : {}) };
    }),
    brokers,
  };
}

/** `HOST` on both ports; `HOST:PORT` on that one, plain and with TLS. */
function brokersToAsk(
  text: string,
): readonly { readonly host: string; readonly port: number; readonly tls: boolean }[] {
  const { host, port } = /^(?<host>[^:]+):(?<port>\d{1,5})$/u.exec(text)?.groups ?? {};
  if (host === undefined || port === undefined) return BROKER_PORTS.map((where) => ({ host: text, ...where }));
  return [false, true].map((tls) => ({ host, port: Math.min(65_535, Number(port)), tls }));
}
