import { realpath } from "node:fs/promises";
import type { Clock } from "../core/clock.js";
import type { DriverDeps } from "../core/driver.js";
import { EdgeError, TimedOut } from "../core/errors.js";
import type { Port } from "../core/port.js";
import { ChildSignal, type Disposable, untilAborted } from "../core/scope.js";
import { within } from "./within.js";

/** Another driver has the port for itself, for as long as it needs: new firmware, say. */
export class PortLeased extends EdgeError {
  override readonly code: string = "PORT_LEASED";
}

/** How long an opening waits for the end of a lease before it fails, and is tried again. */
const PATIENCE_MS = 30_000;

interface Lease {
  readonly driver: string;
  readonly ended: Promise<void>;
}

/**
 * Gives a driver a port that others use, too: their open ports on it close, so that these drivers end, and none is
 * opened until the lease ends. What they have read is published; what the device says meanwhile is the holder's.
 */
export class PortLeases {
  readonly #openPort: DriverDeps["openPort"];
  readonly #clock: Clock;
  readonly #open = new Set<SharedPort>();
  /** By the device's own path, so that a by-id name and another one are the same. */
  readonly #leases = new Map<string, Lease>();

  constructor({ openPort, clock }: { readonly openPort: DriverDeps["openPort"]; readonly clock: Clock }) {
    this.#openPort = openPort;
    this.#clock = clock;
  }

  /** @throws {PortLeased} when another driver keeps the port for long. */
  async open(driver: string, ...[path, options, signal]: Parameters<DriverDeps["openPort"]>): Promise<Port> {
    const device = await deviceOf(path);
    for (;;) {
      await this.#untilFree(driver, device, path, signal);
      const port = new SharedPort(driver, device, await this.#openPort(path, options, signal), () =>
        this.#open.delete(port),
      );
      this.#open.add(port);
      const lease = this.#leases.get(device);
      if (!lease || lease.driver === driver) return port;
      await port.take(leasedTo(path, lease.driver)); // it began while we opened
    }
  }

  /** Waits until no other driver has the lease, and until those that have the port open have closed it. */
  async lease(driver: string, path: string, signal: AbortSignal): Promise<Disposable> {
    const device = await deviceOf(path);
    for (let lease = this.#leases.get(device); lease; lease = this.#leases.get(device)) {
      await untilAborted(lease.ended, signal);
    }
    let end: () => void = () => undefined;
    const ended = new Promise<void>((resolve) => (end = resolve));
    this.#leases.set(device, { driver, ended });
    const release = async (): Promise<void> => {
      this.#leases.delete(device);
      end();
    };
    const others = [...this.#open].filter((port) => port.device === device && port.driver !== driver);
    await Promise.all(others.map((port) => port.take(leasedTo(path, driver))));
    return { [Symbol.asyncDispose]: release };
  }

  async #untilFree(driver: string, device: string, path: string, signal: AbortSignal): Promise<void> {
    for (let lease = this.#leases.get(device); lease && lease.driver !== driver; lease = this.#leases.get(device)) {
      const { ended, driver: holder } = lease;
      const options = { ms: PATIENCE_MS, clock: this.#clock, what: `wait for ${path}` };
      await within(() => ended, options, signal).catch((error: unknown) => {
        throw error instanceof TimedOut ? leasedTo(path, holder) : error;
      });
    }
  }
}

const leasedTo = (path: string, holder: string): PortLeased =>
  new PortLeased(`${path} belongs to ${holder} until its work there is done`);

async function deviceOf(path: string): Promise<string> {
  return realpath(path).catch(() => path);
}

/** A port that can be taken from the driver that opened it. */
class SharedPort implements Port {
  readonly driver: string;
  readonly device: string;
  readonly #port: Port;
  readonly #onClose: () => void;
  readonly #taken = new AbortController();

  constructor(driver: string, device: string, port: Port, onClose: () => void) {
    this.driver = driver;
    this.device = device;
    this.#port = port;
    this.#onClose = onClose;
  }

  get path(): string {
    return this.#port.path;
  }

  async *read(signal: AbortSignal): AsyncGenerator<Uint8Array> {
    const taken = this.#taken.signal;
    await using either = new ChildSignal(signal);
    const end = (): void => either.abort();
    taken.addEventListener("abort", end, { once: true });
    try {
      if (!taken.aborted) yield* this.#port.read(either.signal);
    } finally {
      taken.removeEventListener("abort", end);
    }
    taken.throwIfAborted();
  }

  async write(bytes: Uint8Array, signal: AbortSignal): Promise<void> {
    this.#taken.signal.throwIfAborted();
    await untilAborted(this.#port.write(bytes, signal), this.#taken.signal);
  }

  /** Closes it under its driver, which is told why. */
  async take(why: PortLeased): Promise<void> {
    this.#taken.abort(why);
    await this[Symbol.asyncDispose]();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#onClose();
    await this.#port[Symbol.asyncDispose]();
  }
}
