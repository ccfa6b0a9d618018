import { readdir, readFile, realpath } from "node:fs/promises";
import { dirname, join, relative } from "node:path";
import { SyntaxInvalid } from "../../core/errors.js";

/** A serial port, and of a USB adapter what it says of itself. */
export interface SerialPortInfo {
  readonly path: string;
  /** Names under /dev/serial/by-id that lead to it. */
  readonly byId: readonly string[];
  /** Names under /dev/serial/by-path, of the socket that it is plugged in. */
  readonly byPath: readonly string[];
  /** Of the kernel, such as `cdc_acm`. */
  readonly driver?: string;
  /** USB identifiers, four hex digits each. */
  readonly vendorId?: string;
  readonly productId?: string;
  readonly serialNumber?: string;
  readonly manufacturer?: string;
  readonly product?: string;
}

/** A USB adapter by its identifiers, where the socket does not matter. */
export interface UsbMatch {
  readonly vendorId: string;
  readonly productId: string;
  readonly serialNumber?: string;
}

/** Where the kernel's files are; tests have a tree of their own. */
export interface SerialRoots {
  readonly sys: string;
  readonly dev: string;
}

export const SYSTEM_ROOTS: SerialRoots = { sys: "/sys", dev: "/dev" };

/** Vendor, product and, where there are two of a kind, serial number: `2341:0043` or `2341:0043:5573`. */
export function parseUsbMatch(text: string): UsbMatch {
  const { vendor, product, serial } =
    /^(?<vendor>[0-9a-f]{4}):(?<product>[0-9a-f]{4})(?::(?<serial>[\x21-\x7e]{1,126}))?$/iu.exec(text)?.groups ?? {};
  if (vendor === undefined || product === undefined) {
    throw new SyntaxInvalid("expected VENDOR:PRODUCT or VENDOR:PRODUCT:SERIAL, four hex digits each");
  }
  const match = { vendorId: vendor.toLowerCase(), productId: product.toLowerCase() };
  return serial === undefined ? match : { ...match, serialNumber: serial };
}

/** The ports of this machine that belong to a device, ordered by path; bare 8250 slots without one are left out. */
export async function listSerialPorts(roots = SYSTEM_ROOTS): Promise<SerialPortInfo[]> {
  const names = await readdir(join(roots.sys, "class", "tty")).catch(() => []);
  const byId = await linksTo(join(roots.dev, "serial", "by-id"));
  const byPath = await linksTo(join(roots.dev, "serial", "by-path"));
  const ports: SerialPortInfo[] = [];
  for (const name of names.sort()) {
    const device = await realpath(join(roots.sys, "class", "tty", name, "device")).catch(() => undefined);
    if (device === undefined) continue;
    const driver = await driverOf(device);
    const uart = await text(join(roots.sys, "class", "tty", name, "type"));
    if (driver === "serial8250" && (uart ?? "0") === "0") continue;
    ports.push({
      path: join(roots.dev, name),
      byId: byId.get(name) ?? [],
      byPath: byPath.get(name) ?? [],
      ...(driver === undefined ? {} : { driver }),
      ...(await usbOf(device, roots.sys)),
    });
  }
  return ports;
}

/** The ports that the identifiers fit. */
export async function findUsbPorts(match: UsbMatch, roots = SYSTEM_ROOTS): Promise<SerialPortInfo[]> {
  const ports = await listSerialPorts(roots);
  return ports.filter(
    (port) =>
      port.vendorId === match.vendorId &&
      port.productId === match.productId &&
      (match.serialNumber === undefined || port.serialNumber === match.serialNumber),
  );
}

/** Walks up from the port's device to the USB device that it is a part of. */
async function usbOf(device: string, sys: string): Promise<Partial<SerialPortInfo>> {
  const root = await realpath(sys);
  for (let at = device; !relative(root, at).startsWith("..") && at !== root; at = dirname(at)) {
    const vendorId = await text(join(at, "idVendor"));
    const productId = await text(join(at, "idProduct"));
    if (vendorId === undefined || productId === undefined) continue;
    const serialNumber = await text(join(at, "serial"));
    const manufacturer = await text(join(at, "manufacturer"));
    const product = await text(join(at, "product"));
    return {
      vendorId: vendorId.toLowerCase(),
      productId: productId.toLowerCase(),
      ...(serialNumber === undefined ? {} : { serialNumber }),
      ...(manufacturer === undefined ? {} : { manufacturer }),
      ...(product === undefined ? {} : { product }),
    };
  }
  return {};
}

/** Since Linux 6.5 a port hangs below two devices of the serial core, whose drivers say nothing of the hardware. */
async function driverOf(device: string): Promise<string | undefined> {
  const link = await realpath(join(device, "driver")).catch(() => undefined);
  const driver = link?.split("/").at(-1);
  return driver === "port" || driver === "ctrl" ? driverOf(dirname(device)) : driver;
}

/** Names in a folder of symbolic links, by the last part of what they lead to. */
async function linksTo(folder: string): Promise<Map<string, string[]>> {
  const found = new Map<string, string[]>();
  for (const name of (await readdir(folder).catch(() => [])).sort()) {
    const target = await realpath(join(folder, name)).catch(() => undefined);
    const port = target?.split("/").at(-1);
    if (port !== undefined) found.set(port, [...(found.get(port) ?? []), join(folder, name)]);
  }
  return found;
}

async function text(file: string): Promise<string | undefined> {
  try {
    return (await readFile(file, "utf8")).trim() || undefined;
  } catch {
    return undefined;
  }
}
