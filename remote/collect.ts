import { EdgeError } from "../core/errors.js";
import type { Log } from "../core/log.js";
import { TaskGroup } from "../core/scope.js";
import { type DeviceAddress, namespaceOf, parseAddress } from "../messages/names.js";
import type { CollectFile } from "./collect-file.js";
import type { Incoming, Platform } from "./platform.js";
import { senmlLines, type LineSink } from "./senml-lines.js";
import type { Login } from "./session.js";
import { watch } from "./watch.js";

export interface CollectOptions {
  readonly login: Login;
  /** Whose devices: all of an owner, or one. */
  readonly subjects: readonly CollectSubject[];
  readonly ns: string;
  /** The name on our receipts. */
  readonly consumer: string;
  readonly file: CollectFile;
  readonly sink: LineSink;
  readonly log: Log;
  /** A device is followed from now on. */
  readonly onDevice?: (owner: string, device: string) => void;
}

export interface CollectSubject {
  readonly owner: string;
  /** Left out: whichever writes to us. */
  readonly device?: string;
}

/** More devices than this are a matter for several collectors, which share the work by atSign. */
const MAX_DEVICES = 1000;
/** Messages of a device that wait while its key is looked up; more come again, for they were not receipted. */
const MAX_WAITING = 256;

/**
 * Follows any number of devices over one monitor, until `signal` aborts. A message is in the sink before it is
 * receipted, so it comes at least once, also after a crash.
 */
export async function collect(options: CollectOptions, signal: AbortSignal): Promise<void> {
  const { login, subjects, ns, file, log, onDevice } = options;
  await using tasks = new TaskGroup(signal);
  const devices = new Map<string, Inbox>();

  const follow = (owner: string, address: DeviceAddress): Inbox => {
    const name = subjectOf(owner, address);
    const inbox = new Inbox();
    devices.set(name, inbox);
    onDevice?.(owner, address.device);
    tasks.start(async (signal) => {
      try {
        await followOne(owner, address, inbox, options, signal);
      } catch (error) {
        if (signal.aborted || !(error instanceof EdgeError)) throw error;
        // One device is no reason to lose the others; it is taken up again when it writes.
        log.error({ err: error, device: name }, "a device is not followed any more");
      } finally {
        devices.delete(name);
      }
    });
    return inbox;
  };

  for (const { owner, device } of subjects) if (device !== undefined) follow(owner, parseAddress(device, ns));
  tasks.start(async (signal) => {
    const any = login.withDevice(login.client.atSign, { device: "collect", ns }).platform;
    const regex = `telemetry\\.[a-z][a-z0-9-]*\\.${ns}@`;
    for await (const incoming of any.notifications({ regex, resume: file.resume }, signal)) {
      const address = addressOf(incoming.key, ns);
      if (!address || !isWanted(subjects, incoming.from, address.device)) continue;
      const known = devices.get(subjectOf(incoming.from, address));
      if (!known && devices.size >= MAX_DEVICES)
        log.warn({ devices: devices.size }, "too many devices: one is left out");
      else (known ?? follow(incoming.from, address)).push(incoming);
    }
  });
  await tasks.join();
}

async function followOne(
  owner: string,
  address: DeviceAddress,
  inbox: Inbox,
  { login, consumer, file, sink, log }: CollectOptions,
  signal: AbortSignal,
): Promise<void> {
  const { platform, trust, outbound } = login.withDevice(owner, address);
  const store = file.storeOf(subjectOf(owner, address), (message, receivedMs) =>
    sink.write(senmlLines(message, owner, address.device), receivedMs),
  );
  const shared: Platform = { ...platform, notifications: (_, signal) => inbox.read(signal) };
  const resume = { load: () => undefined, save: () => Promise.resolve() }; // the one monitor has it
  const onEvent = (event: { readonly type: string; readonly message?: unknown }): void => {
    if (event.type === "refused")
      log.warn({ owner, device: address.device, why: event.message }, "a message is refused");
  };
  const child = log.child({ owner, device: address.device });
  const options = { platform: shared, trust, owner, address, store, onEvent, log: child };
  await watch({ ...options, consumer: { name: consumer, outbound, resume } }, signal);
}

/** Messages of one device on their way from the monitor to its watch. */
class Inbox {
  readonly #waiting: Incoming[] = [];
  #wake: (() => void) | undefined;

  push(incoming: Incoming): void {
    if (this.#waiting.length >= MAX_WAITING) return;
    this.#waiting.push(incoming);
    this.#wake?.();
  }

  async *read(signal: AbortSignal): AsyncGenerator<Incoming, void> {
    for (;;) {
      for (let next = this.#waiting.shift(); next; next = this.#waiting.shift()) yield next;
      signal.throwIfAborted();
      await new Promise<void>((resolve) => {
        const done = (): void => {
          signal.removeEventListener("abort", done);
          this.#wake = undefined;
          resolve();
        };
        this.#wake = done;
        signal.addEventListener("abort", done);
      });
    }
  }
}

function addressOf(key: string, ns: string): DeviceAddress | undefined {
  const [kind, device, ...rest] = key.split(".");
  if (kind !== "telemetry" || device === undefined || rest.join(".") !== ns) return undefined;
  try {
    return parseAddress(device, ns);
  } catch {
    return undefined;
  }
}

const isWanted = (subjects: readonly CollectSubject[], owner: string, device: string): boolean =>
  subjects.some((subject) => subject.owner === owner && (subject.device === undefined || subject.device === device));

const subjectOf = (owner: string, address: DeviceAddress): string => `${owner}/${namespaceOf(address)}`;
